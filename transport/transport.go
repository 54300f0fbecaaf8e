package transport

import (
	"context"
	"errors"

	"github.com/manydevice/manydevice/event"
)

// Conn is one live connection to a device. Hosts implement it.
//
// Send is called by one goroutine at a time; Close may come at any moment, from another goroutine, once, and must make a
// running Send return.
type Conn interface {
	// Send writes frames in order, blocking until ctx ends at most. An error means that the connection is of no use any
	// more: the engine detaches it and calls Close. The slice and the frames are the engine's again when Send returns;
	// *event.Sealed values and their encodings may be kept.
	Send(ctx context.Context, frames []event.Frame) error
	// Close ends the connection, telling the client why if it can. It should return quickly: the engine waits a bounded
	// time for it.
	Close(why event.Closed) error
}

// RemoteAddresser is a Conn that knows the client's address. Optional.
type RemoteAddresser interface {
	// RemoteAddr returns the client's network address as text.
	RemoteAddr() string
}

// NonBlocker is a Conn whose Send never waits for the network. Optional: the engine then calls Send on the goroutine that
// sends or acknowledges, without a deadline. Such a Send must take no lock that the host holds while it calls the engine,
// and must not send messages itself.
type NonBlocker interface {
	// NonBlocking reports whether Send only enqueues.
	NonBlocking() bool
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
