package fanout

import (
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/counted"
	"github.com/manydevice/manydevice/session"
)

// Stats says what the router has done since it was made, and how things are now. Numbers are read one after another, while others
// go on. They are those of this node.
type Stats struct {
	// Counters. They only rise.
	Sends           uint64 // messages and operations accepted
	Duplicates      uint64 // repetitions that were answered with the first result
	Refused         uint64 // calls of Send, Publish, MarkRead, ClearUnread and Claim that ended with an error
	Delivered       uint64 // entries sent to devices for the first time
	Redelivered     uint64 // entries that may have been sent before
	DeliveredBytes  uint64 // sum of event.Entry.Size over both
	Covers          uint64 // frames that only moved a device past entries not for it
	LiveSent        uint64 // live-only events sent to devices
	LiveDropped     uint64 // live-only events dropped
	Resets          uint64 // devices told that their position is of no use
	Nacked          uint64 // entries that devices could not process, or their connections skipped
	Poison          uint64 // reports that an entry keeps defeating a device
	Parked          uint64 // entries parked by the host
	Slow            uint64 // connections closed because they made no progress
	Trimmed         uint64 // entries removed by retention
	TrimFailures    uint64 // inboxes, or pages of the list of accounts, that could not be trimmed
	FlushFailures   uint64 // writes of cursors or receipts that failed
	ReadFailures    uint64 // connections closed because their inbox could not be read
	SendFailures    uint64 // connections closed because their Send failed or panicked
	Pushes          uint64 // calls of the push hook that worked
	PushEntries     uint64 // entries that they were about
	PushesCancelled uint64 // turns of an account that ended without a push: all was acknowledged, read, gone or muted
	PushErrors      uint64 // calls of the push hooks that failed, panicked or took too long
	PushFailures    uint64 // turns of an account, and searches for such accounts, that the store failed; they are tried again
	PushesGivenUp   uint64 // times that the push hook failed for the last time, and its entries were given up
	LogFailures     uint64 // log lines that the host's handler did not take: it returned an error, panicked, or was too slow
	// StoreFailures are calls of the store that failed or had no answer at their context's deadline. Those whose context was
	// cancelled do not count. Some of the other counters may have the same failure, too.
	StoreFailures uint64
	// ByCause splits up Refused, LiveDropped, Resets, Slow and Trimmed. It has every one of [Causes].
	ByCause map[Cause]uint64
	// Hooks says what became of calls of the host's code. It has every one of [Hooks].
	Hooks map[session.Hook]session.HookStats

	// Gauges. They go up and down.
	Attachments int   // attached now
	TailBytes   int64 // entries that are kept for readers; at most Config.TailCache, and a little more
	// PushWaiting is how many accounts wait for a push decision or have one made, and PushOverdue for how long the one that is
	// late the longest should have had it: its entries were due, and no turn has decided about them since.
	PushWaiting int
	PushOverdue time.Duration
	// CursorsPending is about how many cursors are newer than in the store, and CursorsAge for how long the oldest of them
	// waits. More than Config.CursorFlush: they cannot be written.
	CursorsPending int
	CursorsAge     time.Duration

	// Gauges as the watchdog has seen them last, a second ago at most.
	Unacked        int   // attachments that hold entries which are not acknowledged
	UnackedEntries int   // these entries, and
	UnackedBytes   int64 // the sum of their [event.Entry.Size]
	Readers        int   // attachments that something is being sent to, or read for
	// Lag is how many entries the attached device that is furthest behind has not acknowledged, whether or not it was sent
	// them, and LagAccount is its account. A device to which there is nothing to send and from which nothing is awaited is not
	// behind.
	Lag        uint64
	LagAccount event.Account
	// ReceiptsPending is how many accounts owe delivered receipts, and ReceiptsAge for how long the one that does so the longest.
	ReceiptsPending int
	ReceiptsAge     time.Duration

	// HotAccount is the account with the most work within the last minute: entries appended to its inbox and sent to its devices.
	// HotShare is its part of all such work, from 0 to 1. Every 64th entry is looked at, and HotSamples
	// is how many were, of late, at most 1,024: the standard error of HotShare is below 0.5 through the square root of HotSamples,
	// which is 0.016 for 1,024. With a few dozen samples the name is a guess. Empty: there were none.
	HotAccount event.Account
	HotShare   float64
	HotSamples int
}

type counters struct {
	sends, duplicates, refused, covers, liveSent, liveDropped, resets, nacked, poison, parked,
	slow, trimmed, trimFailures, flushFailures, readFailures, sendFailures atomic.Uint64
	pushes, pushEntries, pushesCancelled, pushErrors, pushFailures, pushesGivenUp atomic.Uint64

	store counted.Counters

	causes map[Cause]*atomic.Uint64 // never changed after init
}

func (c *counters) init() {
	c.causes = make(map[Cause]*atomic.Uint64)
	for _, k := range Causes() {
		c.causes[k] = new(atomic.Uint64)
	}
}

func (c *counters) cause(k Cause, n int) { c.causes[k].Add(uint64(n)) }

// sentCounters count what an account's devices were sent. Each shard has its own, so that senders to different accounts do
// not write to the same place for every delivery.
type sentCounters struct{ delivered, redelivered, bytes atomic.Uint64 }

// add counts entries, and reports whether one of them is to say which account has much to do.
func (c *sentCounters) add(n, bytes int, again bool) (sample bool) {
	c.bytes.Add(uint64(bytes))
	sum := &c.delivered
	if again {
		sum = &c.redelivered
	}
	now := sum.Add(uint64(n))
	return now/sampleEvery != (now-uint64(n))/sampleEvery
}

// Stats returns the counters and gauges. It looks at no account, so it may be called as often as wanted.
func (r *Router) Stats() Stats {
	c := &r.stats
	s := Stats{
		Sends: c.sends.Load(), Duplicates: c.duplicates.Load(), Refused: c.refused.Load(), Covers: c.covers.Load(), LiveSent: c.liveSent.Load(),
		LiveDropped: c.liveDropped.Load(), Resets: c.resets.Load(), Nacked: c.nacked.Load(), Poison: c.poison.Load(),
		Parked: c.parked.Load(), Slow: c.slow.Load(), Trimmed: c.trimmed.Load(), TrimFailures: c.trimFailures.Load(),
		FlushFailures: c.flushFailures.Load(), ReadFailures: c.readFailures.Load(), SendFailures: c.sendFailures.Load(),
		Pushes: c.pushes.Load(), PushEntries: c.pushEntries.Load(), PushesCancelled: c.pushesCancelled.Load(),
		PushErrors: c.pushErrors.Load(), PushesGivenUp: c.pushesGivenUp.Load(),
		PushFailures: c.pushFailures.Load(), LogFailures: r.log.Failed(), StoreFailures: c.store.Failures.Load(),
		ByCause: make(map[Cause]uint64, len(c.causes)), Hooks: make(map[session.Hook]session.HookStats),
	}
	for _, h := range Hooks() {
		s.Hooks[h] = session.HookStats(r.hook(h).Stats())
	}
	r.gauge(&s)
	for k, n := range c.causes {
		s.ByCause[k] = n.Load()
	}
	for i := range r.shards {
		sent := &r.shards[i].sent
		s.Delivered += sent.delivered.Load()
		s.Redelivered += sent.redelivered.Load()
		s.DeliveredBytes += sent.bytes.Load()
	}
	return s
}

// gauge fills in the gauges.
func (r *Router) gauge(s *Stats) {
	now, seen := r.clock(), r.gauges.Load()
	s.Attachments, s.TailBytes = int(r.attached.Load()), r.tailBytes.Load()
	s.PushWaiting, s.PushOverdue = r.push.waiting(now)
	var since time.Duration
	if s.CursorsPending, since = r.cursors.pending(); s.CursorsPending > 0 {
		s.CursorsAge = now - since
	}
	s.Unacked, s.UnackedEntries, s.UnackedBytes, s.Readers = seen.attachments, seen.entries, seen.bytes, seen.readers
	s.Lag, s.LagAccount, s.ReceiptsPending = seen.lag, seen.laggard, seen.receipts
	if seen.oldest > 0 {
		s.ReceiptsAge = max(0, now-time.Duration(seen.oldest-1)*time.Second)
	}
	of := 0
	if s.HotAccount, of, s.HotSamples = r.hot.hottest(now); s.HotSamples > 0 {
		s.HotShare = float64(of) / float64(s.HotSamples)
	}
}
