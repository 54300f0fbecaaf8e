package client_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

// inbox is a small model of the engine: one account, one device, and a log that can be trimmed or begin anew.
type inbox struct {
	rnd     *rand.Rand
	epoch   event.Epoch
	log     []*event.Sealed // log[i] has number i+1; nil: not for the device
	trim    uint64
	cursor  event.Position
	states  map[event.ConversationID]event.State
	message int
}

func newInbox(rnd *rand.Rand) *inbox {
	return &inbox{rnd: rnd, epoch: epoch, cursor: at(0), states: map[event.ConversationID]event.State{}}
}

func (in *inbox) head() uint64 { return uint64(len(in.log)) }

// change does one random thing to the inbox.
func (in *inbox) change() {
	seq := in.head() + 1
	switch n := in.rnd.IntN(40); {
	case n < 25:
		in.message++
		e := entry(seq)
		e.ID = event.MessageID(fmt.Sprint("m", in.message))
		in.log = append(in.log, e)
	case n < 30:
		in.log = append(in.log, nil)
	case n < 36:
		c := event.ConversationID(fmt.Sprint("c", in.rnd.IntN(3)))
		number := in.rnd.Uint64N(seq)
		if old, ok := in.states[c]; ok && old.Number >= number {
			return // the engine appends nothing for a marker that does not move
		}
		in.message++
		e := mark(seq, number, false)
		e.ID, e.Conversation = event.MessageID(fmt.Sprint("r", in.message)), c
		in.log = append(in.log, e)
		in.states[c] = event.State{Conversation: c, Name: event.StateRead, Number: number, Seq: seq}
	case n < 38:
		in.trim = min(in.head(), in.trim+in.rnd.Uint64N(20))
	default:
		in.restore()
	}
}

// restore begins a new epoch from an older copy of the inbox.
func (in *inbox) restore() {
	in.epoch++
	in.log = in.log[:max(in.trim, in.head()-min(in.head(), in.rnd.Uint64N(10)))]
	in.states = map[event.ConversationID]event.State{}
	for _, e := range in.log {
		var m event.ReadMark
		if e == nil || e.Kind != event.KindConversationRead || json.Unmarshal(e.Payload, &m) != nil {
			continue
		}
		if in.states[e.Conversation].Number <= m.Seq {
			in.states[e.Conversation] = event.State{Conversation: e.Conversation, Name: event.StateRead, Number: m.Seq, Seq: e.Seq}
		}
	}
	in.cursor = event.Position{Epoch: in.epoch, Seq: max(in.trim, min(in.cursor.Seq, in.head()))}
}

// attach returns the frames of a connection that stays until the device is caught up.
func (in *inbox) attach(claim *event.Position) []event.Frame {
	pos, newer, reset := in.cursor, uint64(0), event.ResetReason("")
	if claim != nil {
		switch newer = claim.Seq; {
		case claim.Epoch != in.epoch:
			reset, newer = event.ResetEpoch, 0
		case claim.Seq > in.head():
			reset, newer = event.ResetAhead, 0
		case claim.Seq < in.trim:
			reset, pos = event.ResetTrimmed, event.Position{Epoch: in.epoch, Seq: in.trim}
		default:
			pos = *claim
			in.cursor.Seq = max(in.cursor.Seq, pos.Seq)
		}
	} else if pos.Seq < in.trim {
		pos.Seq = in.trim
	}
	frames := []event.Frame{&event.Welcome{Login: "l1", Position: pos, Head: in.head()}}
	if reset != "" {
		pos.Seq = max(pos.Seq, in.trim)
		frames = append(frames, &event.Reset{Reason: reset, From: *claim, To: pos})
	}
	var states []event.State
	for _, s := range in.states {
		if s.Seq > newer || claim == nil {
			states = append(states, s)
		}
	}
	frames = append(frames, &event.StatePage{Epoch: in.epoch, States: states})
	for pos.Seq < in.head() {
		d := &event.Data{Epoch: in.epoch, Prev: pos.Seq, Seq: min(in.head(), pos.Seq+1+in.rnd.Uint64N(4))}
		for _, e := range in.log[d.Prev:d.Seq] {
			if e != nil {
				d.Entries = append(d.Entries, e)
			}
		}
		frames, pos.Seq = append(frames, d), d.Seq
	}
	return append(frames, &event.CaughtUp{Position: pos})
}

// handle takes what the device sends.
func (in *inbox) handle(t *testing.T, f event.ClientFrame) {
	t.Helper()
	switch f := f.(type) {
	case *event.Ack:
		require.Equal(t, in.epoch, f.Position.Epoch)
		require.LessOrEqual(t, f.Position.Seq, in.head())
		in.cursor.Seq = max(in.cursor.Seq, f.Position.Seq)
	case *event.ResetAck:
		in.cursor = f.Position
	}
}

// disk is what a client has saved: its state as JSON, what it applied since the last Reset, and where that began.
type disk struct {
	state   []byte
	applied []*event.Sealed
	from    uint64
}

// app is a client that crashes and loses its connection all the time.
type app struct {
	rnd  *rand.Rand
	cfg  client.Config
	disk disk
}

// load starts the process anew.
func (a *app) load(t *testing.T) (*client.Machine, disk) {
	t.Helper()
	var st client.State
	if a.disk.state != nil {
		require.NoError(t, json.Unmarshal(a.disk.state, &st))
	}
	return client.New(st, a.cfg), a.disk
}

// connect runs one connection until it ends, in order or by a crash. Frames are lost, repeated and cut off if faulty.
func (a *app) connect(t *testing.T, in *inbox, faulty bool) (caughtUp bool) {
	t.Helper()
	m, mem := a.load(t)
	claim := m.Attach()
	_, known := m.Position()
	if !known {
		mem.from = in.cursor.Seq
	}
	for _, f := range a.distort(in.attach(claim), faulty) {
		step, err := m.Receive(f)
		require.NoError(t, err)
		if step.Reattach {
			return false
		}
		if _, ok := f.(*event.Welcome); ok && claim == nil {
			p := position(t, m)
			mem.from = p.Seq
		}
		if step.Reset != nil {
			mem.applied, mem.from = nil, step.Reset.To.Seq
		}
		mem.applied = append(mem.applied[:len(mem.applied):len(mem.applied)], step.Apply...)
		caughtUp = caughtUp || step.CaughtUp
		if faulty && a.rnd.IntN(30) == 0 {
			return false // crash before saving
		}
		if a.rnd.IntN(3) > 0 && !step.CaughtUp && step.Reset == nil {
			continue // save several steps at once
		}
		mem.state, err = json.Marshal(m.Snapshot())
		require.NoError(t, err)
		a.disk = mem
		if faulty && a.rnd.IntN(30) == 0 {
			return false // crash between saving and replying
		}
		for _, r := range m.Replies() {
			in.handle(t, r)
		}
	}
	return caughtUp
}

// distort loses, repeats and cuts off Data frames.
func (a *app) distort(frames []event.Frame, faulty bool) []event.Frame {
	if !faulty {
		return frames
	}
	var out []event.Frame
	for _, f := range frames {
		n := a.rnd.IntN(30)
		if n == 0 {
			return out
		}
		_, isData := f.(*event.Data)
		if isData && n == 1 {
			continue
		}
		out = append(out, f)
		if isData && n == 2 {
			out = append(out, f)
		}
	}
	return out
}

// TestI10_RandomStreams checks that a client that crashes anywhere, over a network that loses anything, applies every
// entry between two Resets exactly once and in order, and ends with the same registers (I17).
func TestI10_RandomStreams(t *testing.T) {
	for seed := range uint64(60) {
		keep := []int{0, -1, 8}[seed%3]
		t.Run(fmt.Sprintf("seed=%d keep=%d", seed, keep), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			in, a := newInbox(rnd), &app{rnd: rnd, cfg: client.Config{Keep: keep}}
			for range 60 {
				for range rnd.IntN(12) {
					in.change()
				}
				a.connect(t, in, true)
				checkApplied(t, in, a, false)
			}
			require.True(t, a.connect(t, in, false))
			checkApplied(t, in, a, keep < 0)

			fresh := &app{rnd: rnd}
			require.True(t, fresh.connect(t, in, false))
			m, _ := a.load(t)
			f, _ := fresh.load(t)
			require.Equal(t, f.Digest(), m.Digest(), "I17")
			require.Equal(t, len(in.states), len(m.Registers()))
		})
	}
}

// checkApplied compares what the client applied since the last Reset with the log. Whole: the client holds no IDs of
// before the Reset, so that it must have applied all there was.
func checkApplied(t *testing.T, in *inbox, a *app, whole bool) {
	t.Helper()
	m, mem := a.load(t)
	pos, known := m.Position()
	if !known || pos.Epoch != in.epoch {
		return
	}
	var last uint64
	for _, e := range mem.applied {
		require.Greater(t, e.Seq, max(last, mem.from), "applied twice or out of order")
		require.Same(t, in.log[e.Seq-1], e)
		last = e.Seq
	}
	if !whole {
		return
	}
	var want []uint64
	for _, e := range in.log[mem.from:pos.Seq] {
		if e != nil {
			want = append(want, e.Seq)
		}
	}
	require.Equal(t, want, seqs(mem.applied))
}

// TestI10_RestoredIsTheSame runs two machines side by side over the same connections; one of them is saved as JSON and
// restored before each of them.
func TestI10_RestoredIsTheSame(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			in, a := newInbox(rnd), &app{rnd: rnd}
			cfg := client.Config{Keep: 16}
			stays, restored := client.New(client.State{}, cfg), client.New(client.State{}, cfg)
			for range 40 {
				for range rnd.IntN(12) {
					in.change()
				}
				saved, err := json.Marshal(restored.Snapshot())
				require.NoError(t, err)
				var st client.State
				require.NoError(t, json.Unmarshal(saved, &st))
				restored = client.New(st, cfg)

				claim := stays.Attach()
				require.Equal(t, claim, restored.Attach())
				for _, f := range a.distort(in.attach(claim), true) {
					want, wantErr := stays.Receive(f)
					got, err := restored.Receive(f)
					require.Equal(t, wantErr, err)
					require.Equal(t, want, got)
					replies := stays.Replies()
					require.Equal(t, replies, restored.Replies())
					for _, r := range replies {
						in.handle(t, r)
					}
				}
				require.Equal(t, stays.Snapshot(), restored.Snapshot())
			}
		})
	}
}
