package fanout

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/session"
)

const (
	// MaxPushEntries is how many entries one call of PushConfig.Hook is about at most, and how many of an account may be
	// told twice if the engine crashes.
	MaxPushEntries = 100
	// pushGap is the least time between two turns of one account: a burst of messages makes one call a second.
	pushGap = time.Second
	// pushReadWait bounds the reads of one turn, so that an account that the store holds up keeps no turn from others.
	pushReadWait = 10 * time.Second
)

// PushConfig says when the host is asked to wake devices by push. The zero value is valid and means never: it takes a Hook.
type PushConfig struct {
	// Hook is called with the devices of an account that were not reached, and what they missed. It hands that to the
	// host's push service: the engine talks to none. Nil turns the push decision off.
	//
	// Nil as its answer means that the host has it. After an error, a panic or a time-out the same entries come again after
	// Delay, up to Tries times, also to devices that have got a push meanwhile. Calls overlap, but not those of one account.
	// A call may use the router and the registry. It is at least once: see [Push].
	Hook func(ctx context.Context, p Push) error
	// Delay is how long devices have to acknowledge an entry, and the user to read it, before a push is decided. Zero means
	// 10 s; from 1 ms to 1 year.
	Delay time.Duration
	// MaxAge is the age from which an entry is no longer pushed, however late its turn comes. Setting the wall clock makes
	// no entry older; an absence of the server does. More than Delay. Zero means 1 h; from 1 s to
	// 100 years.
	MaxAge time.Duration
	// Rules say which of the devices that were not reached get a push.
	Rules PushRules
	// Decide, if set, chooses in the place of Rules: it returns those of the devices of q that are to get a push. Devices that
	// it names and that have missed nothing are passed over. After an error, a panic or a time-out q.Default holds. It may
	// be asked about the same entries again.
	Decide func(ctx context.Context, q PushQuestion) ([]event.DeviceID, error)
	// HookTimeout bounds each call of Hook and Decide. Zero means 2 s; from 1 ms to 100 years.
	HookTimeout time.Duration
	// Tries is how often Hook is called for the same entries before they are given up. Zero means 5: with the default Delay
	// that is 40 s, by then a push service that fails is not about to come back. At most 1,000.
	Tries int
	// Concurrency is how many accounts have their turn at once. Zero means 64; at most 65,536. Accounts for which a hook did not
	// return in time when it was called last have turns of their own, a quarter as many, so that others do not wait for them.
	// A call that does not return in time is left to itself. While 8 calls of a hook hang for one account, it is not called
	// for that account, see [Stats].Hooks.
	Concurrency int
	// Pending is how many accounts may wait for their turn in memory, at less than 200 bytes each. Those beyond it are found
	// in the store later, which takes longer. Zero means 262,144; at most 16,777,216.
	Pending int
}

// Push is what the host is asked to send pushes for. Apart from a crash between a call and its being noted, which can
// repeat up to [MaxPushEntries] entries of an account, a device is told of an entry once; the entries have the same message
// IDs then.
type Push struct {
	Account event.Account
	// Devices are all that get a push, each with what it missed, earliest login first.
	Devices []PushDevice
}

// PushQuestion asks the host who gets a push.
type PushQuestion struct {
	Account event.Account
	// Devices are all that hold a login and that the entries are for, in whatever state, earliest login first. Some have
	// missed nothing.
	Devices []PushDevice
	// Default is what PushConfig.Rules answers.
	Default []event.DeviceID
}

// PushDevice is a device that holds a login, at the time of a decision.
type PushDevice struct {
	session.Session
	// Active is when its user did something last, as far as is known: connected, came back from background, sent, read.
	Active time.Time
	// Missed are the entries that it has not acknowledged, oldest first. They are read-only.
	Missed []*event.Sealed
}

// attached reports whether the device has a connection. One whose connection is gone is offline for a push, whether or not
// its resume window is over: the user is not to wait for it.
func (d *PushDevice) attached() bool { return d.State == session.Online || d.State == session.Away }

func (c PushConfig) withDefaults() PushConfig {
	c.Delay = cmp.Or(c.Delay, 10*time.Second)
	c.MaxAge = cmp.Or(c.MaxAge, time.Hour)
	c.Rules = c.Rules.withDefaults()
	c.HookTimeout = cmp.Or(c.HookTimeout, 2*time.Second)
	c.Tries = cmp.Or(c.Tries, 5)
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.Pending = cmp.Or(c.Pending, 1<<18)
	return c
}

// check notes all faults of a configuration that has its defaults.
func (c *PushConfig) check(check *bounds.Check) {
	check.Duration("Push.Delay", c.Delay, time.Millisecond, bounds.Year, 0)
	check.Duration("Push.MaxAge", c.MaxAge, time.Second, bounds.Longest, 0)
	if c.MaxAge <= c.Delay {
		check.Add(&event.InvalidError{Field: "Push.MaxAge", Reason: "want more than Delay"})
	}
	check.Duration("Push.HookTimeout", c.HookTimeout, time.Millisecond, bounds.Longest, 0)
	check.Count("Push.Tries", int64(c.Tries), 1, 1_000, 0)
	check.Count("Push.Concurrency", int64(c.Concurrency), 1, 1<<16, 0)
	check.Count("Push.Pending", int64(c.Pending), 1, 1<<24, 0)
	if c.Decide != nil && c.Hook == nil {
		check.Add(&event.InvalidError{Field: "Push.Decide", Reason: "is of no use without Hook"})
	}
	c.Rules.check(check)
}

// PushPreset is a rule for who gets a push. The names are stable.
type PushPreset string

const (
	// AllOffline: a push only if none of the account's devices is online, and then to all that missed something.
	AllOffline PushPreset = "allOffline"
	// AnyOffline: every device that is offline and missed something gets one.
	AnyOffline PushPreset = "anyOffline"
	// ActiveDesktopMutesPhone: as AnyOffline, but none as long as somebody sits at a desktop of the account.
	ActiveDesktopMutesPhone PushPreset = "activeDesktopMutesPhone"
)

// PushRules choose the devices that get a push. They are data; the zero value is AllOffline.
type PushRules struct {
	// Preset is the rule. Empty means AllOffline.
	Preset PushPreset
	// Desktops are the platforms that ActiveDesktopMutesPhone takes for desktops. Nil means windows, macos, linux and web.
	Desktops []event.Platform
	// Idle is how long after the last sign of its user a desktop does not mute any more; one whose app says that it is in
	// background does not either. Zero means 5 min; negative means that only the app says so;
	// from 1 s to 100 years.
	Idle time.Duration
}

func (p PushRules) withDefaults() PushRules {
	p.Preset = cmp.Or(p.Preset, AllOffline)
	if p.Desktops == nil {
		p.Desktops = []event.Platform{"windows", "macos", "linux", "web"}
	}
	p.Idle = cmp.Or(p.Idle, 5*time.Minute)
	return p
}

func (p *PushRules) check(check *bounds.Check) {
	if !slices.Contains([]PushPreset{AllOffline, AnyOffline, ActiveDesktopMutesPhone}, p.Preset) {
		check.Add(&event.InvalidError{Field: "Push.Rules.Preset", Reason: "unknown"})
	}
	for _, platform := range p.Desktops {
		if same, err := event.ParsePlatform(string(platform)); err != nil || same != platform {
			check.Add(&event.InvalidError{Field: "Push.Rules.Desktops", Reason: "not a platform in lower case"})
		}
	}
	check.Duration("Push.Rules.Idle", p.Idle, time.Second, bounds.Longest, bounds.Negative)
}

// Choose returns which of the account's devices get a push at a time, if they have missed something: of those that are
// offline all or none. It depends on nothing but its arguments. A device is online here as long as a connection is
// attached, in background or not.
func (p PushRules) Choose(devices []PushDevice, now time.Time) []event.DeviceID {
	p = p.withDefaults()
	var offline []event.DeviceID
	online, occupied := false, false
	for i := range devices {
		d := &devices[i]
		if !d.attached() {
			offline = append(offline, d.Device)
			continue
		}
		online = true
		active := d.State == session.Online && (p.Idle < 0 || now.Sub(d.Active) < p.Idle)
		occupied = occupied || active && slices.Contains(p.Desktops, d.Platform)
	}
	if p.Preset == AllOffline && online || p.Preset == ActiveDesktopMutesPhone && occupied {
		return nil
	}
	return offline
}
