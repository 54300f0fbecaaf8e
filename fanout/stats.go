package fanout

import "sync/atomic"

// Stats counts what the router has done since it was made. Numbers are read one after another, while others go on.
type Stats struct {
	Sends           uint64 // messages and operations accepted
	Duplicates      uint64 // repetitions that were answered with the first result
	Refused         uint64 // calls of Send, Publish, MarkRead and ClearUnread that ended with an error
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
	PushesGivenUp   uint64 // times that the push hook failed for the last time, and its entries were given up
	HookSkips       uint64 // calls of OnPoison and of the push hooks that were left out, since too many for the same account hung
	// ByCause splits up Refused, LiveDropped, Resets, Slow and Trimmed. It has every one of [Causes].
	ByCause map[Cause]uint64
}

type counters struct {
	sends, duplicates, refused, covers, liveSent, liveDropped, resets, nacked, poison, parked,
	slow, trimmed, trimFailures, flushFailures, readFailures, sendFailures atomic.Uint64
	pushes, pushEntries, pushesCancelled, pushErrors, pushesGivenUp atomic.Uint64

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

func (c *sentCounters) add(n, bytes int, again bool) {
	c.bytes.Add(uint64(bytes))
	if again {
		c.redelivered.Add(uint64(n))
		return
	}
	c.delivered.Add(uint64(n))
}

// Stats returns the counters.
func (r *Router) Stats() Stats {
	c := &r.stats
	s := Stats{
		Sends: c.sends.Load(), Duplicates: c.duplicates.Load(), Refused: c.refused.Load(), Covers: c.covers.Load(), LiveSent: c.liveSent.Load(),
		LiveDropped: c.liveDropped.Load(), Resets: c.resets.Load(), Nacked: c.nacked.Load(), Poison: c.poison.Load(),
		Parked: c.parked.Load(), Slow: c.slow.Load(), Trimmed: c.trimmed.Load(), TrimFailures: c.trimFailures.Load(),
		FlushFailures: c.flushFailures.Load(), ReadFailures: c.readFailures.Load(), SendFailures: c.sendFailures.Load(),
		Pushes: c.pushes.Load(), PushEntries: c.pushEntries.Load(), PushesCancelled: c.pushesCancelled.Load(),
		PushErrors: c.pushErrors.Load(), PushesGivenUp: c.pushesGivenUp.Load(),
		HookSkips: r.push.calls.Stats().Skipped + r.push.asked.Stats().Skipped + r.poisonCalls.Stats().Skipped,
		ByCause:   make(map[Cause]uint64, len(c.causes)),
	}
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
