// Package fanout decides who gets a copy and brings it there: messages, operations, receipts and read state to every
// device of every account that they concern, live or after days.
//
// # One path
//
// A send is one commit: an entry in each recipient's inbox and one in the sender's. Nothing waits for a device. The commit
// rings a doorbell for the attached logins of these accounts; a reader, which exists only while there is something to do,
// takes the entries after its device's position out of the inbox and sends them. A device that was away for a week and
// one that is attached now are served by the same code.
//
// # Order and gaps
//
// On one connection every Data frame continues where the one before ended. Entries that are not for the device (its own
// sends, entries for other devices, entries that are gone) are covered by the range of a frame. A position that is of no
// use is answered with Reset, and nothing follows until the device has acknowledged it.
//
// # Acks and slow devices
//
// A device's place in the inbox, its cursor, moves only by its acks. At most a window of entries is unacknowledged; a
// device that makes no progress is closed with advice to reconnect, and gets the same entries again, flagged. A watchdog looks
// at every Send: one that takes longer than Config.FrameWrite without an ack coming in is ended by a Close, whatever it does
// with its context. A connection may have limits of its own, see [AttachRequest]. Cursors are
// written behind: after a crash they are at most Config.CursorFlush older than the last ack, and what was committed before it
// counts as redelivered. [Router.Drain] and [Router.Close] write them: after an orderly stop nothing does that was not sent.
//
// # Entries that defeat a device
//
// A device that loses its connection at the same entry again and again is reported (Config.OnPoison), and gets its entries one
// at a time, so that the report names the right one. Nothing is skipped by itself: [Router.Park] has an entry passed over for
// one device. A connection that cannot take an entry says so with a [transport.SkipError]: that is a nack of the entry.
//
// # What hosts see
//
// [Router.Stats] counts everything by cause, [Router.Subscribe] is a bounded stream of what is out of the ordinary, read by a
// goroutine of the host's, and
// [Router.Inspect] shows one account as JSON, without payloads unless asked. docs/operations.md says what to watch.
//
// # Live-only events
//
// [Router.Publish] reaches devices that are attached now. Such events are in no inbox; when a connection cannot take them
// they are dropped: those of the lowest priority first, of these the oldest.
//
// # Push
//
// With Config.Push the host is told, after a delay, which devices a message has not reached, so that it can wake them:
// exactly those that hold a login, have not acknowledged it, and whose account has not read it meanwhile, as far as a rule or
// the host lets them. docs/push.md has the whole of it.
//
// # Concurrency and errors
//
// A [Router] and its [Attachment]s are safe for concurrent use. The text of an error begins with the call that failed, such
// as "fanout: mark read: ". Input is checked first: a bad field is an [*event.InvalidError], which names it as the request or
// the parameter does, and nothing is written. A frame that a correct client cannot send ends its connection with
// protocol_error and nothing else.
package fanout
