package session

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

const (
	maxTombstones      = 64                    // of an account; the oldest is dropped
	maxReplaced        = 64                    // tokens of a login that are known as replaced: of 64 days, at the default rotation
	maxRecent          = 32                    // logins and ends in an account's log
	maxDescription     = 1_024                 // bytes of a description in all
	maxNote            = 512                   // bytes of a host's note to a device that is put off
	recordReserve      = 12 << 10              // bytes of a record that logins leave to tombstones and to new tokens
	fenceGap           = 10 * time.Millisecond // in which a Send that has passed the fence reaches the host's code
	maxConflicts       = 16                    // tries of a step that others get in the way of
	defaultAgeGrace    = 24 * time.Hour
	janitorPage        = 256
	maxLoginsPerMinute = 60_000
	maxPerSecond       = 1_000_000        // attaches and accounts: more than one process can do
	minAge             = 10 * time.Minute // of what is removed for its age: nobody means less, and a forgotten unit is
	refreshSeenPerIdle = 10               // how often the time of last contact is written within the idle bound
)

// Config tunes a [Registry]. The zero value is valid. A value outside of its range is an [*event.InvalidError] of New, so that a
// duration without its unit, which Go takes for nanoseconds, removes nothing.
type Config struct {
	// Policy says how many logins may be there at once. Nil means policy.New(policy.Rules{}): 4 per platform. Its Tabs say
	// how many connections a login may have.
	Policy *policy.Policy
	// ResumeWindow is how long a login without a connection keeps its slot and is not announced as offline. Zero means
	// 2 min; negative means that it goes offline at the next sweep. From 1 s to 100 years.
	ResumeWindow time.Duration
	// IdleTimeout detaches a connection that nothing was heard of for this long, unless [AttachRequest.IdleTimeout] says
	// otherwise. Zero means 90 s; negative means never; from 1 s to 100 years.
	IdleTimeout time.Duration
	// IdleDevice ends a login that had no contact for this long, and forgets a device that was not seen for this long,
	// with its place in the inbox. Zero means 30 days; negative means never; from 10 min to 100 years.
	IdleDevice time.Duration
	// AbsoluteLifetime ends a login that long after its admission, whether or not it is attached. Zero and negative mean
	// never; from 1 min to 100 years.
	AbsoluteLifetime time.Duration
	// TombstoneTTL is how long an ended login's device can learn why. Zero means 30 days; from 10 min to 100 years.
	TombstoneTTL time.Duration
	// TokenRotation is the time after which a confirmed resume token is replaced when its login attaches. Zero means 24 h;
	// negative means never; from 10 s to 100 years.
	TokenRotation time.Duration
	// MaxDevices bounds the devices that an account remembers; those seen longest ago are forgotten, but never one that is
	// logged in. Logins without a device ID do not count. Zero means 32; from 1 to 64.
	MaxDevices int
	// LoginsPerMinute bounds the logins of one account: so many at once, and as many per minute after that. A login that
	// comes too early is refused with a [*LimitedError]. Logins that fail are counted apart, in memory: each device may fail
	// so many times at once and per minute (those without a device ID count together for their platform), all devices of an
	// account together four times as often. Beyond that a login is refused with a [*LimitedError] before anything is read and
	// before the host is asked. Zero means 10; at most 60,000; negative means no bound, for either.
	LoginsPerMinute int
	// FlapLimit is how often within 10 s devices may evict others, by the rules or by LoginReplacing, after having been evicted
	// themselves within 10 s. Then the next one that would is refused with a [*LimitedError] until 5 s after the last. Devices
	// that have nothing to do with these evictions are not concerned. Zero means 3; at most 16; negative means no bound.
	FlapLimit int
	// AttachesPerAccount bounds the attaches of one account per second; twice as many may come at once. One login may use
	// half of that, and so may all logins together that have no connection on this node and have not lost one within their
	// resume window. One beyond it is refused with a [*LimitedError] before anything is read, and does not count for
	// AttachesPerSecond. Zero means 10; at most 1,000,000; negative means no bound.
	AttachesPerAccount int
	// AttachesPerSecond bounds the attaches of this node, and as many may come at once. One beyond that is refused with a
	// [*LimitedError] before anything is read, with an advice that spreads the crowd. Zero means 2,000; at most 1,000,000;
	// negative means no bound.
	AttachesPerSecond int
	// SweepInterval is how often connections and resume windows are looked at. Zero means 5 s; from 1 ms to 100 years.
	SweepInterval time.Duration
	// JanitorInterval is how often all accounts of the store are looked through for what has expired. Zero means 1 h;
	// negative means never; from 1 ms to 100 years.
	JanitorInterval time.Duration
	// HookTimeout bounds each call of the functions below and of Leases, but for a renewal, which may take as long as the lease
	// lasts. One that takes longer is left to itself. While 8 calls of one function hang for one account, it is not called for
	// that account. See [Stats] for what becomes of them. Zero means 2 s; from 1 ms to 100 years.
	HookTimeout time.Duration
	// CloseTimeout is how long a Conn.Close may take. One that takes longer is logged, counted and left to itself. See
	// [HookClose] in [Stats]. Zero means 1 s; from 1 ms to 100 years.
	CloseTimeout time.Duration
	// Node is the name of this engine among several, which no other one has at the same time. Empty means "local", and is
	// refused with Leases.
	Node event.NodeID
	// Leases, if set, lets several engines serve the same accounts over one store. It tells which of them live: a node
	// that does not renew its lease in time closes its connections by itself and takes none, and its logins then linger
	// as if they had lost their connections. Nil means that this engine is the only one over its store.
	Leases store.Leases
	// LeaseLife is how long a lease lasts. It is renewed four times as often; a node stops after three quarters of it without
	// success. Zero means 20 s; from [store.MinLease] to [store.MaxLease].
	LeaseLife time.Duration
	// Bus, with Leases, lets a node that ends or takes over a login tell the one that has its connection. Without it, or
	// if it does not get through, that node finds out within LeaseLife.
	Bus transport.Bus
	// Revoke, if set, is called once for each login that ended, after the commit and before its connection is closed, so
	// that the host can make its credential void. An error or a time-out is logged and does not stop the end. Among several
	// nodes it is called where the end was asked for, and the node that has the connection waits for it.
	Revoke func(ctx context.Context, ended Ended) error
	// DecideLogin, if set, says whether a login may go on to the rules; if not, it fails with a [*RefusedError] of rule
	// [RuleHost]. It is called for each Login and LoginReplacing, after bans and LoginsPerMinute, outside the account's turn,
	// and once more if SetPolicy or Enforce was called meanwhile. A login that comes back is not asked about again.
	DecideLogin func(ctx context.Context, q Question) (bool, error)
	// DecideLoginFallback says what happens if DecideLogin does not answer. [Admit]: the login goes on to the rules.
	DecideLoginFallback Fallback
	// DecidePolicy, if set, returns the policy for one account, nil for that of the registry. It is called when an admission,
	// a connection beside others, Enforce, or a kick or removal by an own device needs one, outside the account's turn, and
	// once more if SetPolicy or Enforce was called meanwhile. Of the question all but the account is empty if no device wants
	// in.
	DecidePolicy func(ctx context.Context, q Question) (*policy.Policy, error)
	// DecidePolicyFallback says what happens if DecidePolicy does not answer. [Refuse] lets nobody in, and nobody end others,
	// by rules that may be laxer than the account's; a connection beside others of its login gets in by the strictest rule, so
	// that they make room for it. [Admit]: the registry's policy holds; but Enforce passes the account over and reports it, so
	// that nobody ends by rules that may be stricter.
	DecidePolicyFallback Fallback
	// DecideVictims, if set, chooses who makes room where the policy leaves that to the host (policy.AskHost). It is called
	// outside the account's turn, so it may call the registry; other logins may come in between. If the rule, its limit or
	// the candidates have changed by then, or SetPolicy or Enforce was called, it is called once more. Without it
	// Rules.Unanswered says what happens.
	DecideVictims func(ctx context.Context, q Question) (policy.Answer, error)
	// DecideVictimsFallback says what happens if DecideVictims does not answer. [Admit]: Rules.Unanswered says it.
	DecideVictimsFallback Fallback
	// AgeGrace is how long nothing is ended or removed for its age after the wall clock was set by more than a minute, or
	// after the server was away for more than an hour: no idle login or device, no tombstone, and, in fan-out, no entry by
	// MaxAge or KeepMinimum. It is counted while the engine is up, over any number of starts. AbsoluteLifetime, bans and
	// expiries of messages go by the wall clock all the same. Zero means 24 h; negative means none; from
	// 1 min to 30 years. Among several nodes it begins on all of them.
	AgeGrace time.Duration
	// Wall tells the time of the wall clock. It is called often, from many goroutines, and must not block. Nil means
	// time.Now. Tests and simulations move it without moving elapsed time.
	Wall func() time.Time
	// Logger receives the registry's log lines. Of lines with the same text 10 are written in 10 s; the last one that was left
	// out says by "repeated" how many lines it stands for. A handler that is slow holds up nobody for more than 50 ms; while
	// 1,024 lines wait for it, further ones are lost and counted in [Stats]. Nil discards all.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.ResumeWindow = cmp.Or(c.ResumeWindow, 2*time.Minute)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 90*time.Second)
	c.IdleDevice = cmp.Or(c.IdleDevice, 30*24*time.Hour)
	c.TombstoneTTL = cmp.Or(c.TombstoneTTL, 30*24*time.Hour)
	c.TokenRotation = cmp.Or(c.TokenRotation, 24*time.Hour)
	c.MaxDevices = cmp.Or(c.MaxDevices, 32)
	c.LoginsPerMinute = cmp.Or(c.LoginsPerMinute, 10)
	c.FlapLimit = cmp.Or(c.FlapLimit, 3)
	c.AttachesPerAccount = cmp.Or(c.AttachesPerAccount, 10)
	c.AttachesPerSecond = cmp.Or(c.AttachesPerSecond, 2_000)
	c.SweepInterval = cmp.Or(c.SweepInterval, 5*time.Second)
	c.JanitorInterval = cmp.Or(c.JanitorInterval, time.Hour)
	c.AgeGrace = cmp.Or(c.AgeGrace, defaultAgeGrace)
	c.HookTimeout = cmp.Or(c.HookTimeout, 2*time.Second)
	c.CloseTimeout = cmp.Or(c.CloseTimeout, time.Second)
	if c.Leases == nil {
		c.Node = cmp.Or(c.Node, "local")
	}
	c.LeaseLife = cmp.Or(c.LeaseLife, 20*time.Second)
	return c
}

func (c *Config) validate() error {
	var check bounds.Check
	check.Duration("ResumeWindow", c.ResumeWindow, time.Second, bounds.Longest, bounds.Negative)
	check.Add(checkIdle("IdleTimeout", c.IdleTimeout, bounds.Negative))
	check.Duration("IdleDevice", c.IdleDevice, minAge, bounds.Longest, bounds.Negative)
	check.Duration("AbsoluteLifetime", c.AbsoluteLifetime, time.Minute, bounds.Longest, bounds.Zero|bounds.Negative)
	check.Duration("TombstoneTTL", c.TombstoneTTL, minAge, bounds.Longest, 0)
	check.Duration("TokenRotation", c.TokenRotation, tokenReuse, bounds.Longest, bounds.Negative)
	check.Duration("SweepInterval", c.SweepInterval, time.Millisecond, bounds.Longest, 0)
	check.Duration("JanitorInterval", c.JanitorInterval, time.Millisecond, bounds.Longest, bounds.Negative)
	check.Duration("HookTimeout", c.HookTimeout, time.Millisecond, bounds.Longest, 0)
	check.Duration("CloseTimeout", c.CloseTimeout, time.Millisecond, bounds.Longest, 0)
	check.Duration("AgeGrace", c.AgeGrace, time.Minute, 30*bounds.Year, bounds.Negative)
	check.Count("MaxDevices", int64(c.MaxDevices), 1, 64, 0)
	check.Count("LoginsPerMinute", int64(c.LoginsPerMinute), 1, maxLoginsPerMinute, bounds.Negative)
	check.Count("FlapLimit", int64(c.FlapLimit), 1, maxFlapLimit, bounds.Negative)
	check.Count("AttachesPerAccount", int64(c.AttachesPerAccount), 1, maxPerSecond, bounds.Negative)
	check.Count("AttachesPerSecond", int64(c.AttachesPerSecond), 1, maxPerSecond, bounds.Negative)
	check.Count("DecideLoginFallback", int64(c.DecideLoginFallback), 0, int64(Admit), 0)
	check.Count("DecidePolicyFallback", int64(c.DecidePolicyFallback), 0, int64(Admit), 0)
	check.Count("DecideVictimsFallback", int64(c.DecideVictimsFallback), 0, int64(Admit), 0)
	if c.Bus != nil && c.Leases == nil {
		check.Add(&event.InvalidError{Field: "Bus", Reason: "is of no use without Leases"})
	}
	check.Add(event.CheckID("Node", string(c.Node)))
	check.Duration("LeaseLife", c.LeaseLife, store.MinLease, store.MaxLease, 0)
	return check.Err()
}

// checkIdle checks how long a connection may be silent.
func checkIdle(field string, d time.Duration, also bounds.Also) error {
	return bounds.Duration(field, d, time.Second, bounds.Longest, also)
}

// Description says what a device is, in its own words. All of it may be shown to the account's other devices.
//
// The texts are cosmetic: nothing is looked up by them, and no login is refused for them, whatever a client says. Every call
// that takes a description cleans them with [event.CleanName], so that each has at most 128 characters and 160 bytes, and
// what lists, hooks and changes show is the cleaned text. Texts and extension have at most 1,024 bytes together. An extension
// beyond 224 bytes takes the room that is left from the texts, the last one first; one beyond 1,024 bytes is refused.
type Description struct {
	Name       string `json:"name,omitempty"`
	Model      string `json:"model,omitempty"`
	OS         string `json:"os,omitempty"`
	AppVersion string `json:"app,omitempty"`
	IP         string `json:"ip,omitempty"`
	Extension  []byte `json:"ext,omitempty"` // anything of the host's
}

// cleaned returns the description with its texts cleaned and cut. The extension is shared.
func (d Description) cleaned() (Description, error) {
	room := maxDescription - len(d.Extension)
	if room < 0 {
		return d, &event.InvalidError{
			Field: "description.extension", Reason: fmt.Sprintf("%d bytes, at most %d", len(d.Extension), maxDescription),
		}
	}
	for _, text := range []*string{&d.Name, &d.Model, &d.OS, &d.AppVersion, &d.IP} {
		*text = event.CleanText(event.CleanName(*text), room)
		room -= len(*text)
	}
	return d, nil
}
