package event

import (
	"encoding/base64"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Sizes that an encoded frame may have, without the end of the line. Decoders look at them before anything else.
const (
	MaxFrameBytes       = 4 << 20 // from the engine to a device
	MaxClientFrameBytes = 4 << 10 // from a device to the engine
)

// maxKeyBytes bounds coalesce keys: stores take no longer ones.
const maxKeyBytes = 512

// textSlack is how much longer than twice its payload a JSON text may be. Beyond that, which only text full of control
// characters reaches, base64 is used, so that the size of a frame stays near that of its payloads.
const textSlack = 1024

// AppendFrame appends the reference encoding of f to dst: one JSON object without a line end. The encoding of an entry is
// made once and reused, see [Sealed.JSON], but for those of [SealPage]. A frame that is nil, lacks a required field, holds
// a register of the engine's own or would be longer than [MaxFrameBytes] is refused with a [*FrameError], and dst is
// returned as it was. Text that is not valid UTF-8 is written with replacement characters, times before 1970 as 1970, and
// a delay is rounded up to milliseconds. It is safe for concurrent use.
func AppendFrame(dst []byte, f Frame) ([]byte, error) {
	out, err := appendFrame(dst, f)
	if err == nil && len(out)-len(dst) > MaxFrameBytes {
		err = &FrameError{Type: FrameName(f), Fault: FaultSize, Reason: "longer than MaxFrameBytes"}
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

func appendFrame(dst []byte, f Frame) ([]byte, error) {
	if FrameName(f) == "" {
		return dst, &FrameError{Fault: FaultValue, Reason: "nothing there"}
	}
	switch f := f.(type) {
	case *Welcome:
		return appendWelcome(dst, f)
	case *Data:
		return appendData(dst, f)
	case *StatePage:
		return appendStatePage(dst, f)
	case *CaughtUp:
		dst = append(dst, `{"t":"caughtUp"`...)
		return append(appendPosition(dst, "position", f.Position), '}'), nil
	case *Reset:
		return appendReset(dst, f)
	case *Live:
		if f.Event != nil {
			dst = append(dst, `{"t":"live","event":`...)
			return append(append(dst, f.Event.JSON()...), '}'), nil
		}
	case *Pong:
		return appendNonce(dst, "pong", f.Nonce)
	case *Closed:
		return appendClosed(dst, f)
	}
	return dst, &FrameError{Type: FrameName(f), Fault: FaultValue, Reason: "nothing there"}
}

// AppendClientFrame appends the reference encoding of f to dst: one JSON object without a line end. A frame that is nil,
// or whose code or nonce breaks its bounds, is refused with a [*FrameError], and dst is returned as it was. It is safe
// for concurrent use.
func AppendClientFrame(dst []byte, f ClientFrame) ([]byte, error) {
	if ClientFrameName(f) == "" {
		return dst, &FrameError{Fault: FaultValue, Reason: "nothing there"}
	}
	switch f := f.(type) {
	case *Ack:
		dst = append(dst, `{"t":"ack"`...)
		return append(appendPosition(dst, "position", f.Position), '}'), nil
	case *Nack:
		if err := CheckName("code", f.Code); err != nil {
			return dst, valueError("nack", err)
		}
		dst = append(dst, `{"t":"nack"`...)
		dst = appendPosition(dst, "position", f.Position)
		return append(appendOptional(dst, "code", f.Code), '}'), nil
	case *ResetAck:
		dst = append(dst, `{"t":"resetAck"`...)
		return append(appendPosition(dst, "position", f.Position), '}'), nil
	case *TokenStored:
		return append(dst, `{"t":"tokenStored"}`...), nil
	case *Background:
		dst = append(dst, `{"t":"background","on":`...)
		return append(strconv.AppendBool(dst, f.On), '}'), nil
	case *Ping:
		return appendNonce(dst, "ping", f.Nonce)
	}
	return dst, &FrameError{Fault: FaultType, Reason: "no such frame"}
}

func appendWelcome(dst []byte, f *Welcome) ([]byte, error) {
	if err := CheckID("login", string(f.Login)); err != nil {
		return dst, valueError("welcome", err)
	}
	dst = append(dst, `{"t":"welcome"`...)
	dst = appendOptional(dst, "login", string(f.Login))
	dst = appendPosition(dst, "position", f.Position)
	dst = appendNumber(dst, "head", f.Head)
	return append(appendOptional(dst, "token", string(f.Token)), '}'), nil
}

func appendData(dst []byte, f *Data) ([]byte, error) {
	out := append(dst, `{"t":"data"`...)
	out = appendNumber(out, "epoch", uint64(f.Epoch))
	out = appendNumber(out, "prev", f.Prev)
	out = appendNumber(out, "seq", f.Seq)
	if f.Redelivered {
		out = append(out, `,"redelivered":true`...)
	}
	for i, e := range f.Entries {
		if e == nil {
			return dst, &FrameError{Type: "data", Fault: FaultValue, Reason: "an entry is nil"}
		}
		if i == 0 {
			out = append(out, `,"entries":[`...)
		} else {
			out = append(out, ',')
		}
		out = e.append(out)
	}
	if len(f.Entries) > 0 {
		out = append(out, ']')
	}
	return append(out, '}'), nil
}

func appendStatePage(dst []byte, f *StatePage) ([]byte, error) {
	out := append(dst, `{"t":"state"`...)
	out = appendNumber(out, "epoch", uint64(f.Epoch))
	for i := range f.States {
		s := &f.States[i]
		if s.Internal() {
			return dst, &FrameError{Type: "state", Fault: FaultValue, Reason: "a register of the engine's own"}
		}
		if err := CheckID("name", s.Name); err != nil {
			return dst, valueError("state", err)
		}
		if i == 0 {
			out = append(out, `,"states":[`...)
		} else {
			out = append(out, ',')
		}
		out = appendState(out, s)
	}
	if len(f.States) > 0 {
		out = append(out, ']')
	}
	if f.More {
		out = append(out, `,"more":true`...)
	}
	return append(out, '}'), nil
}

func appendState(dst []byte, s *State) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, s.Name)
	dst = appendOptional(dst, "conversation", string(s.Conversation))
	if s.Number != 0 {
		dst = appendNumber(dst, "number", s.Number)
	}
	dst = appendNumber(dst, "seq", s.Seq)
	plain, text := plainText(s.Value)
	return append(appendPayload(dst, s.Value, plain, text), '}')
}

func appendReset(dst []byte, f *Reset) ([]byte, error) {
	if err := CheckID("reason", string(f.Reason)); err != nil {
		return dst, valueError("reset", err)
	}
	dst = append(dst, `{"t":"reset"`...)
	dst = appendOptional(dst, "reason", string(f.Reason))
	dst = appendPosition(dst, "from", f.From)
	return append(appendPosition(dst, "to", f.To), '}'), nil
}

func appendClosed(dst []byte, f *Closed) ([]byte, error) {
	if err := CheckID("reason", string(f.Reason)); err != nil {
		return dst, valueError("closed", err)
	}
	dst = append(dst, `{"t":"closed"`...)
	dst = appendOptional(dst, "reason", string(f.Reason))
	dst = appendOptional(dst, "note", f.Note)
	if c := f.Cause; c != nil {
		dst = append(dst, `,"cause":{`...)
		start := len(dst)
		dst = appendOptional(dst, "login", string(c.Login))
		dst = appendOptional(dst, "device", string(c.Device))
		dst = appendOptional(dst, "platform", string(c.Platform))
		dst = appendOptional(dst, "name", c.Name)
		if len(dst) > start {
			dst = slices.Delete(dst, start, start+1) // the first comma
		}
		dst = append(dst, '}')
	}
	dst = appendOptional(dst, "retry", string(f.Retry))
	if f.After > 0 {
		millis := f.After / Millis
		if f.After%Millis != 0 {
			millis++
		}
		dst = appendNumber(dst, "afterMs", uint64(millis))
	}
	return append(dst, '}'), nil
}

func appendNonce(dst []byte, name, nonce string) ([]byte, error) {
	if err := CheckName("nonce", nonce); err != nil {
		return dst, valueError(name, err)
	}
	dst = append(append(append(dst, `{"t":"`...), name...), '"')
	return append(appendOptional(dst, "nonce", nonce), '}'), nil
}

// appendEntry appends the encoding of an entry. Targets are left out: no client ever sees them.
func appendEntry(dst []byte, e *Entry) []byte {
	plain, text := plainText(e.Payload)
	dst = slices.Grow(dst, entryRoom(e, text))
	dst = append(dst, `{"kind":`...)
	dst = appendString(dst, string(e.Kind))
	if e.Seq != 0 {
		dst = appendNumber(dst, "seq", e.Seq)
	}
	if e.Flags != 0 {
		dst = append(dst, `,"flags":`...)
		dst = strconv.AppendUint(dst, uint64(e.Flags), 10)
	}
	dst = appendOptional(dst, "conversation", string(e.Conversation))
	dst = appendOptional(dst, "id", string(e.ID))
	dst = appendOptional(dst, "clientId", string(e.ClientID))
	dst = appendOptional(dst, "from", string(e.From))
	dst = appendOptional(dst, "origin", string(e.Origin))
	dst = appendOptional(dst, "key", e.Key)
	dst = appendTime(dst, "time", e.Time)
	dst = appendTime(dst, "expires", e.Expires)
	if e.Ordinal != 0 {
		dst = appendNumber(dst, "ordinal", e.Ordinal)
	}
	return append(appendPayload(dst, e.Payload, plain, text), '}')
}

// entryRoom is about how long the encoding of an entry gets: exact enough to be made in one piece as a rule, and to leave
// little of it unused.
func entryRoom(e *Entry, text bool) int {
	const field = 24 // the name of a field and what stands around its value, or all of it if that is a number
	n := 3*field + len(e.Kind) + len(e.Payload) + len(e.Payload)/64
	for _, s := range [...]int{len(e.Conversation), len(e.ID), len(e.ClientID), len(e.From), len(e.Origin), len(e.Key)} {
		if s > 0 {
			n += s + field
		}
	}
	if !text {
		n += len(e.Payload) * 2 / 5 // base64
	}
	return n
}

// plainText says how many bytes at the begin of a payload a JSON string holds as they are, and whether it is valid UTF-8.
func plainText(b []byte) (plain int, text bool) {
	plain = plainBytes(b)
	return plain, utf8.Valid(b[plain:])
}

// appendPayload appends bytes as a field "text", if they are valid UTF-8, or "data", or nothing if there are none. What
// is known of them is from plainText.
func appendPayload(dst, b []byte, plain int, text bool) []byte {
	if len(b) == 0 {
		return dst
	}
	start := len(dst)
	if text {
		dst = append(dst, `,"text":`...)
		begin := len(dst)
		dst = appendText(dst, b, plain)
		if len(dst)-begin <= 2*len(b)+textSlack {
			return dst
		}
	}
	dst = append(dst[:start], `,"data":"`...)
	return append(base64.StdEncoding.AppendEncode(dst, b), '"')
}

func appendPosition(dst []byte, name string, p Position) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":{"epoch":"`...)
	dst = strconv.AppendUint(dst, uint64(p.Epoch), 10)
	dst = append(dst, `","seq":"`...)
	return append(strconv.AppendUint(dst, p.Seq, 10), `"}`...)
}

func appendNumber(dst []byte, name string, n uint64) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":"`...)
	return append(strconv.AppendUint(dst, n, 10), '"')
}

func appendTime(dst []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	return appendNumber(dst, name, uint64(max(t.UnixMilli(), 0)))
}

func appendOptional(dst []byte, name, s string) []byte {
	if s == "" {
		return dst
	}
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return appendString(dst, s)
}
