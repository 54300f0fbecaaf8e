package event

import (
	"math"
	"strconv"
	"time"
)

// DecodeFrame reads the reference encoding of a frame that the engine sends to a device. Fields that it does not know are
// ignored, kinds, reasons and advice that it does not know are kept as they are. Payloads, times and names come back as
// they were written; what it returns shares no memory with b, and encodes to the same bytes again if [AppendFrame] wrote
// them. Every fault is a [*FrameError]; a frame of a type that a newer release has added is [FaultType], which a client
// may skip. It is safe for concurrent use.
func DecodeFrame(b []byte) (Frame, error) {
	d, o := newDecoder(b, MaxFrameBytes, false)
	if d.err != nil {
		return nil, d.err
	}
	f := decodeFrame(d, o)
	if d.err != nil {
		return nil, d.err
	}
	return f, nil
}

func decodeFrame(d *decoder, o *object) Frame {
	switch o.frameType() {
	case "welcome":
		return &Welcome{
			Login:    LoginID(o.needID("login")),
			Position: o.position("position"),
			Head:     o.needNumber("head"),
			Token:    o.token("token"),
		}
	case "data":
		return decodeData(o)
	case "state":
		return decodeStatePage(o)
	case "caughtUp":
		return &CaughtUp{Position: o.position("position")}
	case "reset":
		return &Reset{
			Reason: ResetReason(o.needID("reason")),
			From:   o.position("from"),
			To:     o.position("to"),
		}
	case "live":
		f := &Live{}
		if e := o.sub("event", o.need("event")); e != nil {
			f.Event = decodeEntry(e)
		}
		return f
	case "pong":
		return &Pong{Nonce: o.name("nonce")}
	case "closed":
		return decodeClosed(o)
	}
	d.fail(FaultType, "no frame from the engine to a device")
	return nil
}

// DecodeClientFrame reads the reference encoding of a frame that a device sends to the engine. It is strict: a type or
// field that it does not know is refused, like anything else out of bounds, with a [*FrameError]. It is safe for
// concurrent use.
func DecodeClientFrame(b []byte) (ClientFrame, error) {
	d, o := newDecoder(b, MaxClientFrameBytes, true)
	if d.err != nil {
		return nil, d.err
	}
	f := decodeClientFrame(d, o)
	o.done()
	if d.err != nil {
		return nil, d.err
	}
	return f, nil
}

func decodeClientFrame(d *decoder, o *object) ClientFrame {
	switch o.frameType() {
	case "ack":
		return &Ack{Position: o.position("position")}
	case "nack":
		return &Nack{Position: o.position("position"), Code: o.name("code")}
	case "resetAck":
		return &ResetAck{Position: o.position("position")}
	case "tokenStored":
		return &TokenStored{}
	case "background":
		return &Background{On: o.parseFlag("on", o.need("on"))}
	case "ping":
		return &Ping{Nonce: o.name("nonce")}
	}
	d.fail(FaultType, "no frame from a device to the engine")
	return nil
}

// frameType returns the value of "t", and notes it for errors if it names any frame at all.
func (o *object) frameType() string {
	raw := o.take("t")
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	name, _ := unquote(raw)
	switch name {
	case "welcome", "data", "state", "caughtUp", "reset", "live", "pong", "closed",
		"ack", "nack", "resetAck", "tokenStored", "background", "ping":
		o.d.frame = name
		return name
	}
	return ""
}

// sub returns the object that a field holds, or nil if it is missing or something else.
func (o *object) sub(name string, raw []byte) *object {
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		o.d.fail(FaultValue, name+": want an object")
		return nil
	}
	return o.d.object(raw)
}

// each calls read with every object of an array, which may be missing.
func (o *object) each(name string, read func(*object)) {
	raw := o.take(name)
	if raw == nil {
		return
	}
	if raw[0] != '[' {
		o.d.fail(FaultValue, name+": want an array")
		return
	}
	for at := skipSpace(raw, 1); raw[at] != ']' && o.d.err == nil; {
		end := skipValue(raw, at)
		if e := o.sub(name, raw[at:end]); e != nil {
			read(e)
		}
		if at = skipSpace(raw, end); raw[at] == ',' {
			at = skipSpace(raw, at+1)
		}
	}
}

func (o *object) position(name string) Position {
	p := o.sub(name, o.need(name))
	if p == nil {
		return Position{}
	}
	pos := Position{Epoch: Epoch(p.needNumber("epoch")), Seq: p.needNumber("seq")}
	p.done()
	return pos
}

func decodeData(o *object) *Data {
	f := &Data{
		Epoch:       Epoch(o.needNumber("epoch")),
		Prev:        o.needNumber("prev"),
		Seq:         o.needNumber("seq"),
		Redelivered: o.flag("redelivered"),
	}
	if f.Seq < f.Prev {
		o.d.fail(FaultValue, "seq: below prev")
	}
	last := f.Prev
	o.each("entries", func(e *object) {
		e.need("seq") // only live-only events have none
		s := decodeEntry(e)
		if s.Seq <= last || s.Seq > f.Seq {
			o.d.fail(FaultValue, "entries: not in order within prev and seq")
		}
		last = s.Seq
		f.Entries = append(f.Entries, s)
	})
	return f
}

func decodeStatePage(o *object) *StatePage {
	f := &StatePage{Epoch: Epoch(o.needNumber("epoch")), More: o.flag("more")}
	o.each("states", func(s *object) {
		st := State{
			Conversation: ConversationID(s.id("conversation")),
			Name:         s.needID("name"),
			Number:       s.number("number"),
			Value:        s.payload(),
			Seq:          s.needNumber("seq"),
		}
		if st.Internal() {
			o.d.fail(FaultValue, "name: a register of the engine's own")
		}
		f.States = append(f.States, st)
	})
	return f
}

func decodeClosed(o *object) *Closed {
	f := &Closed{
		Reason: Reason(o.needID("reason")),
		Note:   o.text("note"),
		Retry:  Retry(o.id("retry")),
		After:  Millis * time.Duration(o.parseNumber("afterMs", o.take("afterMs"), math.MaxInt64/uint64(Millis))),
	}
	if c := o.sub("cause", o.take("cause")); c != nil {
		f.Cause = &Cause{
			Login:    LoginID(c.id("login")),
			Device:   DeviceID(c.id("device")),
			Platform: Platform(c.id("platform")),
			Name:     c.name("name"),
		}
	}
	return f
}

func decodeEntry(o *object) *Sealed {
	e := Entry{
		Seq:          o.number("seq"),
		Kind:         Kind(o.parseText("kind", o.need("kind"))),
		Flags:        o.flags(),
		Conversation: ConversationID(o.id("conversation")),
		ID:           MessageID(o.id("id")),
		ClientID:     ClientMessageID(o.id("clientId")),
		From:         Account(o.id("from")),
		Origin:       LoginID(o.id("origin")),
		Key:          o.key("key"),
		Time:         o.time("time"),
		Expires:      o.time("expires"),
		Ordinal:      o.number("ordinal"),
		Payload:      o.payload(),
	}
	if err := e.Kind.Validate(); err != nil && o.d.err == nil {
		o.d.fail(FaultValue, err.Error())
	}
	return Seal(e)
}

// flags returns the flags of an entry, a plain JSON number.
func (o *object) flags() Flags {
	raw := o.take("flags")
	if raw == nil {
		return 0
	}
	n, err := strconv.ParseUint(string(raw), 10, 16)
	if err != nil {
		o.d.fail(FaultValue, "flags: want a number from 0 to 65535")
	}
	return Flags(n)
}
