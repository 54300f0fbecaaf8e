package fanout

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// EventKind says what an [Event] tells of.
type EventKind string

// What hosts can watch. Ordinary deliveries are only counted, see [Router.Stats].
const (
	EventReset       EventKind = "reset"         // a device was told that its position is of no use: From, To, Cause
	EventRedelivered EventKind = "redelivered"   // entries go to a device that may have had them before: Count, To is the last
	EventLiveDropped EventKind = "live_dropped"  // live-only events were dropped for a connection: Count, Cause
	EventTrimmed     EventKind = "trimmed"       // entries were removed by retention: From (not included), To, Count, Cause
	EventSlow        EventKind = "slow"          // a connection was closed because it made no progress: Cause
	EventNacked      EventKind = "nacked"        // a device could not process an entry, or its connection skipped it: To, Code
	EventPoison      EventKind = "poison"        // an entry has defeated a device several times: To, Count of attempts. See [Poison]
	EventParked      EventKind = "parked"        // the host has parked an entry for a device: To
	EventUnparked    EventKind = "unparked"      // and has taken it back: To
	EventRefused     EventKind = "refused"       // a call of the host's, for Account and Login, was refused: Call, Cause, Err
	EventTrimFailed  EventKind = "trim_failed"   // an inbox, or without Account the list of accounts, could not be trimmed yet: Err
	EventPushFailed  EventKind = "push_failed"   // pushes could not be decided, or without Account such accounts not found, yet: Err
	EventPushGivenUp EventKind = "push_given_up" // the push hook has failed for the last time for Count entries: Err
	EventHookFailed  EventKind = "hook_failed"   // a hook panicked, returned an error, was late, or was left out: Call, Err
	EventFlushFailed EventKind = "flush_failed"  // cursors or receipts could not be written, and are tried again: Err
	EventReadFailed  EventKind = "read_failed"   // a connection was closed because its inbox could not be read: Err
	EventSendFailed  EventKind = "send_failed"   // a connection was closed because its Send failed or panicked: Err
)

// Event is something that a host may want to know of. Fields that a kind does not name are empty. It has no payloads and no
// tokens.
type Event struct {
	Kind     EventKind
	Time     time.Time
	Account  event.Account
	Login    event.LoginID
	Device   event.DeviceID
	From, To event.Position
	Count    int
	Cause    Cause
	Call     string // of EventRefused: send, publish, mark_read, clear_unread or claim; of EventHookFailed: one of [Hooks]
	Code     string // of EventNacked: the client's word for why
	Err      error
}

// Cause is why something was dropped, removed, closed or refused.
type Cause string

// Causes of [EventReset], under the names of [event.ResetReason].
const (
	CauseEpoch   = Cause(event.ResetEpoch)
	CauseTrimmed = Cause(event.ResetTrimmed) // the device has lost entries
	CauseAhead   = Cause(event.ResetAhead)
)

// Causes of [EventLiveDropped].
const (
	CauseRingFull   Cause = "ring_full"  // the connection takes less than there is
	CauseReplaced   Cause = "replaced"   // a newer one with the same subject came
	CauseTooOld     Cause = "too_old"    // it waited longer than Config.LiveLife
	CauseBackground Cause = "background" // the device's app is in background
	CauseEnded      Cause = "ended"      // the connection ended before it was sent
)

// Causes of [EventTrimmed].
const (
	CauseAge     Cause = "age"     // older than Config.MaxAge
	CauseEntries Cause = "entries" // more than Config.MaxEntries
	CauseBytes   Cause = "bytes"   // more than Config.MaxBytes
	CauseAcked   Cause = "acked"   // every device has it, and it is older than Config.KeepMinimum
)

// Causes of [EventSlow].
const (
	CauseAckWait    Cause = "ack_wait"    // nothing was acknowledged for Config.AckWait
	CauseFrameWrite Cause = "frame_write" // Conn.Send took longer than Config.FrameWrite, or its queue was full for so long
)

// Causes of [EventRefused].
const (
	CauseInvalid        Cause = "invalid"         // an [*event.InvalidError]
	CauseUnknownOrigin  Cause = "unknown_origin"  // [ErrUnknownOrigin]
	CauseUnknownTarget  Cause = "unknown_target"  // [ErrUnknownTarget]
	CauseUnknownMessage Cause = "unknown_message" // [ErrUnknownMessage]
	CauseMismatch       Cause = "mismatch"        // [store.ErrMismatch]
	CauseWindowFull     Cause = "window_full"     // [store.ErrWindowFull]
	CauseFull           Cause = "full"            // [store.ErrFull]
	CauseClosed         Cause = "closed"          // the engine was closed
	CauseCanceled       Cause = "canceled"        // the caller's context ended
	CauseUnknownOutcome Cause = "unknown_outcome" // [store.ErrUnknownOutcome]: it may have been accepted
	CauseStore          Cause = "store"           // any other error of the store
)

// Causes returns all causes that are counted, see [Stats].
func Causes() []Cause {
	return []Cause{
		CauseEpoch, CauseTrimmed, CauseAhead,
		CauseRingFull, CauseReplaced, CauseTooOld, CauseBackground, CauseEnded,
		CauseAge, CauseEntries, CauseBytes, CauseAcked,
		CauseAckWait, CauseFrameWrite,
		CauseInvalid, CauseUnknownOrigin, CauseUnknownTarget, CauseUnknownMessage, CauseMismatch, CauseWindowFull, CauseFull,
		CauseClosed, CauseCanceled, CauseUnknownOutcome, CauseStore,
	}
}

// causeOf says why a call was refused.
func causeOf(err error) Cause {
	if _, ok := errors.AsType[*event.InvalidError](err); ok {
		return CauseInvalid
	}
	for _, c := range [...]struct {
		err   error
		cause Cause
	}{
		{store.ErrUnknownOutcome, CauseUnknownOutcome}, // first: it may have been done
		{ErrUnknownOrigin, CauseUnknownOrigin}, {ErrUnknownTarget, CauseUnknownTarget}, {ErrUnknownMessage, CauseUnknownMessage},
		{store.ErrMismatch, CauseMismatch}, {store.ErrWindowFull, CauseWindowFull}, {store.ErrFull, CauseFull},
		{ErrClosed, CauseClosed}, {session.ErrClosed, CauseClosed}, {store.ErrClosed, CauseClosed},
		{context.Canceled, CauseCanceled}, {context.DeadlineExceeded, CauseCanceled},
	} {
		if errors.Is(err, c.err) {
			return c.cause
		}
	}
	return CauseStore
}

// Subscription is a stream of events for a host that watches. It is safe for concurrent use: of several calls of Next, each
// gets other events.
//
// The engine never blocks on a slow subscriber: what finds the buffer full is dropped and counted. The buffer has two lanes,
// so that what clients can make happen as often as they like never takes the place of anything else:
//
//   - frequent: [EventRedelivered], [EventLiveDropped], [EventNacked], [EventSendFailed], [EventHookFailed] and [EventRefused];
//   - important: all other kinds.
type Subscription struct{ s *stream.Subscription[Event] }

// Subscribe returns a stream of all events from now on. Each of its two lanes holds buffer events, from 1 to 1,048,576. While
// there is no subscription, events cost nothing. Close a subscription that is no longer needed.
//
// Errors: [*event.InvalidError], [ErrClosed].
func (r *Router) Subscribe(buffer int) (_ *Subscription, err error) {
	defer fault.In("fanout", "subscribe", &err)
	s, err := r.feed.Subscribe(buffer)
	if err != nil {
		return nil, err
	}
	return &Subscription{s}, nil
}

// Next returns the oldest event, and waits for one as long as ctx allows. After Close, of the subscription or of the
// router, it returns what is left in the buffer, and then [ErrClosed].
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	e, err := s.s.Next(ctx)
	fault.In("fanout", "next", &err)
	return e, err
}

// All returns the events as they come, for a loop. It ends when ctx has ended, and when nothing is left after Close.
func (s *Subscription) All(ctx context.Context) iter.Seq[Event] { return s.s.All(ctx) }

// Dropped returns how many events were lost because their lane was full. The counters of [Router.Stats] miss nothing.
func (s *Subscription) Dropped() (important, frequent uint64) { return s.s.Dropped() }

// Close ends the stream. It may be called again.
func (s *Subscription) Close() { s.s.Close() }

// feed hands events to subscriptions.
type feed struct {
	stream.Feed[Event]
	now func() time.Time
}

// emit hands an event to all subscriptions. It never waits, so it may be called with a lock held.
func (f *feed) emit(e Event) {
	if !f.Watched() {
		return
	}
	e.Time = f.now()
	i := stream.Item[Event]{Value: e}
	switch e.Kind {
	case EventRedelivered, EventLiveDropped, EventNacked, EventSendFailed, EventHookFailed, EventRefused:
		i.Lane = stream.Frequent
	}
	f.Publish(i)
}

// tell tells of something that happened to the attachment.
func (a *Attachment) tell(e Event) {
	if !a.r.feed.Watched() {
		return
	}
	e.Account, e.Login, e.Device = a.hub.account, a.conn.Login(), a.conn.Device()
	a.r.feed.emit(e)
}

// refused counts a call that was refused, and tells of it. What the caller said is only repeated if it is well-formed.
func (r *Router) refused(call string, account event.Account, login event.LoginID, err error) {
	cause := causeOf(err)
	r.stats.refused.Add(1)
	r.stats.cause(cause, 1)
	if !r.feed.Watched() {
		return
	}
	e := Event{Kind: EventRefused, Call: call, Cause: cause, Err: err}
	if account.Validate() == nil {
		e.Account = account
	}
	if login.Validate() == nil {
		e.Login = login
	}
	r.feed.emit(e)
}
