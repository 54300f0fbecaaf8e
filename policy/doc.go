// Package policy decides who may be logged in to an account at once: given the logins that there are and a new one, it
// says whether the new one is admitted and which others end for it. It decides nothing else and changes nothing.
//
// [Rules] say what is allowed; they are Go values or JSON ([ParseJSON]). [New] makes a [Policy] of them, [Policy.Decide]
// asks it. The zero Rules allow 4 logins on each platform, where the earliest makes room. [Presets] have the usual ones.
//
// # Purity
//
// A [Policy] has no clock, no I/O, no lock and no goroutine. The same logins, newcomer and time give the same [Decision],
// whatever the order of the logins. The caller makes the decision take effect, in one step with the check of what it was
// based on.
//
// # Rules
//
// Rules are asked in written order, and each sees what the ones before it left:
//
//  1. [RuleDevice]: other logins of the newcomer's device are replaced. They free their slots, so a device that logs in
//     again takes no further one.
//  2. [RuleSingle], if on: every other login ends.
//  3. [RulePlatform]: logins that hold a slot on the newcomer's platform, the newcomer included, stay within the limit.
//     It never touches another platform.
//  4. [RuleGroup], for each of the Groups that the newcomer's platform is in, as they are listed: the same over all
//     platforms of the group.
//  5. [RuleTotal], if set: the same over all platforms.
//  6. [RuleAccount]: a safety bound on all logins of the account, slot or not. It ends only logins without a slot, the
//     earliest first, whatever their platform. If they are too few, it refuses.
//
// All excess of a rule ends at once. A login that one rule ends is gone for the rules after it, so that it ends once.
// Finally, victims whose end was not needed are spared, the last chosen first. A refusal by any rule ends no login. A
// login ends for one of another platform only by RuleDevice, RuleSingle, a group, Total or RuleAccount.
//
// # At a limit
//
// The [Action] of a limit says what happens: one of three orders of eviction, refusal, or a question to the host. Whatever
// it is, the following come first:
//
//   - A closed platform (limit 0) refuses, and so does the safety bound if too few logins are without a slot.
//   - A newcomer with the wish [NeverEvict], and with [ReconnectRefused] a login that comes back, is refused.
//   - A login of the primary device does not end ([PrimaryRule]). With MinAge, an older login does not end for a device that
//     is too new. If too few logins are left that may end, the newcomer is refused.
//
// [Decision.Cause] tells these apart. A wish to [ForceEvict] turns a refusal into an eviction, if AllowForce is set.
// [Decision.Need] says how many logins must end before the newcomer gets in.
//
// # Asking the host
//
// With [AskHost] the verdict is [Ask], and the victims are the candidates to choose from. The caller asks, outside any
// step or lock, and hands the [Answer] to [Policy.Resolve], which decides anew. It checks the answer against the limits:
// nobody ends who need not, and what the answer leaves undone is done by the action Unanswered, so also if there is no
// answer at all.
//
// # Slots and reconnects
//
// What counts at limits are logins that hold a slot: those online or within their resume window ([SlotOnline]), or all
// that have not ended ([SlotEveryLogin]). A login without a slot that comes back is a newcomer with Newcomer.Login set.
// Without a slot a login counts for RuleAccount alone, and is the first to go there: logins that were left behind and
// never logged out, such as those of private browser windows, do not lock an account out. With MinAge they do lock out a device
// that is too new, as below, until they have been idle for too long.
//
// # Platforms
//
// Known are android, ios, web, windows, macos, linux, harmony and those that Rules.Platforms names. A platform is compared
// as it is, in the form that [event.ParsePlatform] returns; anything else is unknown, the empty one too. Unknown platforms
// are refused, or counted together as "other", so that a made-up name never opens a bucket of its own.
//
// # Age
//
// Which login is earlier is a matter of the admission number, never of a clock. Two knobs do look at times that the caller
// gives: [EvictLeastActive], and MinAge.
//
// MinAge keeps a thief with the password from throwing the owner out. Until the account has known a device for that long,
// the device ends only logins of devices that are younger than itself: by logging in, by taking a login's place
// ([Policy.MayReplace]) or by a kick ([Policy.MayEnd]). Logins of its own device it may always end. A device that the
// account does not know is the newest of all: while its platform is full it is refused, and only an older login or the
// host can make room.
//
// A time gives no right by accident. Two devices that are known since the same millisecond are protected from each
// other. A time after the decision's own comes from a clock that was ahead and says nothing: it protects a login from
// every device that is too new, and a device that has it counts as the newest, until the caller has put it right.
//
// # Explanations and rules that change
//
// [Policy.Explain] says what would happen and why, by the same code. New rules are a new Policy; they hold from the next
// decision on. [Policy.Enforce] names whom they would end at once, and [Tally] counts that over many accounts.
//
// # Errors
//
// [New] and [ParseJSON] report all faults of rules together, each an [*event.InvalidError] with the path to it. Decisions
// have no errors: what is not allowed is refused.
//
// # Concurrency
//
// A Policy never changes. It is safe for concurrent use.
package policy
