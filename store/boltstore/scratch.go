package boltstore

import "github.com/manydevice/manydevice/event"

// scratch is memory that groups use one after another: what they need does not outlive them.
type scratch struct {
	accts   []*account // in order of first use
	byAcc   map[event.Account]*account
	pool    []*account // that were used before
	taken   int        // of the pool
	blocks  [][]byte   // for values that have to last until the commit
	used    int        // of the blocks; the last of them is being filled
	block   []byte
	buf     []byte // for encodings
	log     recordWriter
	inboxes []place // that got one message
}

const (
	// blockBytes is how large the blocks are: some dozens of messages.
	blockBytes = 64 << 10
	// keepBlocks and keepAccounts are how much is kept for the next group: what a thousand sends need.
	keepBlocks   = 16
	keepAccounts = 4096
)

// reset makes everything free.
func (s *scratch) reset() {
	if len(s.pool) > keepAccounts || s.byAcc == nil {
		s.byAcc, s.accts, s.pool = make(map[event.Account]*account), nil, nil
	}
	clear(s.byAcc)
	clear(s.accts)
	s.accts, s.taken, s.used, s.block = s.accts[:0], 0, 0, nil
	if cap(s.inboxes) > keepAccounts {
		s.inboxes = nil
	}
	clear(s.inboxes[:cap(s.inboxes)])
	if len(s.log.b) > keepBlocks*blockBytes {
		s.log.b = nil
	}
}

// free returns an account that is not in use.
func (s *scratch) free() *account {
	if s.taken == len(s.pool) {
		s.pool = append(s.pool, new(account))
	}
	a := s.pool[s.taken]
	s.taken++
	clear(a.stage.entries)
	clear(a.stage.rows)
	a.stage.attempts.reset()
	*a = account{parts: a.parts[:0], known: a.known[:0], stage: delta{part: part{
		entries: a.stage.entries[:0], rows: a.stage.rows[:0], attempts: a.stage.attempts,
	}}}
	return a
}

// space returns an empty slice with room for n bytes, at most a block. What is put there lasts if lasting follows.
func (s *scratch) space(n int) []byte {
	if cap(s.block)-len(s.block) < n {
		if s.used == len(s.blocks) {
			s.block = make([]byte, 0, blockBytes)
			if s.used < keepBlocks {
				s.blocks = append(s.blocks, s.block)
			}
		} else {
			s.block = s.blocks[s.used]
		}
		s.used = min(s.used+1, keepBlocks)
	}
	at := len(s.block)
	return s.block[at:at:cap(s.block)]
}

// lasting has the bytes last that were put where space had them.
func (s *scratch) lasting(b []byte) []byte {
	s.block = s.block[:min(len(s.block)+len(b), cap(s.block))]
	return b[:len(b):len(b)]
}
