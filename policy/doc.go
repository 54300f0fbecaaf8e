// Package policy decides who may be logged in to an account at once: given the logins that there are and a new one, it
// says whether the new one is admitted and which others end for it. It decides nothing else and changes nothing.
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
//     All excess ends at once, earliest admission first. It never touches another platform.
//  4. [RuleAccount]: a safety bound on the logins of the account, slot or not. It refuses and ends nobody.
//
// A login that one rule ends is gone for all rules after it, so nobody ends twice and nobody ends in vain: without any
// one of the victims, some rule would be broken. A refusal by any rule ends nobody.
//
// # Platforms
//
// Known are android, ios, web, windows, macos, linux, harmony and those that [Rules] name. A platform is compared as it
// is, in the form that [event.ParsePlatform] returns; anything else is unknown, the empty one too. Unknown platforms are
// refused, or counted together as "other", so that a made-up name never opens a bucket of its own.
//
// # Age
//
// Which login is earlier is a matter of the admission number, never of a clock.
//
// # Concurrency
//
// A Policy never changes. It is safe for concurrent use.
package policy
