package transporttest

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// checkSkip sends an entry that is too large, between two that are not, and what is left of the batch again, as the engine
// does.
func checkSkip(c *connRun) error {
	if c.h.MaxEntry <= 0 {
		return nil
	}
	big := make([]byte, c.h.MaxEntry+1)
	all := &event.Data{Epoch: 1, Prev: 5, Seq: 9, Entries: []*event.Sealed{testEntry(6, []byte("a")), testEntry(7, big), testEntry(9, []byte("b"))}}
	rest := &event.Data{Epoch: 1, Prev: 6, Seq: 9, Entries: all.Entries[2:]}
	sent := make(chan error, 1)
	go func() {
		skip, ok := errors.AsType[*transport.SkipError](c.send(&event.Pong{Nonce: "before"}, all, &event.Pong{Nonce: "behind"}))
		switch {
		case !ok:
			sent <- errors.New("Send returns no SkipError for an entry that the client does not take")
		case skip.Seq != 7:
			sent <- fmt.Errorf("the SkipError is about entry %d, want 7", skip.Seq)
		default:
			sent <- c.send(rest)
		}
	}()
	if err := c.expect(&event.Pong{Nonce: "before"}, transport.Before(all, 1), rest); err != nil {
		select {
		case s := <-sent:
			return errors.Join(s, err)
		default:
			return err
		}
	}
	if err := <-sent; err != nil {
		return err
	}
	skip, ok := errors.AsType[*transport.SkipError](c.send(&event.Data{Epoch: 1, Prev: 9, Seq: 10, Entries: []*event.Sealed{testEntry(10, big)}}))
	if !ok || skip.Seq != 10 {
		return errors.New("no SkipError for the only entry of a Data")
	}
	return c.deliver(testData(10, []byte("c")))
}

// nonBlocking returns the connection as one that never waits, or nil.
func (c *connRun) nonBlocking() transport.NonBlocker {
	if n, ok := c.conn.(transport.NonBlocker); ok && n.NonBlocking() {
		return n
	}
	return nil
}

// bigBatch is about as large as a batch gets.
func bigBatch() *event.Data {
	payload := bytes.Repeat([]byte("x"), 32<<10)
	d := &event.Data{Epoch: 1}
	for size := 0; size+len(payload)+1<<10 < transport.MaxBatchBytes; size += len(payload) + 1<<10 {
		d.Seq++
		d.Entries = append(d.Entries, testEntry(d.Seq, payload))
	}
	return d
}

func checkBatch(c *connRun) error {
	if c.nonBlocking() == nil {
		return nil
	}
	if err := c.send(bigBatch()); err != nil {
		return fmt.Errorf("a batch of transport.MaxBatchBytes into an empty queue: %w", err)
	}
	return nil
}

func checkFull(c *connRun) error {
	if c.nonBlocking() == nil {
		return nil
	}
	ready := make(chan struct{}, 1)
	d, tells := c.conn.(transport.Drainer)
	if tells {
		d.NotifyDrained(func() {
			select {
			case ready <- struct{}{}:
			default:
			}
		})
	}
	payload := make([]byte, 16<<10)
	batch := func(i uint64) []event.Frame { return []event.Frame{testData(2*i, payload), testData(2*i+1, payload)} }
	n := uint64(0)
	for ; n < enough/uint64(2*len(payload)); n++ {
		err := c.send(batch(n)...)
		if err == nil {
			continue
		}
		if errors.Is(err, transport.ErrFull) {
			break
		}
		return nil // any other error is the end of the connection
	}
	if n == enough/uint64(2*len(payload)) {
		return nil // it has no bound
	}
	for len(ready) > 0 {
		<-ready
	}
	if err := c.send(batch(n)...); err != nil && !errors.Is(err, transport.ErrFull) {
		return fmt.Errorf("the batch again: %w", err)
	} else if err == nil {
		n++ // it had room by now
	}
	for i := range n {
		if err := c.expect(batch(i)...); err != nil {
			return fmt.Errorf("what was taken: %w", err)
		}
	}
	if tells {
		select {
		case <-ready:
		case <-time.After(c.h.Timeout):
			return errors.New("the device has read all, and the engine is not told")
		}
	}
	if err := c.send(batch(n)...); err != nil {
		return fmt.Errorf("an empty queue: %w", err)
	}
	return c.expect(batch(n)...) // and nothing of what was refused
}
