package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
)

// Conn is one live connection to a device. Hosts implement it.
//
// Send is called by one goroutine at a time; Close may come at any moment, from another goroutine, once, and must make a
// running Send return. Both may come at the same moment, and a Send may begin just after Close: it returns an error.
type Conn interface {
	// Send writes frames in order, blocking until ctx ends at most. The slice and the frames are the engine's again when
	// Send returns; *event.Sealed values and their encodings may be kept.
	//
	// ctx has no deadline. It ends as soon as the connection has ended, because its login ended, a newer connection took over
	// or the engine stops; Close is called for the same reason, at once, or when the host's revoke hook has run. A Send may take
	// as long as its device makes progress. If it takes longer than the frame-write limit and no ack comes in meanwhile, the
	// connection is closed as slow, whatever Send does with ctx.
	//
	// An error ends the connection: the engine detaches it and calls Close. There are two exceptions, a [*SkipError] and, of a
	// [NonBlocker], [ErrFull].
	Send(ctx context.Context, frames []event.Frame) error
	// Close ends the connection, telling the client why if it can. It should return quickly. Only a call that has to know that
	// the client was told waits for it, for a bounded time.
	//
	// An error changes nothing. It is counted, logged and told as a failure of the host's code, so return none only because the
	// client is gone already.
	Close(why event.Closed) error
}

// SkipError is what a Send returns for an entry that its client cannot take at all, such as one beyond an MQTT client's
// Maximum Packet Size. It may be wrapped. It says, of the batch that Send was given:
//
//   - What stands before the entry was written: the frames before its *event.Data, and of that the entries before it. A
//     connection that writes a Data as a whole writes one that ends with the entry before; see [Before].
//   - Neither the entry nor anything behind it was written.
//
// The engine takes the entry as one that the device has nacked. Its host is told, and delivery goes on behind the entry on the
// same connection. Nothing else is acknowledged by it: the device's cursor passes the entry once all before it is. A Seq of no
// entry in the batch is an error like any other.
type SkipError struct {
	Seq  uint64 // of the entry
	Code string // why, for the host; at most 128 characters, by convention in the words of an [event.Nack]
}

func (e *SkipError) Error() string {
	return fmt.Sprintf("transport: entry %d is not for this client: %s", e.Seq, e.Code)
}

// Before returns the Data of d's entries before the i-th, as a connection writes it that returns a [*SkipError] for that one.
// It is nil if there are none: then nothing of d is written. Entries are shared with d.
func Before(d *event.Data, i int) *event.Data {
	if i == 0 {
		return nil
	}
	short := *d
	short.Entries, short.Seq = d.Entries[:i], d.Entries[i-1].Seq
	return &short
}

// RemoteAddresser is a Conn that knows the client's address. Optional.
type RemoteAddresser interface {
	// RemoteAddr returns the client's network address as text.
	RemoteAddr() string
}

// MaxBatchBytes bounds the frames of one Send to a [NonBlocker], in the reference encoding with a line end for each frame:
// 512 KiB. A queue has to hold that much, or what the same frames take in its own encoding, and no more.
const MaxBatchBytes = 512 << 10

// NonBlocker is a Conn whose Send never waits for the network. Optional: the engine then calls Send on the goroutine that
// sends or acknowledges, with a context that never ends before the engine does. Such a Send must take no lock that the host
// holds while it calls the engine, and must not send messages itself.
//
// Its queue takes a whole batch, of at most [MaxBatchBytes], or nothing of it. Without room for it Send returns [ErrFull].
// The engine keeps the batch, lets what comes gather behind it, and calls Send again with the same frames: when a [Drainer]
// says that there is room, and once a second. A queue that has no room for longer than the frame-write limit, without an ack
// coming in meanwhile, is that of a slow device, and its connection is closed as such.
type NonBlocker interface {
	// NonBlocking reports whether Send only enqueues.
	NonBlocking() bool
}

// ErrFull is returned by the Send of a [NonBlocker] that has no room for the batch in its queue. Nothing of the batch was
// taken. It may be wrapped. Any other error ends the connection.
var ErrFull = errors.New("transport: queue is full")

// Drainer is a [NonBlocker] that says when its queue has room again. Optional.
type Drainer interface {
	NonBlocker
	// NotifyDrained is called once, before the first Send, with a function that the connection calls whenever it has room
	// again after an ErrFull: best once its queue is empty, or half so, since the batch may be as large as the queue. ready may
	// be called at any time and from any goroutine, with locks held that Send takes; it returns at once and does not call
	// the connection itself.
	NotifyDrained(ready func())
}

// Bus carries messages between the nodes of one deployment. It may lose, repeat and reorder anything: what it says is a
// hint, the store is the truth. All methods are safe for concurrent use.
type Bus interface {
	// Publish sends to one node without waiting for it. An error means only that it was certainly not sent.
	Publish(ctx context.Context, node event.NodeID, msg []byte) error
	// Request sends to one node and waits for its answer as long as ctx allows. ErrGone: nobody listens under that name.
	// ErrUnknown: there was no answer; the node may or may not have acted.
	Request(ctx context.Context, node event.NodeID, msg []byte) ([]byte, error)
	// Subscribe listens under a name until stop is called. handle is called with one message at a time and must not keep
	// msg; what it returns answers a request and is dropped otherwise. stop waits for a running handle.
	Subscribe(node event.NodeID, handle func(msg []byte) []byte) (stop func(), err error)
}

// Errors of a Bus.
var (
	// ErrGone: no node listens under that name.
	ErrGone = errors.New("transport: node is gone")
	// ErrUnknown: no answer came. The node may or may not have acted.
	ErrUnknown = errors.New("transport: no answer")
	// ErrTaken: another subscriber has that name.
	ErrTaken = errors.New("transport: node name is taken")
	// ErrClosed: the connection or bus was closed.
	ErrClosed = errors.New("transport: closed")
)
