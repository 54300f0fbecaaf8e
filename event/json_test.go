package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func TestAppendFrame_Refused(t *testing.T) {
	const login = "login"
	tests := []struct {
		name  string
		frame event.Frame
		typ   string
		fault event.FrameFault
	}{
		{"nil", nil, "", event.FaultValue},
		{"nil welcome", (*event.Welcome)(nil), "", event.FaultValue},
		{"nil data", (*event.Data)(nil), "", event.FaultValue},
		{"nil state", (*event.StatePage)(nil), "", event.FaultValue},
		{"nil caught up", (*event.CaughtUp)(nil), "", event.FaultValue},
		{"nil reset", (*event.Reset)(nil), "", event.FaultValue},
		{"nil live", (*event.Live)(nil), "", event.FaultValue},
		{"nil pong", (*event.Pong)(nil), "", event.FaultValue},
		{"nil closed", (*event.Closed)(nil), "", event.FaultValue},
		{"welcome without a login", &event.Welcome{}, "welcome", event.FaultValue},
		{"data with a nil entry", &event.Data{Entries: []*event.Sealed{nil}}, "data", event.FaultValue},
		{"live without an event", &event.Live{}, "live", event.FaultValue},
		{"reset without a reason", &event.Reset{}, "reset", event.FaultValue},
		{"closed without a reason", &event.Closed{}, "closed", event.FaultValue},
		{"pong with a bad nonce", &event.Pong{Nonce: "\n"}, "pong", event.FaultValue},
		{"register without a name", &event.StatePage{States: []event.State{{}}}, "state", event.FaultValue},
		{"register of the engine's own", &event.StatePage{States: []event.State{{Name: event.StateDelivered}}}, "state", event.FaultValue},
		{"too long", &event.Closed{Reason: login, Note: strings.Repeat("x", event.MaxFrameBytes)}, "closed", event.FaultSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := append(make([]byte, 0, 64), "before"...)
			out, err := event.AppendFrame(dst, tt.frame)
			fault, ok := errors.AsType[*event.FrameError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, tt.typ, fault.Type)
			require.Equal(t, tt.fault, fault.Fault)
			require.Equal(t, "before", string(out))
		})
	}
}

func TestAppendFrame_LongestThatPasses(t *testing.T) {
	frame := &event.Closed{Reason: "r", Note: "x"}
	line, err := event.AppendFrame(nil, frame)
	require.NoError(t, err)
	frame.Note = strings.Repeat("x", event.MaxFrameBytes-len(line)+1)
	line, err = event.AppendFrame([]byte("before"), frame)
	require.NoError(t, err)
	require.Len(t, line, event.MaxFrameBytes+len("before"))
	got, err := event.DecodeFrame(line[len("before"):])
	require.NoError(t, err)
	require.Equal(t, frame, got)
}

func TestAppendClientFrame_Refused(t *testing.T) {
	tests := []struct {
		name  string
		frame event.ClientFrame
		fault event.FrameFault
	}{
		{"nil", nil, event.FaultValue},
		{"nil pointer", (*event.Ack)(nil), event.FaultValue},
		{"nack with a line end", &event.Nack{Code: "a\nb"}, event.FaultValue},
		{"nack with a long code", &event.Nack{Code: strings.Repeat("x", 129)}, event.FaultValue},
		{"nack that is not UTF-8", &event.Nack{Code: "\xff"}, event.FaultValue},
		{"ping with a long nonce", &event.Ping{Nonce: strings.Repeat("x", 129)}, event.FaultValue},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := event.AppendClientFrame([]byte("before"), tt.frame)
			fault, ok := errors.AsType[*event.FrameError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, tt.fault, fault.Fault)
			require.Equal(t, "before", string(out))
		})
	}
}

// TestAppendFrame_NearestText covers what the encoding cannot carry exactly: it is written as near as possible, never as
// something that is not JSON.
func TestAppendFrame_NearestText(t *testing.T) {
	line, err := event.AppendFrame(nil, &event.Closed{Reason: "slow", Note: "a\xffb\xe2\x80", After: 1500 * time.Microsecond})
	require.NoError(t, err)
	require.Equal(t, `{"t":"closed","reason":"slow","note":"a`+"\uFFFD"+`b`+"\uFFFD\uFFFD"+`","afterMs":"2"}`, string(line))

	line, err = event.AppendFrame(nil, &event.Closed{Reason: "slow", After: -time.Hour})
	require.NoError(t, err)
	require.Equal(t, `{"t":"closed","reason":"slow"}`, string(line))

	line, err = event.AppendFrame(nil, &event.Live{Event: event.Seal(event.Entry{Kind: "message", Time: time.UnixMilli(-1)})})
	require.NoError(t, err)
	require.Equal(t, `{"t":"live","event":{"kind":"message","time":"0"}}`, string(line))
}

// TestAppendFrame_ReusesTheEntry checks that an entry is encoded once, whatever becomes of it and however often it is sent.
func TestAppendFrame_ReusesTheEntry(t *testing.T) {
	payload := []byte("first")
	s := event.Seal(event.Entry{Kind: "message", Seq: 1, Payload: payload})
	data := &event.Data{Epoch: 1, Seq: 1, Entries: []*event.Sealed{s}}
	first, err := event.AppendFrame(nil, data)
	require.NoError(t, err)
	copy(payload, "other") // against the rules, to see whether anybody looks again
	second, err := event.AppendFrame(nil, data)
	require.NoError(t, err)
	require.Equal(t, string(first), string(second))
	live, err := event.AppendFrame(nil, &event.Live{Event: s})
	require.NoError(t, err)
	require.Contains(t, string(live), "first")
	require.True(t, bytes.Contains(first, s.JSON()) && bytes.Contains(live, s.JSON()))

	out := make([]byte, 0, 1<<10)
	require.Zero(t, testing.AllocsPerRun(100, func() { out, _ = event.AppendFrame(out[:0], data) }))
}

// TestAppendFrame_TargetsStay is part of I23: which devices an entry is for is nobody's business outside the engine.
func TestAppendFrame_TargetsStay(t *testing.T) {
	plain := event.Entry{Kind: "message", Seq: 1}
	targeted := plain
	targeted.Targets = []event.Incarnation{987_654_321}
	require.Equal(t, string(event.Seal(plain).JSON()), string(event.Seal(targeted).JSON()))
}

func TestPayload_TextOrData(t *testing.T) {
	tests := []struct {
		name    string
		payload []byte
		field   string // "" for neither
	}{
		{"none", nil, ""},
		{"empty", []byte{}, ""},
		{"text", []byte("hello"), "text"},
		{"NUL", []byte{0}, "text"},
		{"replacement character", []byte("\uFFFD"), "text"},
		{"JSON", []byte(`{"a":"b\n"}`), "text"},
		{"quotes only, long", bytes.Repeat([]byte{'"'}, 60_000), "text"},
		{"control characters, short", bytes.Repeat([]byte{1}, 200), "text"},
		{"control characters, long", bytes.Repeat([]byte{1}, 60_000), "data"},
		{"not UTF-8", []byte{'a', 0xff}, "data"},
		{"cut in a character", []byte("\u4f60")[:2], "data"},
		{"surrogate in UTF-8", []byte{0xed, 0xa0, 0x80}, "data"},
		{"overlong", []byte{0xc0, 0x80}, "data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line, err := event.AppendFrame(nil, &event.Live{Event: event.Seal(event.Entry{Kind: "k", Payload: tt.payload})})
			require.NoError(t, err)
			var raw struct{ Event map[string]any }
			require.NoError(t, json.Unmarshal(line, &raw))
			delete(raw.Event, "kind")
			if tt.field == "" {
				require.Empty(t, raw.Event)
			} else {
				require.Len(t, raw.Event, 1)
				require.Contains(t, raw.Event, tt.field)
			}
			got, err := event.DecodeFrame(line)
			require.NoError(t, err)
			require.Equal(t, string(tt.payload), string(got.(*event.Live).Event.Payload))
			require.LessOrEqual(t, len(line), 2*len(tt.payload)+2048)
		})
	}
}

// TestDecode_KeepsNothing checks that a decoded frame does not change with the buffer it came in.
func TestDecode_KeepsNothing(t *testing.T) {
	line := []byte(`{"t":"data","epoch":"1","prev":"0","seq":"1","entries":[{"kind":"message","seq":"1","from":"ann","text":"hello"}]}`)
	f, err := event.DecodeFrame(line)
	require.NoError(t, err)
	clear(line)
	e := f.(*event.Data).Entries[0]
	require.Equal(t, "hello", string(e.Payload))
	require.Equal(t, event.Account("ann"), e.From)
	require.JSONEq(t, `{"kind":"message","seq":"1","from":"ann","text":"hello"}`, string(e.JSON()))
}

// TestDecode_ErrorsSayNothing is part of I24: what a peer sent does not come back in an error.
func TestDecode_ErrorsSayNothing(t *testing.T) {
	const secret = "swordfish"
	lines := []string{
		`{"t":"` + secret + `"}`,
		`{"t":"ping","nonce":"` + secret + `\n"}`,
		`{"t":"ping","` + secret + `":1}`,
		`{"t":"ack","position":"` + secret + `"}`,
		`{"t":"ack","position":{"epoch":"` + secret + `","seq":"1"}}`,
		`{"t":"welcome","login":"` + secret + `\u0000","position":{"epoch":"1","seq":"1"},"head":"1"}`,
		`{"t":"welcome","login":"l","position":{"epoch":"1","seq":"1"},"head":"1","token":"` + secret + `\u0007"}`,
		`{"t":"data","epoch":"1","prev":"0","seq":"1","entries":[{"kind":"` + secret + `!","seq":"1"}]}`,
		`{"t":"data","epoch":"1","prev":"0","seq":"1","entries":[{"kind":"k","seq":"1","data":"` + secret + `"}]}`,
		secret,
	}
	for _, line := range lines {
		_, err := event.DecodeFrame([]byte(line))
		require.Error(t, err, line)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), secret)
		_, err = event.DecodeClientFrame([]byte(line))
		require.Error(t, err, line)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), secret)
	}
}

func TestDecode_DeepNesting(t *testing.T) {
	deep := `{"t":"pong","x":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + `}`
	f, err := event.DecodeFrame([]byte(deep))
	require.NoError(t, err)
	require.Equal(t, &event.Pong{}, f)

	deeper := `{"t":"pong","x":` + strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000) + `}`
	_, err = event.DecodeFrame([]byte(deeper))
	requireFrameError(t, err)
}

func BenchmarkAppendFrame(b *testing.B) {
	for _, size := range []int{64, 512, 4096} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			e := event.Entry{
				Seq: 5, Kind: event.KindMessage, Conversation: "room", ID: "uq2b7h3k5m6n4p2r7s3t5v6w4x", From: "ann",
				Time: time.UnixMilli(1), Payload: bytes.Repeat([]byte("x"), size),
			}
			data := &event.Data{Epoch: 1, Prev: 4, Seq: 5, Entries: make([]*event.Sealed, 1)}
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				data.Entries[0] = event.Seal(e)
				out, _ = event.AppendFrame(out[:0], data)
			}
		})
	}
}

func BenchmarkDecodeClientFrame(b *testing.B) {
	line := []byte(`{"t":"ack","position":{"epoch":"12884901889","seq":"118"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.DecodeClientFrame(line); err != nil {
			b.Fatal(err)
		}
	}
}
