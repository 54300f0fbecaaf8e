package client_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

func TestI16_MarkersNeverGoBack(t *testing.T) {
	m := attached(t, 5)
	page := &event.StatePage{Epoch: epoch, States: []event.State{
		{Conversation: "c", Name: event.StateRead, Number: 4, Seq: 5},
		{Conversation: "c", Name: event.StateReadPrivate, Number: 3, Seq: 5},
		{Conversation: "c", Name: "pinned", Number: 1, Seq: 5},
	}}
	step := receive(t, m, page)
	require.Equal(t, page.States, step.States)
	require.True(t, step.Save)
	require.Empty(t, receive(t, m, page).States, "nothing new")
	step = receive(t, m, &event.StatePage{Epoch: epoch, States: []event.State{
		{Conversation: "c", Name: event.StateRead, Number: 2, Seq: 9}, // newer, but lower
		{Conversation: "c", Name: "pinned", Number: 0, Seq: 4},        // older
	}})
	require.Empty(t, step.States)
	step = receive(t, m, data(5, 9, mark(6, 3, false), mark(7, 5, false), mark(8, 6, false), mark(9, 2, true)))
	require.Equal(t, []event.State{{Conversation: "c", Name: event.StateRead, Number: 6, Seq: 8}}, step.States, "once, as it ends")
	require.Len(t, step.Apply, 4, "the entries reach the app all the same")
	got, ok := m.Register("c", event.StateReadPrivate)
	require.True(t, ok)
	require.Equal(t, uint64(3), got.Number)
	_, ok = m.Register("c", "muted")
	require.False(t, ok)
}

func TestC22_RegistersOfOtherKinds(t *testing.T) {
	kinds, err := event.NewRegistry(event.KindInfo{Kind: "acme.topic", Durable: true, Coalesce: "topic", Register: "topic"})
	require.NoError(t, err)
	m := client.New(client.State{Position: atPtr(0)}, client.Config{Kinds: kinds})
	m.Attach()
	receive(t, m, welcome(0))
	pin := event.Seal(event.Entry{Seq: 1, Kind: event.KindConversationPin, Conversation: "c"})
	unpin := event.Seal(event.Entry{Seq: 2, Kind: event.KindConversationUnpin, Conversation: "c"})
	topic := event.Seal(event.Entry{Seq: 3, Kind: "acme.topic", Conversation: "all", Payload: []byte("x")})
	receive(t, m, data(0, 3, pin, unpin, topic))
	want := []event.State{
		{Conversation: "all", Name: "topic", Number: 1, Value: []byte("x"), Seq: 3},
		{Conversation: "c", Name: "pinned", Seq: 2},
	}
	require.Equal(t, want, m.Registers())
	t.Run("copies", func(t *testing.T) {
		m.Registers()[0].Value[0] = 'y'
		m.Snapshot().Registers[0].Value[0] = 'y'
		r, _ := m.Register("all", "topic")
		r.Value[0] = 'y'
		require.Equal(t, want, m.Registers())
	})
	t.Run("a damaged read mark sets none", func(t *testing.T) {
		bad := event.Seal(event.Entry{Seq: 4, Kind: event.KindConversationRead, Conversation: "c", Payload: []byte("{")})
		step := receive(t, m, data(3, 4, bad))
		require.Equal(t, []*event.Sealed{bad}, step.Apply)
		require.Empty(t, step.States)
	})
}

// S62: the flag is one thing, the marker another; reading takes the flag back.
func TestS62_ReadingTakesTheFlagBack(t *testing.T) {
	m := attached(t, 0)
	flag := event.Seal(event.Entry{Seq: 1, Kind: event.KindConversationUnread, Conversation: "c"})
	receive(t, m, data(0, 1, flag))
	got, _ := m.Register("c", event.StateUnread)
	require.EqualValues(t, 1, got.Number)
	_, ok := m.Register("c", event.StateRead)
	require.False(t, ok)
	receive(t, m, data(1, 2, mark(2, 0, false)))
	got, _ = m.Register("c", event.StateUnread)
	require.Equal(t, event.State{Conversation: "c", Name: event.StateUnread, Seq: 2}, got)
	receive(t, m, data(2, 3, mark(3, 1, false)))
	got, _ = m.Register("c", event.StateUnread)
	require.EqualValues(t, 2, got.Seq, "it is not set anew")
}

func TestDigest(t *testing.T) {
	a := event.State{Conversation: "c", Name: "read", Number: 4, Seq: 5}
	b := event.State{Conversation: "d", Name: "topic", Value: []byte("v"), Seq: 6}
	base := client.Digest([]event.State{a, b})
	same := [][]event.State{
		{b, a},
		{a, b, {Conversation: "c", Name: event.StateDelivered, Number: 7}},
		{{Conversation: "c", Name: "read", Number: 4, Seq: 99}, b},
	}
	for i, s := range same {
		require.Equal(t, base, client.Digest(s), "same %d", i)
	}
	other := [][]event.State{
		nil, {a}, {a, a, b},
		{{Conversation: "c", Name: "read", Number: 5}, b},
		{a, {Conversation: "d", Name: "topic", Value: []byte("w")}},
		{a, {Conversation: "dt", Name: "opic", Value: []byte("v")}},
		{a, {Conversation: "d", Name: "topicv"}},
	}
	seen := map[[32]byte]int{base: -1}
	for i, s := range other {
		d := client.Digest(s)
		require.NotContains(t, seen, d, "other %d", i)
		seen[d] = i
	}
	m := client.New(client.State{Registers: []event.State{b, a}}, client.Config{})
	require.Equal(t, base, m.Digest())
}

func TestHeld(t *testing.T) {
	ids := func(from, to int) (out []event.MessageID) {
		for i := from; i <= to; i++ {
			out = append(out, event.MessageID(fmt.Sprint("m", i)))
		}
		return out
	}
	run := func(t *testing.T, cfg client.Config, held []event.MessageID) *client.Machine {
		m := client.New(client.State{Position: atPtr(0), Held: held}, cfg)
		m.Attach()
		receive(t, m, welcome(0))
		for i := range uint64(10) {
			receive(t, m, data(i, i+1, entry(i+1)))
		}
		return m
	}
	t.Run("by default", func(t *testing.T) {
		require.Equal(t, ids(1, 10), run(t, client.Config{}, nil).Snapshot().Held)
	})
	t.Run("the last ones", func(t *testing.T) {
		require.Equal(t, ids(8, 10), run(t, client.Config{Keep: 3}, ids(100, 200)).Snapshot().Held)
	})
	t.Run("none", func(t *testing.T) {
		require.Empty(t, run(t, client.Config{Keep: -1}, nil).Snapshot().Held)
	})
	t.Run("asked of the app", func(t *testing.T) {
		m := run(t, client.Config{Holds: func(id event.MessageID) bool { return id == "m12" }}, nil)
		require.Empty(t, m.Snapshot().Held)
		again := event.Seal(event.Entry{Seq: 14, ID: "m11"}) // the app cannot know yet
		step := receive(t, m, data(10, 15, entry(11), entry(12), entry(13), again, event.Seal(event.Entry{Seq: 15})))
		require.Equal(t, []uint64{11, 13, 15}, seqs(step.Apply), "an entry without an ID is always new")
	})
	t.Run("one that dropped out is new again", func(t *testing.T) {
		m := run(t, client.Config{Keep: 3}, nil)
		again := []*event.Sealed{event.Seal(event.Entry{Seq: 11, ID: "m8"}), event.Seal(event.Entry{Seq: 12, ID: "m7"})}
		require.Equal(t, []uint64{12}, seqs(receive(t, m, data(10, 12, again...)).Apply))
	})
	t.Run("the ring turns", func(t *testing.T) {
		m := client.New(client.State{Held: ids(1, 7)}, client.Config{Keep: 4})
		require.Equal(t, ids(4, 7), m.Snapshot().Held)
	})
}

func TestSnapshotJSON(t *testing.T) {
	m := client.New(client.State{}, client.Config{})
	m.Attach()
	receive(t, m, &event.Welcome{Login: "l1", Position: at(1<<63 + 1), Token: event.NewResumeToken()})
	receive(t, m, &event.StatePage{Epoch: epoch, States: []event.State{{Conversation: "c", Name: "x", Number: 1<<63 + 1, Value: []byte{0, 1}, Seq: 1<<63 + 1}}})
	receive(t, m, data(1<<63+1, 1<<63+2, entry(1<<63+2)))
	want := m.Snapshot()
	encoded, err := want.Encode()
	require.NoError(t, err)
	var got client.State
	require.NoError(t, json.Unmarshal(encoded, &got))
	require.Equal(t, want, got)
	require.Equal(t, want, client.New(got, client.Config{}).Snapshot())
	require.True(t, slices.Equal(want.Held, got.Held))
}

// A client that died before it had saved its first position has registers of a connection that may be long ago, perhaps of
// an inbox that began anew since. It gets all there are.
func TestI17_RegistersWithoutAPosition(t *testing.T) {
	m := client.New(client.State{}, client.Config{})
	m.Attach()
	receive(t, m, welcome(7))
	m.Record(event.State{Conversation: "c", Name: event.StateRead, Number: 6, Seq: 6})
	saved := m.Snapshot()
	require.Nil(t, saved.Position)
	m = client.New(saved, client.Config{})
	require.Nil(t, m.Attach())
	step := receive(t, m, &event.Welcome{Login: "l1", Position: event.Position{Epoch: epoch + 1, Seq: 2}})
	require.True(t, step.StatesDropped)
	receive(t, m, &event.StatePage{Epoch: epoch + 1, States: []event.State{{Conversation: "c", Name: event.StateRead, Number: 1, Seq: 2}}})
	got, _ := m.Register("c", event.StateRead)
	require.EqualValues(t, 1, got.Number)
}

// TestI24_StateIsSavedByAnExplicitStep (K10.5): Encode saves the token; what encoding/json writes by itself cannot be read back.
func TestI24_StateIsSavedByAnExplicitStep(t *testing.T) {
	token := event.NewResumeToken()
	want := client.State{Login: event.NewLoginID(), Token: token, Position: atPtr(3)}
	file, err := want.Encode()
	require.NoError(t, err)
	var got client.State
	require.NoError(t, json.Unmarshal(file, &got))
	require.Equal(t, want, got)

	file, err = json.Marshal(want)
	require.NoError(t, err)
	require.NotContains(t, string(file), token.Reveal())
	require.ErrorContains(t, json.Unmarshal(file, &got), "without Reveal")

	file, err = client.State{}.Encode()
	require.NoError(t, err)
	require.Equal(t, `{}`, string(file))
}
