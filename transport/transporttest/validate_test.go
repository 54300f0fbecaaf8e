package transporttest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// validated is a small world in which nothing is wrong: two connections of ann's device, and one message of hers to bob.
type validated struct {
	ann, bob transporttest.Inbox
	device   transporttest.Stream
	log      []event.Entry // ann's entries 1 to 6
}

func sound() *validated {
	var v validated
	for seq := range uint64(6) {
		e := event.Entry{Seq: seq + 1, Kind: event.KindMessage, Conversation: "c", ID: event.MessageID("m" + string(rune('1'+seq))), From: "ann"}
		v.log = append(v.log, e)
	}
	v.log[1].Origin = "l1"                        // 2: of the device itself
	v.log[2].Targets = []event.Incarnation{8}     // 3: for another device
	v.log[3].Targets = []event.Incarnation{7, 8}  // 4: for this one, too
	v.log[4].Kind = event.KindConversationRead    // 5: a mark
	v.log[4].Payload = []byte(`{"seq":"4"}`)      //
	v.log[5].Key, v.log[4].Key = "k\n\nc", "r\nc" // 6
	v.ann = transporttest.Inbox{Account: "ann", Epoch: 1, Seq: 6, Entries: slices.Clone(v.log)}
	v.bob = transporttest.Inbox{Account: "bob", Epoch: 1, Seq: 1, Entries: []event.Entry{{Seq: 1, Kind: event.KindMessage, Conversation: "c", ID: "m1", From: "ann"}}}
	again := v.data(4, 6, 5, 6)
	again.Redelivered = true
	claim := at(4)
	v.device = transporttest.Stream{
		Name: "phone", Account: "ann", Incarnations: []event.Incarnation{7}, Position: at(6), Applied: v.sealed(1, 4, 5, 6),
		Connections: []transporttest.Connection{
			{Login: "l1", Sent: []event.Frame{welcome(0), page(0), v.data(0, 4, 1, 4), &event.CaughtUp{Position: at(4)}, v.data(4, 6, 5, 6)}},
			{Login: "l1", Claim: &claim, Sent: []event.Frame{welcome(4), page(4), again, &event.CaughtUp{Position: at(6)}, &event.Closed{}}},
		},
	}
	return &v
}

func page(read uint64) *event.StatePage {
	return &event.StatePage{Epoch: 1, States: []event.State{{Conversation: "c", Name: event.StateRead, Number: read, Seq: 5}}}
}

func (v *validated) sealed(seqs ...uint64) (all []*event.Sealed) {
	for _, seq := range seqs {
		all = append(all, event.Seal(v.log[seq-1]))
	}
	return all
}

func (v *validated) data(prev, seq uint64, entries ...uint64) *event.Data {
	return &event.Data{Epoch: 1, Prev: prev, Seq: seq, Entries: v.sealed(entries...)}
}

func (v *validated) sent(connection, frame int) *event.Frame {
	return &v.device.Connections[connection].Sent[frame]
}

func (v *validated) run() []string {
	return transporttest.Validate([]transporttest.Inbox{v.ann, v.bob}, []transporttest.Stream{v.device})
}

// TestValidatorsHaveTeeth breaks each of the rules that Validate checks.
func TestValidatorsHaveTeeth(t *testing.T) {
	require.Empty(t, sound().run())
	insert := func(v *validated, connection, at int, f event.Frame) {
		c := &v.device.Connections[connection]
		c.Sent = slices.Insert(c.Sent, at, f)
	}
	for _, c := range []struct {
		name, found string
		flaw        func(v *validated)
	}{
		{"ordered: a gap", "(I6)", func(v *validated) { *v.sent(0, 4) = v.data(5, 6, 6) }},
		{"ordered: entries", "entry 5 after 6", func(v *validated) { *v.sent(0, 4) = v.data(4, 6, 6, 5) }},
		{"ordered: beyond the frame", "(I6)", func(v *validated) { *v.sent(0, 4) = v.data(4, 5, 5, 6) }},
		{"ordered: no Welcome", "before Welcome", func(v *validated) { v.device.Connections[1].Sent = v.device.Connections[1].Sent[1:] }},
		{"ordered: two Welcomes", "a second one", func(v *validated) { insert(v, 0, 1, welcome(0)) }},
		{"ordered: State after Data", "after the first Data", func(v *validated) { insert(v, 0, 3, page(4)) }},
		{"ordered: a page is missing", "another StatePage", func(v *validated) { (*v.sent(0, 1)).(*event.StatePage).More = true }},
		{"ordered: caught up twice", "a second one", func(v *validated) { insert(v, 0, 4, &event.CaughtUp{Position: at(4)}) }},
		{"ordered: caught up elsewhere", "CaughtUp", func(v *validated) { *v.sent(0, 3) = &event.CaughtUp{Position: at(3)} }},
		{"ordered: after Closed", "after Closed", func(v *validated) { insert(v, 1, 5, &event.Pong{}) }},
		{"filtered: the own entry", "(I13)", func(v *validated) { *v.sent(0, 2) = v.data(0, 4, 1, 2, 4) }},
		{"filtered: for another device", "(I14)", func(v *validated) { *v.sent(0, 2) = v.data(0, 4, 1, 3, 4) }},
		{"filtered: live", "(I14)", func(v *validated) { insert(v, 0, 3, &event.Live{Event: v.sealed(3)[0]}) }},
		{"filtered: live to its origin", "goes back", func(v *validated) { insert(v, 0, 3, &event.Live{Event: v.sealed(2)[0]}) }},
		{"resumable: another place", "(I8)", func(v *validated) { (*v.sent(1, 0)).(*event.Welcome).Position = at(5) }},
		{"resumable: beyond what was sent", "(I9)", func(v *validated) {
			v.device.Connections[1].Claim = nil
			*v.sent(1, 0) = welcome(7)
		}},
		{"resumable: beyond the end", "beyond the end", func(v *validated) { v.device.Position = at(7) }},
		{"flagged", "not flagged", func(v *validated) { (*v.sent(1, 2)).(*event.Data).Redelivered = false }},
		{"stable: on the way", "(I4)", func(v *validated) { v.log[5].Payload = []byte("x"); *v.sent(0, 4) = v.data(4, 6, 5, 6) }},
		{"stable: in the inbox", "(I4)", func(v *validated) { v.ann.Entries[5].Flags = event.FlagHigh }},
		{"stable: numbers", "(I3)", func(v *validated) { v.ann.Entries[5].Seq = 5 }},
		{"stable: keys", "same key", func(v *validated) { v.ann.Entries[2].Key = v.ann.Entries[5].Key }},
		{"stable: in another inbox", "(I2)", func(v *validated) { v.bob.Entries[0].Payload = []byte("x") }},
		{"markers", "(I16)", func(v *validated) { *v.sent(1, 1) = page(3) }},
		{"markers: internal", "the engine's own", func(v *validated) {
			(*v.sent(1, 1)).(*event.StatePage).States = []event.State{{Conversation: "c", Name: event.StateDelivered}}
		}},
		{"unique", "(I10)", func(v *validated) { v.device.Applied = append(v.device.Applied, v.sealed(1)...) }},
		{"complete", "(I7)", func(v *validated) { v.device.Applied = v.sealed(1, 4, 6) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := sound()
			c.flaw(v)
			require.Contains(t, strings.Join(v.run(), "\n"), c.found)
		})
	}
	t.Run("complete: what need not come", func(t *testing.T) {
		v := sound()
		v.device.Applied = v.sealed(5, 6)
		v.device.Connections[0].Sent[0] = welcome(4)
		v.device.Connections[0].Sent = slices.Delete(v.device.Connections[0].Sent, 2, 3)
		require.Empty(t, v.run(), "the device began later")
		v = sound()
		v.device.Connections[0].Sent = slices.Insert(v.device.Connections[0].Sent, 1,
			event.Frame(&event.Reset{Reason: event.ResetTrimmed, From: at(0), To: at(4)}))
		v.device.Connections[0].Sent = slices.Delete(v.device.Connections[0].Sent, 3, 4)
		v.device.Applied = v.sealed(5, 6)
		require.Empty(t, v.run(), "a Reset passed it")
	})
}

// A Device keeps what Validate needs.
func TestDeviceStream(t *testing.T) {
	device(t, transporttest.DeviceConfig{}, func(t *testing.T, d *transporttest.Device, s *server) {
		s.send(t, welcome(0), data(0, 2, message(1), message(2)))
		d.Disconnect()
		require.NoError(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})))
		s.send(t, welcome(2))
		got := d.Stream("phone", "ann", 7)
		require.Equal(t, "phone", got.Name)
		require.Equal(t, at(2), got.Position)
		require.Len(t, got.Applied, 2)
		require.Len(t, got.Connections, 2)
		require.Nil(t, got.Connections[0].Claim)
		require.Equal(t, at(2), *got.Connections[1].Claim)
		require.Equal(t, []event.Frame{welcome(2)}, got.Connections[1].Sent)
		require.Empty(t, transporttest.Validate(nil, []transporttest.Stream{got}))
	})
}
