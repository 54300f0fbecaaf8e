// Package transporttest has what tests of a connection and of the engine need: [Pair], an in-memory connection with
// faults; [Device], a client that reads a Pair, checks every frame and remembers what it got; and the suites [TestConn]
// and [TestBus], which a host runs against its own transport.Conn and transport.Bus.
//
// Nothing here starts a goroutine but Device, which owns one per connection and waits for it. Everything waits on channels
// and timers only, so that it works inside a testing/synctest bubble as well as outside.
package transporttest
