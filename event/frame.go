package event

import "time"

// Frame is what the engine sends to a device: *Welcome, *Data, *StatePage, *CaughtUp, *Reset, *Live, *Pong or *Closed.
// Frames are pointers in both directions; values do not compile. Frames are valid until Send returns; entries and their
// encodings may be kept.
type Frame interface {
	frame() string // its name in the reference encoding; empty for a nil pointer
}

// Welcome is the first frame of every connection.
type Welcome struct {
	Login    LoginID
	Position Position    // where this connection starts; the first Data's Prev equals it unless a Reset comes first
	Head     uint64      // newest entry of the inbox at that time
	Token    ResumeToken // set if the secret was changed: store it, then confirm with TokenStored
}

// Data carries the entries in (Prev, Seq] that are for this device. Entries of that range that are missing are covered:
// they are for other devices, were sent by this login, or are gone. A Data without entries only covers.
type Data struct {
	Epoch       Epoch
	Prev, Seq   uint64
	Redelivered bool // the entries may have been sent to this device before
	Entries     []*Sealed
}

// StatePage carries conversation state that is newer than the device's position. Pages come before the first Data.
type StatePage struct {
	Epoch  Epoch
	States []State
	More   bool // another page follows
}

// CaughtUp says, once per connection, that the device has been sent all there was.
type CaughtUp struct{ Position Position }

// ResetReason says why a device's position was of no use.
type ResetReason string

const (
	ResetEpoch   ResetReason = "epoch"   // the inbox began anew, or the store was restored
	ResetTrimmed ResetReason = "trimmed" // entries that the device has not seen are gone
	ResetAhead   ResetReason = "ahead"   // the device claims a position that the inbox has not reached
)

// Reset says that the entries in (From, To] will not come, or that From means nothing in this epoch. No Data follows
// until the device answers with ResetAck of To.
type Reset struct {
	Reason   ResetReason
	From, To Position
}

// Live carries one live-only event: it is in no inbox, has no sequence number and is lost if the device is away.
type Live struct{ Event *Sealed }

// Pong answers a Ping.
type Pong struct{ Nonce string }

func (f *Welcome) frame() string   { return named(f, "welcome") }
func (f *Data) frame() string      { return named(f, "data") }
func (f *StatePage) frame() string { return named(f, "state") }
func (f *CaughtUp) frame() string  { return named(f, "caughtUp") }
func (f *Reset) frame() string     { return named(f, "reset") }
func (f *Live) frame() string      { return named(f, "live") }
func (f *Pong) frame() string      { return named(f, "pong") }
func (f *Closed) frame() string    { return named(f, "closed") }

// FrameName returns the name that the reference encoding has for a frame, such as "data". It is empty for nil and for a nil
// pointer.
func FrameName(f Frame) string {
	if f == nil {
		return ""
	}
	return f.frame()
}

// named returns a frame's name, or nothing for a frame that is not there.
func named[T any](f *T, name string) string {
	if f == nil {
		return ""
	}
	return name
}

// ClientFrame is what a device sends to the engine: *Ack, *Nack, *ResetAck, *TokenStored, *Background or *Ping.
type ClientFrame interface {
	clientFrame()
}

// Ack says that the device has stored everything up to Position.
type Ack struct{ Position Position }

// Nack says that the device has got everything up to Position but cannot process the last entry. It counts as Ack.
type Nack struct {
	Position Position
	Code     string // the client's word for why, at most 128 characters
}

// ResetAck answers a Reset with its To.
type ResetAck struct{ Position Position }

// TokenStored confirms that the token of the Welcome frame is stored.
type TokenStored struct{}

// Background says whether the app is in background: it is then away, and gets no live-only events.
type Background struct{ On bool }

// Ping asks for a Pong with the same nonce, at most 128 characters.
type Ping struct{ Nonce string }

func (*Ack) clientFrame()         {}
func (*Nack) clientFrame()        {}
func (*ResetAck) clientFrame()    {}
func (*TokenStored) clientFrame() {}
func (*Background) clientFrame()  {}
func (*Ping) clientFrame()        {}

// ClientFrameName is [FrameName] for what a device sends. It calls no method of f: a call through an interface makes
// the compiler put the frame on the heap, and acks come for every delivery.
func ClientFrameName(f ClientFrame) string {
	switch f := f.(type) {
	case *Ack:
		return named(f, "ack")
	case *Nack:
		return named(f, "nack")
	case *ResetAck:
		return named(f, "resetAck")
	case *TokenStored:
		return named(f, "tokenStored")
	case *Background:
		return named(f, "background")
	case *Ping:
		return named(f, "ping")
	}
	return ""
}

// Closed is the last frame of a connection: why it or its login ended, and what the client should do.
type Closed struct {
	Reason Reason
	Note   string        // the host's words to the user; may be empty
	Cause  *Cause        // the device that caused it; nil: none
	Retry  Retry         // what to do next
	After  time.Duration // with RetryAfter: how long to wait first
}

// Cause describes the device that caused another one's end.
type Cause struct {
	Login    LoginID
	Device   DeviceID
	Platform Platform
	Name     string
}

// Retry is the advice to a client whose connection ended.
type Retry string

const (
	RetryNo    Retry = "no"    // show the reason; do not reconnect by itself
	RetryYes   Retry = "yes"   // reconnect and resume
	RetryAfter Retry = "after" // the same, after the given delay
	RetryLogin Retry = "login" // log in anew
)
