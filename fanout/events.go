package fanout

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// EventKind says what an [Event] tells of.
type EventKind string

// What hosts can watch. Ordinary deliveries are only counted, see [Router.Stats].
const (
	EventReset       EventKind = "reset"        // a device was told that its position is of no use: From, To, Cause
	EventRedelivered EventKind = "redelivered"  // entries go to a device that may have got them before: Count, To is the last one
	EventLiveDropped EventKind = "live_dropped" // live-only events were dropped for a connection: Count, Cause
	EventTrimmed     EventKind = "trimmed"      // entries were removed by retention: From (not included), To, Count, Cause
	EventSlow        EventKind = "slow"         // a connection was closed because it made no progress: Cause
	EventNacked      EventKind = "nacked"       // a device could not process an entry: To, Code
	EventPoison      EventKind = "poison"       // an entry has defeated a device several times: To, Count of attempts. See [Poison]
	EventParked      EventKind = "parked"       // the host has parked an entry for a device: To
	EventUnparked    EventKind = "unparked"     // and has taken it back: To
	EventRefused     EventKind = "refused"      // a call of the host's was refused: Call, Cause, Err; Account and Login are who it was for
	EventTrimFailed  EventKind = "trim_failed"  // an inbox, or without Account the list of accounts, could not be trimmed, and is tried again: Err
	EventFlushFailed EventKind = "flush_failed" // cursors or receipts could not be written, and are tried again: Err
	EventReadFailed  EventKind = "read_failed"  // a connection was closed because its inbox could not be read: Err
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
	Call     string // of EventRefused: send, publish, mark_read or clear_unread
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
	CauseFrameWrite Cause = "frame_write" // Conn.Send took longer than Config.FrameWrite
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
		{ErrUnknownOrigin, CauseUnknownOrigin}, {ErrUnknownTarget, CauseUnknownTarget}, {ErrUnknownMessage, CauseUnknownMessage},
		{store.ErrMismatch, CauseMismatch}, {store.ErrWindowFull, CauseWindowFull}, {store.ErrFull, CauseFull},
		{ErrClosed, CauseClosed}, {session.ErrClosed, CauseClosed}, {store.ErrClosed, CauseClosed},
		{store.ErrUnknownOutcome, CauseUnknownOutcome},
		{context.Canceled, CauseCanceled}, {context.DeadlineExceeded, CauseCanceled},
	} {
		if errors.Is(err, c.err) {
			return c.cause
		}
	}
	return CauseStore
}

// Subscription is a stream of events for a host that looks on. It is safe for concurrent use.
type Subscription struct {
	f       *feed
	dropped atomic.Uint64

	mu     sync.Mutex
	closed bool
	out    chan Event
}

// feed hands events to subscriptions.
type feed struct {
	list atomic.Pointer[[]*Subscription] // nil: nobody looks on
	now  func() time.Time

	mu     sync.Mutex // held to change the list
	closed bool
}

// Subscribe returns a stream of all events from now on. An event that finds the buffer full is dropped and counted: the
// engine never waits for who looks on. The buffer holds that many events, from 1 to 1,048,576. As long as nobody has
// subscribed, events cost nothing.
//
// Errors: [*event.InvalidError], [ErrClosed].
func (r *Router) Subscribe(buffer int) (*Subscription, error) {
	if buffer < 1 || buffer > 1<<20 {
		return nil, &event.InvalidError{Field: "buffer", Reason: "want 1 to 1048576"}
	}
	s := &Subscription{f: &r.feed, out: make(chan Event, buffer)}
	if !r.feed.add(s) {
		return nil, ErrClosed
	}
	return s, nil
}

// Events returns the stream. It is closed by Close, and when the router is closed.
func (s *Subscription) Events() <-chan Event { return s.out }

// Dropped returns how many events were dropped because the buffer was full. Whoever finds it raised compares the counters
// of [Router.Stats], which miss nothing.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the stream. It may be called again.
func (s *Subscription) Close() {
	s.f.remove(s)
	s.end()
}

func (s *Subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.out)
	}
}

// offer adds an event, or drops it.
func (s *Subscription) offer(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.out <- e:
	default:
		s.dropped.Add(1)
	}
}

// add reports whether the feed is still open.
func (f *feed) add(s *Subscription) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.setLocked(append(f.subscriptions(), s))
	return true
}

func (f *feed) remove(s *Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.setLocked(slices.DeleteFunc(f.subscriptions(), func(o *Subscription) bool { return o == s }))
}

// close ends all streams.
func (f *feed) close() {
	f.mu.Lock()
	all := f.subscriptions()
	f.closed = true
	f.setLocked(nil)
	f.mu.Unlock()
	for _, s := range all {
		s.end()
	}
}

// subscriptions returns a copy of the list.
func (f *feed) subscriptions() []*Subscription {
	if p := f.list.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

func (f *feed) setLocked(all []*Subscription) {
	if len(all) == 0 {
		f.list.Store(nil)
		return
	}
	f.list.Store(&all)
}

// watched reports whether an event is worth the trouble.
func (f *feed) watched() bool { return f.list.Load() != nil }

// emit hands an event to all subscriptions. It never waits, so it may be called with a lock held.
func (f *feed) emit(e Event) {
	p := f.list.Load()
	if p == nil {
		return
	}
	e.Time = f.now()
	for _, s := range *p {
		s.offer(e)
	}
}

// tell tells of something that happened to the attachment.
func (a *Attachment) tell(e Event) {
	if !a.r.feed.watched() {
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
	if !r.feed.watched() {
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
