package rows

import (
	"strconv"
	"sync/atomic"
)

// Sender is a store that does the work. It is safe for concurrent use.
type Sender interface {
	// Send returns when a message is durable.
	Send(Message) (Result, error)
	// Fill does the same for many messages, with few syncs.
	Fill([]Message) error
	// Head and Count read what Send has counted.
	Head(account string) (Head, error)
	Count(account, conversation string) (uint64, error)
}

// Fill gives each of the accounts an entry, as the files of the library have that it is compared with.
func Fill(s Sender, accounts int, account func(i int) string, number func() uint64) error {
	const batch = 4096
	for first := 0; first < accounts; first += batch {
		var all []Message
		for i := first; i < min(first+batch, accounts); i += 2 {
			from, to := account(i), account((i+1)%accounts)
			all = append(all, New(from, to, "fill", "f"+strconv.Itoa(i), make([]byte, 16), number()))
		}
		if err := s.Fill(all); err != nil {
			return err
		}
	}
	return nil
}

// Numbers gives out numbers of messages.
type Numbers struct{ last atomic.Uint64 }

// Next returns the next one.
func (n *Numbers) Next() uint64 { return n.last.Add(1) }
