package transport_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// packets is a connection to a client that takes no packet of more than 20 bytes.
type packets struct{}

func (packets) Send(_ context.Context, frames []event.Frame) error {
	for _, f := range frames {
		data, ok := f.(*event.Data)
		if !ok {
			continue
		}
		for i, e := range data.Entries {
			if len(e.Payload) > 20 {
				if short := transport.Before(data, i); short != nil {
					write(short)
				}
				return &transport.SkipError{Seq: e.Seq, Code: "packet_too_large"}
			}
		}
		write(data)
	}
	return nil
}

func (packets) Close(event.Closed) error { return nil }

// write is where the bytes of a Data would go to the socket.
func write(d *event.Data) {
	fmt.Printf("written: %d entries, from %d up to %d\n", len(d.Entries), d.Prev, d.Seq)
}

// The second entry is beyond what the client takes. The first one was written, the third was not: the engine sends it next.
func ExampleSkipError() {
	data := &event.Data{Epoch: 1, Prev: 7, Seq: 10}
	for seq, text := range []string{8: "hello", 9: "a picture of many bytes", 10: "did you get it?"} {
		if text != "" {
			data.Entries = append(data.Entries, event.Seal(event.Entry{Seq: uint64(seq), Kind: event.KindMessage, Payload: []byte(text)}))
		}
	}
	err := packets{}.Send(context.Background(), []event.Frame{data})
	if skip, ok := errors.AsType[*transport.SkipError](err); ok {
		fmt.Println("skipped:", skip.Seq, skip.Code)
	}
	// Output:
	// written: 1 entries, from 7 up to 8
	// skipped: 9 packet_too_large
}

// queue is a connection that never waits: a goroutine of the host's writes what it holds to the socket.
type queue struct {
	mu    sync.Mutex
	bytes []byte
	full  bool   // Send was refused since the queue was empty
	ready func() // tells the engine
}

var _ transport.Drainer = (*queue)(nil)

func (*queue) NonBlocking() bool { return true }

func (q *queue) NotifyDrained(ready func()) { q.ready = ready }

func (q *queue) Send(_ context.Context, frames []event.Frame) (err error) {
	var batch []byte
	for _, f := range frames {
		if batch, err = event.AppendFrame(batch, f); err != nil {
			return err
		}
		batch = append(batch, '\n')
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full = len(q.bytes)+len(batch) > transport.MaxBatchBytes; q.full {
		return transport.ErrFull // nothing of the batch was taken
	}
	q.bytes = append(q.bytes, batch...)
	return nil
}

func (*queue) Close(event.Closed) error { return nil }

// drain takes what is queued, and tells the engine if it waits for room.
func (q *queue) drain() int {
	q.mu.Lock()
	n, full := len(q.bytes), q.full
	q.bytes, q.full = nil, false
	q.mu.Unlock()
	if full {
		q.ready()
	}
	return n
}

// The engine tries again with the same batch when the queue is empty.
func ExampleDrainer() {
	q := &queue{}
	big := event.Seal(event.Entry{Seq: 1, Kind: event.KindMessage, Payload: make([]byte, 300<<10)})
	batch := []event.Frame{&event.Data{Epoch: 1, Seq: 1, Entries: []*event.Sealed{big}}}
	q.NotifyDrained(func() { fmt.Println("the engine sends again:", q.Send(context.Background(), batch)) })
	for range 2 {
		fmt.Println(q.Send(context.Background(), batch))
	}
	fmt.Println(q.drain() > 300<<10)
	// Output:
	// <nil>
	// transport: queue is full
	// the engine sends again: <nil>
	// true
}
