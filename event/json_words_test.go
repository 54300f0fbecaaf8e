package event_test

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func placeOf(p event.Position) *place { return &place{Epoch: uint64(p.Epoch), Seq: p.Seq} }

func (p *place) position() event.Position {
	return event.Position{Epoch: event.Epoch(p.Epoch), Seq: p.Seq}
}

func describeClient(t *testing.T, f event.ClientFrame) *meaning {
	switch f := f.(type) {
	case *event.Ack:
		return &meaning{Frame: "ack", Position: placeOf(f.Position)}
	case *event.Nack:
		return &meaning{Frame: "nack", Position: placeOf(f.Position), Code: f.Code}
	case *event.ResetAck:
		return &meaning{Frame: "resetAck", Position: placeOf(f.Position)}
	case *event.TokenStored:
		return &meaning{Frame: "tokenStored"}
	case *event.Background:
		return &meaning{Frame: "background", On: &f.On}
	case *event.Ping:
		return &meaning{Frame: "ping", Nonce: f.Nonce}
	}
	require.FailNow(t, "unknown frame", "%T", f)
	return nil
}

func (m *meaning) buildClient(t *testing.T) event.ClientFrame {
	switch m.Frame {
	case "ack":
		return &event.Ack{Position: m.Position.position()}
	case "nack":
		return &event.Nack{Position: m.Position.position(), Code: m.Code}
	case "resetAck":
		return &event.ResetAck{Position: m.Position.position()}
	case "tokenStored":
		return &event.TokenStored{}
	case "background":
		return &event.Background{On: *m.On}
	case "ping":
		return &event.Ping{Nonce: m.Nonce}
	}
	require.FailNow(t, "unknown frame", m.Frame)
	return nil
}

func describe(t *testing.T, f event.Frame) *meaning {
	switch f := f.(type) {
	case *event.Welcome:
		return &meaning{Frame: "welcome", Login: string(f.Login), Position: placeOf(f.Position), Head: &f.Head, Token: string(f.Token)}
	case *event.Data:
		epoch := uint64(f.Epoch)
		m := &meaning{Frame: "data", Epoch: &epoch, Prev: &f.Prev, Seq: &f.Seq, Redelivered: f.Redelivered}
		for _, e := range f.Entries {
			m.Entries = append(m.Entries, *describeEntry(&e.Entry))
		}
		return m
	case *event.StatePage:
		epoch := uint64(f.Epoch)
		m := &meaning{Frame: "state", Epoch: &epoch, More: f.More}
		for _, s := range f.States {
			m.States = append(m.States, stateWords{
				Conversation: string(s.Conversation), Name: s.Name, Number: s.Number, ValueHex: hex.EncodeToString(s.Value), Seq: s.Seq,
			})
		}
		return m
	case *event.CaughtUp:
		return &meaning{Frame: "caughtUp", Position: placeOf(f.Position)}
	case *event.Reset:
		return &meaning{Frame: "reset", Reason: string(f.Reason), From: placeOf(f.From), To: placeOf(f.To)}
	case *event.Live:
		return &meaning{Frame: "live", Event: describeEntry(&f.Event.Entry)}
	case *event.Pong:
		return &meaning{Frame: "pong", Nonce: f.Nonce}
	case *event.Closed:
		m := &meaning{Frame: "closed", Reason: string(f.Reason), Note: f.Note, Retry: string(f.Retry), AfterMillis: f.After / time.Millisecond}
		if c := f.Cause; c != nil {
			m.Cause = &causeWords{Login: string(c.Login), Device: string(c.Device), Platform: string(c.Platform), Name: c.Name}
		}
		return m
	}
	require.FailNow(t, "unknown frame", "%T", f)
	return nil
}

func (m *meaning) build(t *testing.T) event.Frame {
	switch m.Frame {
	case "welcome":
		return &event.Welcome{Login: event.LoginID(m.Login), Position: m.Position.position(), Head: *m.Head, Token: event.ResumeToken(m.Token)}
	case "data":
		f := &event.Data{Epoch: event.Epoch(*m.Epoch), Prev: *m.Prev, Seq: *m.Seq, Redelivered: m.Redelivered}
		for _, e := range m.Entries {
			f.Entries = append(f.Entries, event.Seal(e.build(t)))
		}
		return f
	case "state":
		f := &event.StatePage{Epoch: event.Epoch(*m.Epoch), More: m.More}
		for _, s := range m.States {
			f.States = append(f.States, event.State{
				Conversation: event.ConversationID(s.Conversation), Name: s.Name, Number: s.Number, Value: unhex(t, s.ValueHex), Seq: s.Seq,
			})
		}
		return f
	case "caughtUp":
		return &event.CaughtUp{Position: m.Position.position()}
	case "reset":
		return &event.Reset{Reason: event.ResetReason(m.Reason), From: m.From.position(), To: m.To.position()}
	case "live":
		return &event.Live{Event: event.Seal(m.Event.build(t))}
	case "pong":
		return &event.Pong{Nonce: m.Nonce}
	case "closed":
		f := &event.Closed{Reason: event.Reason(m.Reason), Note: m.Note, Retry: event.Retry(m.Retry), After: m.AfterMillis * time.Millisecond}
		if c := m.Cause; c != nil {
			f.Cause = &event.Cause{Login: event.LoginID(c.Login), Device: event.DeviceID(c.Device), Platform: event.Platform(c.Platform), Name: c.Name}
		}
		return f
	}
	require.FailNow(t, "unknown frame", m.Frame)
	return nil
}

func describeEntry(e *event.Entry) *entryWords {
	const known = event.FlagUnread | event.FlagReceipts
	w := &entryWords{
		Seq: e.Seq, Kind: string(e.Kind), Unread: e.Flags&event.FlagUnread != 0, Receipts: e.Flags&event.FlagReceipts != 0,
		OtherFlags: uint16(e.Flags &^ known), Conversation: string(e.Conversation), ID: string(e.ID), ClientID: string(e.ClientID),
		From: string(e.From), Origin: string(e.Origin), Key: e.Key, Ordinal: e.Ordinal, PayloadHex: hex.EncodeToString(e.Payload),
	}
	millis := func(at time.Time) *int64 {
		if at.IsZero() {
			return nil
		}
		n := at.UnixMilli()
		return &n
	}
	w.TimeMillis, w.ExpiresMillis = millis(e.Time), millis(e.Expires)
	return w
}

func (w *entryWords) build(t *testing.T) event.Entry {
	e := event.Entry{
		Seq: w.Seq, Kind: event.Kind(w.Kind), Flags: event.Flags(w.OtherFlags), Conversation: event.ConversationID(w.Conversation),
		ID: event.MessageID(w.ID), ClientID: event.ClientMessageID(w.ClientID), From: event.Account(w.From),
		Origin: event.LoginID(w.Origin), Key: w.Key, Ordinal: w.Ordinal, Payload: unhex(t, w.PayloadHex),
	}
	if w.Unread {
		e.Flags |= event.FlagUnread
	}
	if w.Receipts {
		e.Flags |= event.FlagReceipts
	}
	if w.TimeMillis != nil {
		e.Time = time.UnixMilli(*w.TimeMillis)
	}
	if w.ExpiresMillis != nil {
		e.Expires = time.UnixMilli(*w.ExpiresMillis)
	}
	return e
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}
