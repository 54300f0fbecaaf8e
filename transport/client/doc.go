// Package client is the device's side of the protocol as a pure state machine: frames of the engine go in, what the app
// has to do comes out. It has no network, clock, goroutine or lock, so that an app can drive it from any loop and a test
// can drive it step by step. Clients in other languages can follow it line by line.
//
// # The loop
//
//	m := client.New(load(), client.Config{})          // what was saved last; the zero State on first start
//	for {
//		pos := m.Attach()                             // begins a connection
//		conn := attach(m.Login(), m.Token().Reveal(), pos) // pos nil: the engine says where to start
//		for frame := range conn.frames {
//			step, err := m.Receive(frame)
//			if err != nil {
//				break                                 // the engine broke a rule: drop the connection
//			}
//			save(m.Snapshot().Encode(), step)         // in one transaction, if step.Save
//			for _, reply := range m.Replies() {
//				conn.send(reply)                      // only now
//			}
//			if step.Closed != nil || step.Reattach {
//				break                                 // step.Closed.Retry says what to do next
//			}
//		}
//	}
//
// # The client rule
//
// A Data frame is applied if its Prev equals the position; entries that are not newer than the position, and messages
// that the client holds, are passed over; anything else means that frames were lost, and the client attaches again from
// its own position. The position is saved together with what was applied, and only then acknowledged. A client that does
// so applies every entry exactly once between two Resets, whatever connections and processes die in between.
//
// # Save, then reply
//
// [Machine.Replies] hands out acknowledgements, so it must not be called before the state of [Machine.Snapshot] and the
// entries of all steps since the last call are saved together. Saving several steps at once is fine: one Ack covers them
// all. A crash between saving and replying costs nothing: the next attach request carries the saved position, which the
// engine takes as an acknowledgement. A token is confirmed by its first use.
//
// An app and its extensions may share a login if they share the place where its token is kept. Each reads it right before it
// attaches, and saves a new token only if the place still holds the one that it attached with.
//
// # Reset
//
// A Reset says that entries are gone or that the position means nothing any more. The machine moves to Reset.To; the app
// loads from the host what it needs, such as a history snapshot, and drops what it had derived from the log, such as
// unread counts. Messages that it holds stay, so that the same message under a new number is applied only once. After
// [event.ResetTrimmed] the registers stay too, and the engine sends those that are newer than Reset.From. After any other
// Reset they are dropped, and the engine sends all there are, as it does for a client without a position.
//
// A new position is saved only when the State frames that go with it have come, that is with the first Data or CaughtUp
// after it. A client that dies before attaches as it did the time before, and gets the Reset again.
//
// # Conversation state
//
// Registers come in State frames when a connection begins, and later with the entries that set them. Read markers never
// go back: the highest Number stays. Of any other register the one with the higher Seq stays. Both ways lead to the same
// registers, which [Machine.Digest] makes easy to compare.
//
// # Bounds
//
// A machine keeps the last [Config.Keep] message IDs and one register per conversation and name.
package client
