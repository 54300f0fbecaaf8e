package fanout

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
)

// Bounds of one call.
const (
	MaxPayloadBytes  = 64 << 10
	MaxRecipients    = 10_000
	MaxTargets       = 16
	MaxReceiptPeers  = 200 // recipients of a message that may have receipts
	idempotencyMax   = 16_384
	tailEntries      = 64
	coverEntries     = 64
	coverAge         = 5 * time.Second
	receiptInterval  = time.Second
	pendingReads     = 16
	pendingReadAge   = time.Hour
	pendingAccounts  = 4_096
	maxControl       = 8 // control frames that may wait for one connection
	maxSubjectBytes  = event.MaxIDBytes
	trimSlice        = 256 // entries that are read, and then removed by one commit: a few milliseconds
	trimPage         = 256 // accounts
	trimWork         = 2 * time.Millisecond
	sweepInterval    = time.Second
	idempotencyHours = 24 * time.Hour
)

// Config tunes a [Router]. The zero value is valid. A value outside of its range is an [*event.InvalidError] of New, so that a
// duration without its unit, which Go takes for nanoseconds, removes nothing.
type Config struct {
	// Kinds knows the kinds of events. Nil means the built-in ones; unknown kinds pass through.
	Kinds *event.Registry
	// Window is how many entries a connection may have unacknowledged. Zero means 64; at most 65,535. This and the bounds below
	// hold for connections that were not attached with their own, see [AttachRequest].
	Window int
	// WindowBytes bounds their sizes together; a single larger entry is sent alone. Zero means 1 MiB; at most 1 GiB.
	WindowBytes int
	// LiveRing is how many live-only events wait for a connection. Beyond that one of the lowest priority is dropped, the oldest
	// of those. Zero means 64; at most 65,535.
	LiveRing int
	// LiveLife is how long a live-only event may wait. Zero means 10 s; from 1 ms to 100 years.
	LiveLife time.Duration
	// AckWait closes a connection that has unacknowledged entries and made no progress for this long. It is looked at once a
	// second, or twice in this time if that is more often. Zero means 30 s; from 10 ms to 100 years.
	AckWait time.Duration
	// FrameWrite bounds each Send of a connection, counted from its last ack if one comes in meanwhile: the connection is then
	// closed, whatever its Send does. The same holds for a queue that is full, see [transport.ErrFull]. It is looked at as often
	// as AckWait. Zero means 10 s; from 10 ms to 100 years.
	FrameWrite time.Duration
	// CursorFlush bounds how far a cursor on disk is behind the last ack. Zero means 10 s; from 1 ms to 100 years.
	CursorFlush time.Duration
	// PageEntries and PageBytes bound one read of an inbox. Zero means 256 and 1 MiB; at most 65,535 and 1 GiB.
	PageEntries, PageBytes int
	// TailCache bounds the bytes of recent entries that are kept for readers. Zero means 64 MiB; at most 1 TiB; negative means
	// none.
	TailCache int64
	// MaxAge, MaxEntries and MaxBytes bound each inbox, whatever its devices have acknowledged. Zero means 30 days,
	// 10,000 and 16 MiB; negative means no bound. Entries with a coalesce key do not count as entries. MaxAge is from 10 min to 100
	// years, MaxEntries at most 2,147,483,647, and MaxBytes from 128 KiB, so that the largest message fits, to 1 TiB.
	// MaxAge and KeepMinimum wait for session.Config.AgeGrace after the clock was set or the server was away.
	MaxAge     time.Duration
	MaxEntries int
	MaxBytes   int64
	// KeepMinimum is the age up to which entries are kept although all devices have acknowledged them. Zero means 24 h;
	// negative means that acknowledged entries go at once; from 1 min to 100 years.
	KeepMinimum time.Duration
	// TrimInterval is how often inboxes that have grown are trimmed. All others are looked at every hundredth time.
	// Zero means 1 min; negative means never; from 1 ms to 100 years.
	TrimInterval time.Duration
	// Push says when the host is asked to wake devices by push. The zero value means never.
	Push PushConfig
	// OnNack, if set, is called for each entry that a device says it cannot process, or that its connection skips with a
	// [transport.SkipError]. A call that takes longer than 2 s is not waited for, and 8 that hang keep it from being called
	// for the account. See [EventHookFailed] for what becomes of these, and of a panic.
	OnNack func(Nacked)
	// OnPoison, if set, is called when an entry has defeated a device 5 times, 10, 20, 40 and so on. It is called on a
	// goroutine of its own, so it may take its time and call the router, for instance Park; ctx ends after a minute, and when
	// the router is closed. Calls may overlap: of two for one device, that with more Attempts is the later. While 8 calls hang
	// for one account, it is not called for that account. See [EventHookFailed] for what becomes of these, and of a panic.
	OnPoison func(ctx context.Context, p Poison)
	// Logger receives the router's log lines. Lines that come again and again are folded into one that says how many it stands
	// for. Nil discards them.
	Logger *slog.Logger
}

// Nacked says that a device could not process an entry. The entry counts as acknowledged.
type Nacked struct {
	Account  event.Account
	Login    event.LoginID
	Device   event.DeviceID
	Position event.Position
	Code     string // the client's, or its connection's, word for why
}

func (c Config) withDefaults() (Config, error) {
	if c.Kinds == nil {
		kinds, err := event.NewRegistry()
		if err != nil {
			return c, err
		}
		c.Kinds = kinds
	}
	c.Window = cmp.Or(c.Window, 64)
	c.WindowBytes = cmp.Or(c.WindowBytes, 1<<20)
	c.LiveRing = cmp.Or(c.LiveRing, 64)
	c.LiveLife = cmp.Or(c.LiveLife, 10*time.Second)
	c.AckWait = cmp.Or(c.AckWait, 30*time.Second)
	c.FrameWrite = cmp.Or(c.FrameWrite, 10*time.Second)
	c.CursorFlush = cmp.Or(c.CursorFlush, 10*time.Second)
	c.PageEntries = cmp.Or(c.PageEntries, 256)
	c.PageBytes = cmp.Or(c.PageBytes, 1<<20)
	c.TailCache = cmp.Or(c.TailCache, 64<<20)
	c.MaxAge = cmp.Or(c.MaxAge, 30*24*time.Hour)
	c.MaxEntries = cmp.Or(c.MaxEntries, 10_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 16<<20)
	c.KeepMinimum = cmp.Or(c.KeepMinimum, 24*time.Hour)
	c.TrimInterval = cmp.Or(c.TrimInterval, time.Minute)
	c.Push = c.Push.withDefaults()
	return c, c.validate()
}

func (c *Config) validate() error {
	var check bounds.Check
	check.Count("Window", int64(c.Window), 1, maxWindow, 0)
	check.Bytes("WindowBytes", int64(c.WindowBytes), 1, 1<<30, 0)
	check.Count("LiveRing", int64(c.LiveRing), 1, maxWindow, 0)
	check.Duration("LiveLife", c.LiveLife, time.Millisecond, bounds.Longest, 0)
	checkWaits(&check, "AckWait", c.AckWait, 0)
	checkWaits(&check, "FrameWrite", c.FrameWrite, 0)
	check.Duration("CursorFlush", c.CursorFlush, time.Millisecond, bounds.Longest, 0)
	check.Count("PageEntries", int64(c.PageEntries), 1, maxWindow, 0)
	check.Bytes("PageBytes", int64(c.PageBytes), 1, 1<<30, 0)
	check.Bytes("TailCache", c.TailCache, 1, 1<<40, bounds.Negative)
	check.Duration("MaxAge", c.MaxAge, 10*time.Minute, bounds.Longest, bounds.Negative)
	check.Count("MaxEntries", int64(c.MaxEntries), 1, math.MaxInt32, bounds.Negative)
	check.Bytes("MaxBytes", c.MaxBytes, 2*MaxPayloadBytes, 1<<40, bounds.Negative)
	check.Duration("KeepMinimum", c.KeepMinimum, time.Minute, bounds.Longest, bounds.Negative)
	check.Duration("TrimInterval", c.TrimInterval, time.Millisecond, bounds.Longest, bounds.Negative)
	c.Push.check(&check)
	return check.Err()
}

// checkWaits checks how long the router waits for a connection, in a config or for one alone.
func checkWaits(c *bounds.Check, field string, d time.Duration, also bounds.Also) {
	c.Duration(field, d, 10*time.Millisecond, bounds.Longest, also)
}
