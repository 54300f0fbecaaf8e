package fanout

import (
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
)

// gauges are what the watchdog has seen when it last looked at the accounts that are not at rest. It holds their locks anyway,
// so that nobody else has to look through all connections.
type gauges struct {
	attachments, entries, readers, receipts int
	bytes                                   int64
	lag                                     uint64
	laggard                                 event.Account
	oldest                                  uint32 // hub.owing of the account that owes receipts the longest; 0: none does
}

// addLocked adds a hub.
func (g *gauges) addLocked(h *hub) {
	if h.owing > 0 {
		g.receipts++
		if g.oldest == 0 || h.owing < g.oldest {
			g.oldest = h.owing
		}
	}
	for _, a := range h.atts {
		if a.running && !a.held {
			g.readers++
		}
		if len(a.window) > 0 {
			g.attachments++
			g.entries += len(a.window)
			g.bytes += int64(a.bytes)
		}
		if !a.atRestLocked() && a.epoch == h.epoch && h.head > a.acked && h.head-a.acked > g.lag {
			g.lag, g.laggard = h.head-a.acked, h.account
		}
	}
}

const (
	sampleEvery = 64          // of this many entries one is noted
	samples     = 1_024       // that are remembered
	sampleAge   = time.Minute // for how long they count
)

// hotBook says which account has had the most to do of late. It remembers of every 64th entry that was appended to an inbox or
// sent to a device, in each shard, whose it was. That is one lock for many entries, and nobody waits for it.
type hotBook struct {
	mu   sync.Mutex
	next int
	ring [samples]sample
}

type sample struct {
	account event.Account // empty: none yet
	at      time.Duration // Router.clock
}

// note remembers an entry, unless another one is being remembered at the moment.
func (b *hotBook) note(account event.Account, now time.Duration) {
	if !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	b.ring[b.next] = sample{account, now}
	b.next = (b.next + 1) % samples
}

// hottest returns the account of most samples of late, and how many of how many those were.
func (b *hotBook) hottest(now time.Duration) (account event.Account, of, all int) {
	b.mu.Lock()
	ring := b.ring
	b.mu.Unlock()
	counts := make(map[event.Account]int)
	for _, s := range ring {
		if s.account == "" || now-s.at > sampleAge {
			continue
		}
		all++
		counts[s.account]++
		if counts[s.account] > of {
			account, of = s.account, counts[s.account]
		}
	}
	return account, of, all
}
