package session

import (
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// Stats says what the registry has done since it was made, and how things are now. Counters only rise; gauges go up and down.
// Numbers are read one after another, while others go on. They are those of this node.
type Stats struct {
	Logins      uint64 // logins admitted by Login and LoginReplacing
	NewDevices  uint64 // of them, those of devices that the account did not know
	Attaches    uint64 // connections attached
	Resumes     uint64 // of them, those of logins that had a connection before, as far as this node knows
	Comebacks   uint64 // of them, those of logins that had lost their slot and were admitted again
	Kicks       uint64 // calls of Kick, Logout, RemoveDevice, Ban and DeleteAccount that were carried out
	NewPolicies uint64 // calls of SetPolicy, and of Enforce that were no rehearsal

	// Refused counts calls that ended with an error, by why: Login, LoginReplacing, Attach, Authenticate, Kick, Logout,
	// RemoveDevice, Ban, Unban, DeleteAccount, SetPrimary and Park. It has every one of [Refusals], and "group:NAME" for
	// each group of the policy. Of groups in policies of Config.DecidePolicy it has the first 64 that have refused;
	// [RefusedGroup] is the sum over the others.
	Refused map[Refusal]uint64
	// Ended counts logins that have ended, by why. It has every one of [event.Reasons]; most of them end no login. Evictions
	// are the sum of evicted_quota and evicted_single. Ends that another node has committed are counted there.
	Ended map[event.Reason]uint64
	// Closed counts connections that have ended, by what they were told. It has every one of [event.Reasons], and "" for reasons
	// of the host's that are none of them. A login that ends takes its connections with it, so they are counted here, too.
	Closed map[event.Reason]uint64
	// Hooks says what became of calls of the host's code. It has every one of [Hooks].
	Hooks map[Hook]HookStats

	SendFailures   uint64 // calls of Conn.Send that failed, because of neither their context nor the end of the connection
	SendPanics     uint64 // of them, those that panicked
	StoreFailures  uint64 // calls of the store that failed or had no answer at their deadline; conflicts and cancelled calls do not count
	StoreConflicts uint64 // commits that another one came before; they are tried again
	TidyFailures   uint64 // accounts that the sweep or the janitor could not bring up to date; they are tried again
	Cleanings      uint64 // times that the janitor was through with all accounts
	Cleaned        uint64 // accounts that it has looked at
	LeasesLost     uint64 // times that the node has lost its lease, and its connections with it
	LooksRefused   uint64 // questions of other nodes that were left out, since too many were asked at once
	LogFailures    uint64 // log lines that the host's handler did not take: it returned an error, panicked, or was too slow

	Connections int           // gauge: attached now; several per login if its tabs share it
	Online      int           // gauge: logins that are online
	Away        int           // gauge: logins of which every connection is in background
	Lingering   int           // gauge: logins without a connection that this node waits for; others are known from the store alone
	Accounts    int           // gauge: accounts in memory
	Waiting     int           // gauge: calls that wait for another one of the same account
	Hot         event.Account // the account for which most of them wait; empty: none does
	HotWaiting  int           // gauge: how many that are
	Records     int           // gauge: accounts whose record is cached; at most 16,384
	RecordBytes int           // gauge: what these take; at most 64 MiB
	Draining    bool          // Drain or Close was called
}

// Refusal says why a call was turned down. The rules of the policy are refusals of the same name, such as "platform"; so are
// [RuleHost] and [RuleReplace].
type Refusal string

// Refusals in addition to the rules.
const (
	RefusedBanned     Refusal = "banned"          // a [*BannedError] of a ban
	RefusedDeleted    Refusal = "account_deleted" // the same, since the account was deleted for good
	RefusedLoginRate  Refusal = "login_rate"      // too many logins of the account or the device
	RefusedAttachRate Refusal = "attach_rate"     // too many attaches of the account or the login
	RefusedNodeRate   Refusal = "node_rate"       // too many attaches of the node
	RefusedFlapping   Refusal = "flapping"        // devices evict each other in turns
	RefusedRecordFull Refusal = "record_full"     // a [*RecordFullError]
	RefusedParked     Refusal = "too_many_parked" // [ErrTooManyParked]
	RefusedProtected  Refusal = "protected"       // a [*ProtectedError]
	RefusedHook       Refusal = "hook"            // a [*HookError]
	RefusedChanging   Refusal = "changing"        // a [*ChangingError]
	RefusedUnknown    Refusal = "unknown"         // [ErrUnknownLogin]: no such login, or a wrong token
	RefusedEnded      Refusal = "ended"           // an [*EndedError]
	RefusedFenced     Refusal = "fenced"          // a [*FencedError]: a newer connection came first
	RefusedNotFound   Refusal = "not_found"       // [ErrNotFound], of calls that are about a login or device
	RefusedDraining   Refusal = "draining"        // [ErrDraining]
	RefusedNoLease    Refusal = "no_lease"        // [ErrNoLease]
	RefusedClosed     Refusal = "closed"          // [ErrClosed]
	RefusedInvalid    Refusal = "invalid"         // an [*event.InvalidError]: a fault of the host or of a client
	RefusedCanceled   Refusal = "canceled"        // the caller's context ended
	RefusedFull       Refusal = "full"            // [store.ErrFull]
	RefusedStore      Refusal = "store"           // the store failed, or something that has no name here
	RefusedGroup      Refusal = policy.RuleGroup  // groups that have no place of their own
)

// Refusals returns every refusal that is counted, except for groups by name. The slice is the caller's.
func Refusals() []Refusal {
	return []Refusal{
		policy.RuleUnknownPlatform, policy.RuleDevice, policy.RuleSingle, policy.RulePlatform, policy.RuleTotal, policy.RuleAccount,
		RefusedGroup, RuleHost, RuleReplace,
		RefusedBanned, RefusedDeleted, RefusedLoginRate, RefusedAttachRate, RefusedNodeRate, RefusedFlapping, RefusedRecordFull,
		RefusedParked, RefusedProtected, RefusedHook, RefusedChanging, RefusedUnknown, RefusedEnded, RefusedFenced, RefusedNotFound,
		RefusedDraining, RefusedNoLease, RefusedClosed, RefusedInvalid, RefusedCanceled, RefusedFull, RefusedStore,
	}
}

// Hook names code of the host's that the registry calls.
type Hook string

// Hooks of a registry. A [HookError] names the first three, or the last.
const (
	HookDecideLogin   Hook = "DecideLogin"
	HookDecidePolicy  Hook = "DecidePolicy"
	HookDecideVictims Hook = "DecideVictims"
	HookRevoke        Hook = "Revoke"
	HookFilter        Hook = "Filter"   // KickRequest.Filter, with all logins of an account
	HookLeases        Hook = "Leases"   // Acquire, Renew and Release
	HookLiveness      Hook = "Liveness" // Alive and List of Config.Leases
	HookBus           Hook = "Bus"      // Publish, Subscribe and its stop
	HookWall          Hook = "Wall"
	HookClose         Hook = "Close"       // Conn.Close; Config.CloseTimeout is its time-out
	HookNonBlocking   Hook = "NonBlocking" // of a connection, at Attach; without a time-out
)

// Hooks returns every hook that is counted. The slice is the caller's.
func Hooks() []Hook {
	return []Hook{
		HookDecideLogin, HookDecidePolicy, HookDecideVictims, HookRevoke, HookFilter, HookLeases, HookLiveness, HookBus, HookWall, HookClose,
		HookNonBlocking,
	}
}

// HookStats says what became of the calls of one hook. Counters only rise. Total over Calls is what a call takes; a hook that
// takes most of its time-out does so before it fails.
type HookStats struct {
	Calls    uint64        // that were made
	Failures uint64        // of them returned an error in time
	Timeouts uint64        // had not returned at the time-out
	Panics   uint64        // panicked, in time or later
	Skipped  uint64        // were not made, since too many for the account, or in all, had not returned
	Total    time.Duration // that those took together which have returned
	Longest  time.Duration // that one of them took, or was waited for
}

// Stats returns the counters and gauges. It looks at all accounts in memory, so that a call takes about 15 ms for each 10,000
// of them: once in 10 s is often enough.
func (r *Registry) Stats() Stats {
	c := &r.stats
	s := Stats{
		Logins: c.logins.Load(), NewDevices: c.newDevices.Load(), Attaches: c.attaches.Load(), Resumes: c.resumes.Load(),
		Comebacks: c.comebacks.Load(), Kicks: c.kicks.Load(), NewPolicies: r.ruled.Load(),
		Refused: c.refused.counts(), Ended: c.ended.counts(), Closed: c.closed.counts(), Hooks: make(map[Hook]HookStats),
		SendFailures: c.sendFailures.Load(), SendPanics: c.sendPanics.Load(),
		StoreFailures: c.store.Failures.Load(), StoreConflicts: c.store.Conflicts.Load(), TidyFailures: c.tidyFailures.Load(),
		Cleanings: c.cleanings.Load(), Cleaned: c.cleaned.Load(), LeasesLost: c.leasesLost.Load(), LooksRefused: c.looksRefused.Load(),
		LogFailures: r.log.Failed(), Draining: r.departure.Load() != nil,
	}
	for _, g := range r.policy.Load().Rules().Groups {
		s.Refused[policy.RuleGroup+Refusal(g.Name)] = 0
	}
	c.groups.addTo(s.Refused)
	for _, h := range Hooks() {
		s.Hooks[h] = HookStats(r.calls.of(h).Stats())
	}
	s.Records, s.RecordBytes = r.records.size()
	for i := range r.shards {
		r.shards[i].gauge(&s)
	}
	return s
}

// gauge adds the shard's accounts.
func (sh *shard) gauge(s *Stats) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.Accounts += len(sh.accounts)
	for id, a := range sh.accounts {
		if n := int(a.waiting.Load()); n > 0 {
			if s.Waiting += n; n > s.HotWaiting {
				s.Hot, s.HotWaiting = id, n
			}
		}
		a.mu.Lock()
		for _, k := range a.links {
			for _, c := range k.conns {
				if c.arrived() {
					s.Connections++
				}
			}
			switch k.state() {
			case Online:
				s.Online++
			case Away:
				s.Away++
			case Lingering:
				s.Lingering++
			case Offline:
			}
		}
		a.mu.Unlock()
	}
}
