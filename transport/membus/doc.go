// Package membus is a transport.Bus within one process, for several engines in one program and for tests. It can lose and
// repeat messages and cut nodes off.
//
// # Delivery
//
// Each subscriber has a bounded queue and a goroutine that calls its handler with one message at a time, in the order in
// which they were sent. A message is delivered at most once, unless a test asks for more. What does not fit into the queue
// is dropped and counted, see [Bus.Dropped]; the sender learns of it: [ErrFull] from Publish, and transport.ErrUnknown,
// which wraps ErrFull, from Request.
//
// A handler may use the bus, also to publish to its own node. A request to its own node gets no answer while the handler
// runs, so it ends with its context. A handler must not call its own stop, nor Close.
//
// # End
//
// stop drops what waits in the queue: such requests get transport.ErrGone, since their node did not act. After Close
// everything returns transport.ErrClosed, and requests that wait get transport.ErrUnknown or transport.ErrGone.
package membus
