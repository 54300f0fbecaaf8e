package fanout

import "sync/atomic"

// Stats counts what the router has done since it was made.
type Stats struct {
	Sends       uint64 // messages and operations accepted
	Duplicates  uint64 // repetitions that were answered with the first result
	Delivered   uint64 // entries sent to devices for the first time
	Redelivered uint64 // entries that may have been sent before
	Covers      uint64 // frames that only moved a device past entries not for it
	LiveSent    uint64 // live-only events sent to devices
	LiveDropped uint64 // live-only events dropped: ring full, too old, or the app in background
	Resets      uint64 // devices told that their position is of no use
	Nacked      uint64 // entries that devices could not process
	Slow        uint64 // connections closed because they made no progress
	Trimmed     uint64 // entries removed by retention
}

type counters struct {
	sends, duplicates, delivered, redelivered, covers, liveSent, liveDropped, resets, nacked, slow, trimmed atomic.Uint64
}

func (c *counters) sent(n int, again bool) {
	if again {
		c.redelivered.Add(uint64(n))
		return
	}
	c.delivered.Add(uint64(n))
}

// Stats returns the counters.
func (r *Router) Stats() Stats {
	c := &r.stats
	return Stats{
		Sends: c.sends.Load(), Duplicates: c.duplicates.Load(), Delivered: c.delivered.Load(), Redelivered: c.redelivered.Load(),
		Covers: c.covers.Load(), LiveSent: c.liveSent.Load(), LiveDropped: c.liveDropped.Load(), Resets: c.resets.Load(),
		Nacked: c.nacked.Load(), Slow: c.slow.Load(), Trimmed: c.trimmed.Load(),
	}
}
