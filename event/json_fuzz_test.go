package event_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func FuzzDecodeFrame(f *testing.F) {
	v := readVectors(f)
	for _, vec := range v.Valid {
		f.Add([]byte(vec.Line))
	}
	for _, vec := range v.Invalid {
		if vec.Spaces == 0 {
			f.Add([]byte(vec.Line))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := event.DecodeFrame(b)
		if err != nil {
			requireFrameError(t, err)
			return
		}
		require.True(t, json.Valid(b))
		line, err := event.AppendFrame(nil, first)
		if err != nil { // escapes may make it longer than it came
			requireFrameError(t, err)
			return
		}
		requireOneLine(t, line)
		second, err := event.DecodeFrame(line)
		require.NoError(t, err)
		require.Equal(t, forget(first), forget(second))
	})
}

func FuzzDecodeClientFrame(f *testing.F) {
	v := readVectors(f)
	for _, vec := range v.Valid {
		f.Add([]byte(vec.Line))
	}
	for _, vec := range v.Invalid {
		if vec.Spaces == 0 {
			f.Add([]byte(vec.Line))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := event.DecodeClientFrame(b)
		if err != nil {
			requireFrameError(t, err)
			return
		}
		require.True(t, json.Valid(b))
		line, err := event.AppendClientFrame(nil, first)
		require.NoError(t, err)
		requireOneLine(t, line)
		second, err := event.DecodeClientFrame(line)
		require.NoError(t, err)
		require.Equal(t, first, second)
	})
}

func FuzzEntry(f *testing.F) {
	f.Add(uint64(1), "message", uint16(1), "room", "id", "c1", "ann", "login", "key", int64(5), int64(0), uint64(3), []byte("text"))
	f.Add(uint64(9), "x.y", uint16(0), "a/b", "", "", "", "", "a\nb", int64(-5), int64(7), uint64(0), []byte{0xff, 0})
	f.Add(uint64(0), "typing", uint16(0xffff), "\u2028", "\\", `"`, "\U0001F44B", "", "", int64(0), int64(0), uint64(0), []byte("\x00\x01\u0085"))
	f.Add(uint64(2), "message", uint16(0), "\xff", "", "", "\ud7ff", "", "\xc3", int64(1)<<62, int64(0), uint64(0), make([]byte, 3000))
	f.Fuzz(func(t *testing.T, seq uint64, kind string, flags uint16, conversation, id, clientID, from, origin, key string,
		at, expires int64, ordinal uint64, payload []byte,
	) {
		e := event.Entry{
			Seq: seq, Kind: event.Kind(kind), Flags: event.Flags(flags), Conversation: event.ConversationID(conversation),
			ID: event.MessageID(id), ClientID: event.ClientMessageID(clientID), From: event.Account(from), Origin: event.LoginID(origin),
			Targets: []event.Incarnation{77_777}, Key: key, Time: time.UnixMilli(at).UTC(), Expires: time.UnixMilli(expires).UTC(),
			Ordinal: ordinal, Payload: payload,
		}
		line, err := event.AppendFrame(nil, &event.Live{Event: event.Seal(e)})
		if err != nil {
			requireFrameError(t, err)
			return
		}
		requireOneLine(t, line)
		got, err := event.DecodeFrame(line)
		if err != nil {
			requireFrameError(t, err)
			require.False(t, sound(&e), "%v: %s", err, line)
			return
		}
		if !sound(&e) {
			return // what is not is written as near as JSON allows
		}
		e.Targets = nil
		if len(payload) == 0 {
			e.Payload = nil
		}
		require.Equal(t, e, got.(*event.Live).Event.Entry)
	})
}

// sound reports whether the engine would have accepted what the entry holds.
func sound(e *event.Entry) bool {
	for _, s := range []string{string(e.Conversation), string(e.ID), string(e.ClientID), string(e.From), string(e.Origin)} {
		if s != "" && event.CheckID("field", s) != nil {
			return false
		}
	}
	return e.Kind.Validate() == nil && utf8.ValidString(e.Key) && len(e.Key) <= 512 && e.Time.UnixMilli() >= 0 && e.Expires.UnixMilli() >= 0
}

func requireFrameError(t testing.TB, err error) {
	fault, ok := errors.AsType[*event.FrameError](err)
	require.True(t, ok, "%v", err)
	require.NotEmpty(t, fault.Reason)
	require.Contains(t, err.Error(), fault.Reason)
}
