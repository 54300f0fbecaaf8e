// Package manydevice is an engine that gives a chat server everything that "one account, many devices" takes. It is a
// library: the host keeps its network, its users, its message history and its authorisation; the engine decides who may
// be logged in where, keeps one ordered inbox for each account, and brings every entry to every device.
//
// # Parts
//
// An [Engine] wires two parts over a store. [session.Registry] admits logins, attaches connections to them, lists them
// and ends them; package [github.com/manydevice/manydevice/policy] decides which may stay. [fanout.Router] sends, delivers,
// and keeps cursors, receipts and read state. Hosts implement [github.com/manydevice/manydevice/transport.Conn] for their own
// connections and choose a [store.Store]: store/memstore for tests, store/boltstore for one machine. Package [event] has the
// words that all share.
//
// # A connection's life
//
// The host authenticates a client in its own way and calls Sessions.Login once for each new login; the client keeps the
// login ID and the resume token, whose text is LoginResult.Token.Reveal(). For every connection the host calls
// Router.Attach with them, passes what the client's sync frames say to Attachment.Handle, calls Attachment.Touch for all
// else that comes from the client, and Attachment.Detach when the connection is gone. What an error means for the client,
// event.ClosedOf says. Sends, read marks, kicks and lists are plain calls that the host makes after it has decoded and
// authorised a request of its own protocol. Before it stops, the host calls Drain, then Close. The program examples/embed has
// all of this in the fewest lines.
//
// # Promises
//
// What was answered is durable, on stores that are. Each device gets every entry that is for it, in order, and after a
// lost connection goes on where it was; a client that follows the rule of docs/protocol.md applies each entry exactly
// once. Positions that have become useless are answered with an explicit Reset, never with silence. The full list is in
// the README.
//
// # Concurrency and lifetime
//
// Everything is safe for concurrent use. Close the engine first, then the store. No host code is called with a lock held.
package manydevice
