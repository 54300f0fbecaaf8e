package event_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// generator makes random frames that keep to the rules of the protocol.
type generator struct{ *rand.Rand }

var alphabet = []rune(`abcXYZ019 /._-"\'<>&{}[],:` + "\u00e4\u4f60\u200e\u2028\u2029\uFFFD\U0001F44B")

func (g generator) id() string {
	s := make([]rune, 1+g.IntN(20))
	for event.CheckID("id", string(s)) != nil { // parts of dots between slashes
		for i := range s {
			s[i] = alphabet[g.IntN(len(alphabet))]
		}
	}
	return string(s)
}

func (g generator) maybe() string {
	if g.IntN(2) == 0 {
		return ""
	}
	return g.id()
}

func (g generator) number() uint64 { return g.Uint64() >> g.IntN(64) }

func (g generator) position() event.Position {
	return event.Position{Epoch: event.Epoch(g.number()), Seq: g.number()}
}

func (g generator) time() time.Time {
	if g.IntN(3) == 0 {
		return time.Time{}
	}
	return time.UnixMilli(g.Int64() >> g.IntN(64)).UTC()
}

func (g generator) payload() []byte {
	switch g.IntN(4) {
	case 0:
		return nil
	case 1:
		b := make([]byte, 1+g.IntN(300))
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		return b
	case 2: // text of any characters
		var b []byte
		for range 1 + g.IntN(200) {
			r := rune(g.IntN(utf8.MaxRune + 1))
			if g.IntN(3) == 0 {
				r &= 0x7f
			}
			b = utf8.AppendRune(b, r)
		}
		return b
	}
	return []byte(g.id())
}

func (g generator) entry(seq uint64) event.Entry {
	kinds := []event.Kind{event.KindMessage, event.KindGroupJoin, event.KindTyping, "x.of-a_host.9"}
	return event.Entry{
		Seq: seq, Kind: kinds[g.IntN(len(kinds))], Flags: event.Flags(g.number()), Conversation: event.ConversationID(g.maybe()),
		ID: event.MessageID(g.maybe()), ClientID: event.ClientMessageID(g.maybe()), From: event.Account(g.maybe()),
		Origin: event.LoginID(g.maybe()), Key: strings.ReplaceAll(g.maybe(), "/", "\n"), Time: g.time(), Expires: g.time(),
		Ordinal: g.number(), Payload: g.payload(),
	}
}

func (g generator) frame() event.Frame {
	switch g.IntN(8) {
	case 0:
		return &event.Welcome{Login: event.LoginID(g.id()), Position: g.position(), Head: g.number(), Token: event.ResumeToken(g.maybe())}
	case 1:
		f := &event.Data{Epoch: event.Epoch(g.number()), Prev: g.number() / 2, Redelivered: g.IntN(2) == 0}
		f.Seq = f.Prev + uint64(g.IntN(3))
		for range g.IntN(5) {
			f.Seq += 1 + uint64(g.IntN(3))
			f.Entries = append(f.Entries, event.Seal(g.entry(f.Seq)))
		}
		f.Seq += uint64(g.IntN(3))
		return f
	case 2:
		f := &event.StatePage{Epoch: event.Epoch(g.number()), More: g.IntN(2) == 0}
		for range g.IntN(5) {
			f.States = append(f.States, event.State{
				Conversation: event.ConversationID(g.maybe()), Name: "n" + g.maybe(), Number: g.number(), Value: g.payload(), Seq: g.number(),
			})
		}
		return f
	case 3:
		return &event.CaughtUp{Position: g.position()}
	case 4:
		return &event.Reset{Reason: event.ResetReason(g.id()), From: g.position(), To: g.position()}
	case 5:
		return &event.Live{Event: event.Seal(g.entry(0))}
	case 6:
		return &event.Pong{Nonce: g.maybe()}
	}
	f := &event.Closed{Reason: event.Reason(g.id()), Note: g.maybe(), Retry: event.Retry(g.maybe())}
	f.After = time.Duration(g.number()/2/uint64(time.Millisecond)) * time.Millisecond
	if g.IntN(2) == 0 {
		f.Cause = &event.Cause{
			Login: event.LoginID(g.maybe()), Device: event.DeviceID(g.maybe()), Platform: event.Platform(g.maybe()), Name: g.maybe(),
		}
	}
	return f
}

func (g generator) clientFrame() event.ClientFrame {
	switch g.IntN(6) {
	case 0:
		return &event.Ack{Position: g.position()}
	case 1:
		return &event.Nack{Position: g.position(), Code: g.maybe()}
	case 2:
		return &event.ResetAck{Position: g.position()}
	case 3:
		return &event.TokenStored{}
	case 4:
		return &event.Background{On: g.IntN(2) == 0}
	}
	return &event.Ping{Nonce: g.maybe()}
}

// forget drops the encodings of entries, which a frame that was encoded has and one that was decoded has not.
func forget(f event.Frame) event.Frame {
	switch f := f.(type) {
	case *event.Data:
		c := *f
		c.Entries = nil
		for _, e := range f.Entries {
			c.Entries = append(c.Entries, event.Seal(e.Entry))
		}
		return &c
	case *event.Live:
		return &event.Live{Event: event.Seal(f.Event.Entry)}
	}
	return f
}

func TestFrames_RandomRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for range 4_000 {
		want := g.frame()
		line, err := event.AppendFrame([]byte("before"), want)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(line, []byte("before")))
		line = line[len("before"):]
		requireOneLine(t, line)
		got, err := event.DecodeFrame(line)
		require.NoError(t, err, "%s", line)
		require.Equal(t, forget(want), forget(got), "%s", line)
		again, err := event.AppendFrame(nil, got)
		require.NoError(t, err)
		require.Equal(t, string(line), string(again))
	}
}

func TestClientFrames_RandomRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for range 4_000 {
		want := g.clientFrame()
		line, err := event.AppendClientFrame(nil, want)
		require.NoError(t, err)
		requireOneLine(t, line)
		got, err := event.DecodeClientFrame(line)
		require.NoError(t, err, "%s", line)
		require.Equal(t, want, got)
	}
}

// TestFrames_AnyCut checks that no part of a frame passes for a whole one.
func TestFrames_AnyCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for range 40 {
		line, err := event.AppendFrame(nil, g.frame())
		require.NoError(t, err)
		for i := range line {
			_, err := event.DecodeFrame(line[:i])
			require.Error(t, err, "%s", line[:i])
		}
	}
}

// requireOneLine checks what a reader of lines relies on, by the measure of another implementation.
func requireOneLine(t testing.TB, line []byte) {
	require.True(t, json.Valid(line) && utf8.Valid(line), "%q", line)
	split := bytes.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x85 || r == 0x2028 || r == 0x2029 })
	require.Negative(t, split, "%q", line)
}
