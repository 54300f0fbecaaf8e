package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

const epoch = event.Epoch(1<<32 | 1)

func at(seq uint64) event.Position { return event.Position{Epoch: epoch, Seq: seq} }

func atPtr(seq uint64) *event.Position { p := at(seq); return &p }

func welcome(seq uint64) *event.Welcome {
	return &event.Welcome{Login: "l1", Position: at(seq), Head: 100}
}

func entry(seq uint64) *event.Sealed {
	return event.Seal(event.Entry{Seq: seq, Kind: event.KindMessage, ID: event.MessageID(fmt.Sprint("m", seq)), From: "bob"})
}

func data(prev, seq uint64, entries ...*event.Sealed) *event.Data {
	return &event.Data{Epoch: epoch, Prev: prev, Seq: seq, Entries: entries}
}

func mark(seq, number uint64, private bool) *event.Sealed {
	payload, err := json.Marshal(event.ReadMark{Seq: number, Private: private})
	if err != nil {
		panic(err) // a struct of plain fields
	}
	return event.Seal(event.Entry{
		Seq: seq, Kind: event.KindConversationRead, Conversation: "c", ID: event.MessageID(fmt.Sprint("r", seq)), Payload: payload,
	})
}

// attached returns a machine at the given position whose connection was welcomed.
func attached(t *testing.T, seq uint64) *client.Machine {
	t.Helper()
	m := client.New(client.State{Login: "l1", Position: atPtr(seq)}, client.Config{})
	m.Attach()
	receive(t, m, welcome(seq))
	return m
}

func receive(t *testing.T, m *client.Machine, f event.Frame) client.Step {
	t.Helper()
	step, err := m.Receive(f)
	require.NoError(t, err)
	return step
}

func seqs(entries []*event.Sealed) []uint64 {
	var out []uint64
	for _, e := range entries {
		out = append(out, e.Seq)
	}
	return out
}

func position(t *testing.T, m *client.Machine) event.Position {
	t.Helper()
	p, ok := m.Position()
	require.True(t, ok)
	return p
}

func TestFirstAttach(t *testing.T) {
	m := client.New(client.State{}, client.Config{})
	_, known := m.Position()
	require.False(t, known)
	require.Nil(t, m.Attach(), "a client without a position claims none")
	step := receive(t, m, &event.Welcome{Login: "l1", Position: at(7), Head: 9, Token: event.ResumeTokenOf("secret")})
	require.True(t, step.Save)
	require.True(t, receive(t, m, &event.CaughtUp{Position: at(7)}).Save)
	require.Equal(t, at(7), position(t, m), "it takes the position of the Welcome")
	require.Equal(t, event.LoginID("l1"), m.Login())
	require.Equal(t, event.ResumeTokenOf("secret"), m.Token())
	require.Equal(t, []event.ClientFrame{&event.TokenStored{}}, m.Replies(), "the token is confirmed, the position is not news")
	require.Empty(t, m.Replies(), "replies are handed out once")

	m.LoggedIn("l2", event.ResumeTokenOf("other"))
	require.Equal(t, atPtr(7), m.Attach(), "a new login keeps the position")
	require.False(t, receive(t, m, &event.Welcome{Login: "l2", Position: at(7), Head: 9}).Save)
	require.Equal(t, event.ResumeTokenOf("other"), m.Token())
}

func TestI10_Data(t *testing.T) {
	for _, tt := range []struct {
		name     string
		frames   []event.Frame
		apply    []uint64 // over all frames
		position uint64
		reattach bool
		replies  []event.ClientFrame
	}{
		{"applies what follows", []event.Frame{data(5, 7, entry(6), entry(7))}, []uint64{6, 7}, 7, false, []event.ClientFrame{&event.Ack{Position: at(7)}}},
		{"one ack covers several frames", []event.Frame{data(5, 6, entry(6)), data(6, 9, entry(8))}, []uint64{6, 8}, 9, false, []event.ClientFrame{&event.Ack{Position: at(9)}}},
		{"covering moves the position", []event.Frame{data(5, 9)}, nil, 9, false, []event.ClientFrame{&event.Ack{Position: at(9)}}},
		{"old data is passed over", []event.Frame{data(2, 5, entry(4), entry(5))}, nil, 5, false, nil},
		{"overlapping data adds what is newer", []event.Frame{data(3, 7, entry(4), entry(6))}, []uint64{6}, 7, false, []event.ClientFrame{&event.Ack{Position: at(7)}}},
		{"the same frame twice", []event.Frame{data(5, 6, entry(6)), data(5, 6, entry(6))}, []uint64{6}, 6, false, []event.ClientFrame{&event.Ack{Position: at(6)}}},
		{"a gap", []event.Frame{data(6, 7, entry(7))}, nil, 5, true, nil},
		{"nothing counts after a gap", []event.Frame{data(6, 7, entry(7)), data(5, 6, entry(6)), &event.CaughtUp{Position: at(6)}}, nil, 5, true, nil},
		{"another epoch", []event.Frame{&event.Data{Epoch: epoch + 1, Prev: 5, Seq: 6, Entries: []*event.Sealed{entry(6)}}}, nil, 5, true, nil},
		{"caught up beyond the position", []event.Frame{&event.CaughtUp{Position: at(8)}}, nil, 5, true, nil},
		{"caught up in another epoch", []event.Frame{&event.CaughtUp{Position: event.Position{Epoch: 9, Seq: 5}}}, nil, 5, true, nil},
		{"states of another epoch", []event.Frame{&event.StatePage{Epoch: 9}}, nil, 5, true, nil},
		{"closed after a gap", []event.Frame{data(6, 7), &event.Closed{Reason: event.Slow}}, nil, 5, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := attached(t, 5)
			var got []*event.Sealed
			var reattach bool
			for _, f := range tt.frames {
				step := receive(t, m, f)
				got, reattach = append(got, step.Apply...), step.Reattach
			}
			require.Equal(t, tt.apply, seqs(got))
			require.Equal(t, at(tt.position), position(t, m))
			require.Equal(t, tt.reattach, reattach)
			require.Equal(t, tt.replies, m.Replies())
			require.Equal(t, atPtr(tt.position), m.Attach())
		})
	}
}

func TestViolations(t *testing.T) {
	page := func(more bool) *event.StatePage { return &event.StatePage{Epoch: epoch, More: more} }
	reset := &event.Reset{Reason: event.ResetTrimmed, From: at(5), To: at(8)}
	for _, tt := range []struct {
		name   string
		frames []event.Frame // the last one breaks the rule
	}{
		{"data going back", []event.Frame{data(7, 6)}},
		{"entry below the range", []event.Frame{data(5, 7, entry(5))}},
		{"entry above the range", []event.Frame{data(5, 7, entry(8))}},
		{"entries out of order", []event.Frame{data(5, 7, entry(7), entry(6))}},
		{"the same entry twice", []event.Frame{data(5, 7, entry(6), entry(6))}},
		{"no entry", []event.Frame{data(5, 7, nil)}},
		{"welcome twice", []event.Frame{welcome(5)}},
		{"data between reset and answer", []event.Frame{reset, data(8, 9, entry(9))}},
		{"caught up between reset and answer", []event.Frame{reset, &event.CaughtUp{Position: at(8)}}},
		{"trimmed backwards", []event.Frame{&event.Reset{Reason: event.ResetTrimmed, From: at(5), To: at(4)}}},
		{"trimmed into another epoch", []event.Frame{&event.Reset{Reason: event.ResetTrimmed, From: at(5), To: event.Position{Epoch: 9, Seq: 8}}}},
		{"states after data", []event.Frame{data(5, 6), page(false)}},
		{"states after caught up", []event.Frame{&event.CaughtUp{Position: at(5)}, page(false)}},
		{"data while pages follow", []event.Frame{page(true), data(5, 6)}},
		{"caught up while pages follow", []event.Frame{page(true), &event.CaughtUp{Position: at(5)}}},
		{"internal register", []event.Frame{&event.StatePage{Epoch: epoch, States: []event.State{{Conversation: "c", Name: event.StateDelivered}}}}},
		{"caught up twice", []event.Frame{&event.CaughtUp{Position: at(5)}, &event.CaughtUp{Position: at(5)}}},
		{"caught up backwards", []event.Frame{&event.CaughtUp{Position: at(4)}}},
		{"after closed", []event.Frame{&event.Closed{}, &event.Pong{}}},
		{"no frame", []event.Frame{nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := attached(t, 5)
			for i, f := range tt.frames {
				before := m.Snapshot()
				_, err := m.Receive(f)
				if i < len(tt.frames)-1 {
					require.NoError(t, err)
					continue
				}
				v, ok := errors.AsType[*client.ViolationError](err)
				require.True(t, ok, "%v", err)
				require.NotEmpty(t, v.Reason)
				require.Equal(t, before, m.Snapshot(), "the frame has no effect")
			}
			require.Empty(t, m.Replies())
			_, err := m.Receive(&event.Pong{})
			require.Error(t, err, "the connection stays of no use")
			m.Attach()
			_, err = m.Receive(welcome(5))
			require.NoError(t, err)
		})
	}
	t.Run("before attach", func(t *testing.T) {
		_, err := client.New(client.State{}, client.Config{}).Receive(welcome(0))
		require.Error(t, err)
	})
	for _, f := range []event.Frame{data(5, 6), &event.Live{}, &event.Pong{}, &event.CaughtUp{}, &event.Reset{}, &event.StatePage{}} {
		t.Run(fmt.Sprintf("%T before welcome", f), func(t *testing.T) {
			m := client.New(client.State{Position: atPtr(5)}, client.Config{})
			m.Attach()
			_, err := m.Receive(f)
			require.Error(t, err)
		})
	}
}

func TestOtherFrames(t *testing.T) {
	m := attached(t, 5)
	live := entry(0)
	require.Equal(t, client.Step{Live: live}, receive(t, m, &event.Live{Event: live}))
	require.Equal(t, client.Step{Pong: &event.Pong{Nonce: "n"}}, receive(t, m, &event.Pong{Nonce: "n"}))
	require.Equal(t, client.Step{CaughtUp: true}, receive(t, m, &event.CaughtUp{Position: at(5)}))
	step := receive(t, m, &event.Data{Epoch: epoch, Prev: 5, Seq: 6, Redelivered: true, Entries: []*event.Sealed{entry(6)}})
	require.True(t, step.Redelivered)
	closed := &event.Closed{Reason: event.EvictedQuota, Cause: &event.Cause{Name: "Phone"}, Retry: event.RetryNo}
	step = receive(t, m, closed)
	require.Equal(t, client.Step{Closed: closed}, step)
	require.NotSame(t, closed.Cause, step.Closed.Cause)
	require.Empty(t, m.Replies(), "nobody listens any more")
	t.Run("refused without a Welcome", func(t *testing.T) {
		m.Attach()
		require.Equal(t, event.RefusedQuota, receive(t, m, &event.Closed{Reason: event.RefusedQuota}).Closed.Reason)
	})
}

func TestReset(t *testing.T) {
	states := []event.State{{Conversation: "c", Name: event.StateRead, Number: 4, Seq: 5}}
	for _, tt := range []struct {
		reason  event.ResetReason
		to      event.Position
		dropped bool
	}{
		{event.ResetTrimmed, at(8), false},
		{event.ResetAhead, at(3), true},
		{event.ResetEpoch, event.Position{Epoch: epoch + 1, Seq: 2}, true},
	} {
		t.Run(string(tt.reason), func(t *testing.T) {
			m := client.New(client.State{Position: atPtr(4), Held: []event.MessageID{"m9"}, Registers: states}, client.Config{})
			m.Attach()
			receive(t, m, welcome(4))
			receive(t, m, data(4, 5, entry(5)))
			reset := &event.Reset{Reason: tt.reason, From: at(5), To: tt.to}
			step := receive(t, m, reset)
			require.Equal(t, client.Step{Reset: reset, StatesDropped: tt.dropped, Save: true}, step)
			require.Equal(t, tt.dropped, len(m.Registers()) == 0)
			require.Equal(t, []event.ClientFrame{&event.ResetAck{Position: tt.to}}, m.Replies(), "no Ack of the lost position")
			receive(t, m, &event.StatePage{Epoch: tt.to.Epoch, States: states})
			require.Equal(t, states, m.Registers())
			next := &event.Data{Epoch: tt.to.Epoch, Prev: tt.to.Seq, Seq: 12, Entries: []*event.Sealed{entry(9), entry(10)}}
			require.Equal(t, []uint64{10}, seqs(receive(t, m, next).Apply), "a message that it holds is passed over")
			require.Equal(t, []event.ClientFrame{&event.Ack{Position: event.Position{Epoch: tt.to.Epoch, Seq: 12}}}, m.Replies())
		})
	}
}

// A crash before the State frames of a new position must not leave registers behind that never come again.
func TestI17_CrashBeforeStates(t *testing.T) {
	later := &event.StatePage{Epoch: epoch + 1, More: true}
	for _, tt := range []struct {
		name  string
		start *event.Position
		frame []event.Frame
		claim *event.Position
	}{
		{"first attach", nil, nil, nil},
		{"trimmed", atPtr(5), []event.Frame{&event.Reset{Reason: event.ResetTrimmed, From: at(5), To: at(8)}}, atPtr(5)},
		{"trimmed twice", atPtr(5), []event.Frame{&event.Reset{Reason: event.ResetTrimmed, From: at(5), To: at(8)}, &event.Reset{Reason: event.ResetTrimmed, From: at(8), To: at(9)}}, atPtr(5)},
		{"epoch", atPtr(5), []event.Frame{&event.Reset{Reason: event.ResetEpoch, From: at(5), To: event.Position{Epoch: epoch + 1, Seq: 2}}, later}, atPtr(5)},
		{"ahead", atPtr(5), []event.Frame{&event.Reset{Reason: event.ResetAhead, From: at(5), To: at(3)}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := client.New(client.State{Login: "l1", Position: tt.start}, client.Config{})
			m.Attach()
			receive(t, m, welcome(5))
			for _, f := range tt.frame {
				require.Equal(t, tt.claim != nil || tt.name == "ahead", receive(t, m, f).Save || f == later)
				m.Replies()
			}
			require.Equal(t, tt.claim, m.Snapshot().Position)
			require.Equal(t, tt.claim, client.New(m.Snapshot(), client.Config{}).Attach(), "after a crash")
			require.Equal(t, tt.claim, m.Attach(), "after a lost connection")
		})
	}
	t.Run("saved with what follows the states", func(t *testing.T) {
		for _, f := range []event.Frame{data(8, 9, entry(9)), data(7, 8), &event.CaughtUp{Position: at(8)}} {
			m := attached(t, 5)
			receive(t, m, &event.Reset{Reason: event.ResetTrimmed, From: at(5), To: at(8)})
			m.Replies()
			require.True(t, receive(t, m, f).Save)
			pos := position(t, m)
			require.Equal(t, &pos, m.Snapshot().Position)
		}
	})
}

func TestRecord(t *testing.T) {
	m := attached(t, 5)
	own := event.State{Conversation: "c", Name: event.StateRead, Number: 4, Seq: 6}
	require.Equal(t, []event.State{own}, m.Record(own))
	require.Empty(t, m.Record(own, event.State{Conversation: "c", Name: event.StateRead, Number: 3, Seq: 7}))
	require.Equal(t, []event.State{own}, m.Snapshot().Registers)
}

func TestNack(t *testing.T) {
	m := attached(t, 5)
	require.False(t, m.Nack(5, "no"), "nothing to answer")
	receive(t, m, data(5, 8, entry(6), entry(7), entry(8)))
	require.False(t, m.Nack(9, "beyond"))
	require.True(t, m.Nack(7, strings.Repeat("é", 200)))
	require.False(t, m.Nack(6, "before another"))
	require.Equal(t, []event.ClientFrame{
		&event.Nack{Position: at(7), Code: strings.Repeat("é", 128)}, &event.Ack{Position: at(8)},
	}, m.Replies())
	receive(t, m, data(8, 9, entry(9)))
	require.True(t, m.Nack(9, "last"))
	require.Equal(t, []event.ClientFrame{&event.Nack{Position: at(9), Code: "last"}}, m.Replies(), "a Nack acknowledges too")
	require.Empty(t, m.Replies())
}

// A token that a server has printed instead of revealing it is refused when it is to be saved, since a saved state that cannot be
// read costs the device its place.
func TestState_WithThePlaceholderIsNotSaved(t *testing.T) {
	m := client.New(client.State{Position: &event.Position{Epoch: 1, Seq: 7}}, client.Config{})
	m.LoggedIn(event.NewLoginID(), event.ResumeTokenOf(event.NewResumeToken().String()))
	_, err := m.Snapshot().Encode()
	_, invalid := errors.AsType[*event.InvalidError](err)
	require.True(t, invalid, "%v", err)
	require.ErrorContains(t, err, "without Reveal")
	m.LoggedIn(event.NewLoginID(), event.NewResumeToken())
	b, err := m.Snapshot().Encode()
	require.NoError(t, err)
	var back client.State
	require.NoError(t, json.Unmarshal(b, &back))
	require.True(t, back.Token == m.Token())
}
