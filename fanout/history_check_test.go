package fanout_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport/client"
)

// quiet brings everything to rest and holds it against the model.
func (h *history) quiet() {
	h.note("quiet")
	h.heal()
	for _, m := range h.members {
		if m.sick {
			m.drop()
		}
		m.pairCfg.MaxFrames = 0
		m.HoldAcks(false)
		m.HoldResetAcks(false)
	}
	h.settle()
	for _, name := range historyNames {
		m := h.accounts[name]
		h.log(m)
		h.registers(m)
		h.counts(m)
		h.receipts(m)
	}
	for _, m := range h.members {
		if m.in && m.Connected() {
			h.device(m)
		}
	}
	h.w.validate(h.w.inboxes())
	h.fresh(h.account())
}

// settle connects all that are logged in and waits until nothing moves any more.
func (h *history) settle() {
	for range 20 {
		h.w.flush()
		before := h.heads()
		h.w.fences++
		res := h.w.post(fanout.SendRequest{
			From: "fence", Kind: "acme.fence", Conversation: "fence", To: historyNames, NoSenderCopy: true,
		})
		for _, m := range h.members {
			h.await(m, res.ID)
		}
		h.w.flush()
		after := h.heads()
		if !slices.ContainsFunc(historyNames, func(a event.Account) bool { return after[a] != before[a]+1 }) {
			return
		}
	}
	h.w.t.Fatal("it does not come to rest")
}

func (h *history) heads() map[event.Account]uint64 {
	all := map[event.Account]uint64{}
	for _, a := range historyNames {
		all[a] = h.w.head(a).Seq
	}
	return all
}

// await waits until a member has an entry and the engine knows, unless its login has ended.
func (h *history) await(m *member, id event.MessageID) {
	for range 20 {
		if !m.in {
			return
		}
		if !m.Connected() {
			m.saved = m.Save() // what it claims is saved
			if !h.bring(m) {
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := m.Wait(ctx, func() bool {
			return !m.Connected() || slices.ContainsFunc(m.Entries(), func(e *event.Sealed) bool { return e.ID == id })
		})
		cancel()
		require.NoError(h.w.t, err, "%s/%s stays at %v of %v", m.account, m.id, m.Position(), h.w.head(m.account))
		if m.Connected() {
			m.acked()
			return
		}
	}
	h.w.t.Fatalf("%s/%s cannot stay connected", m.account, m.id)
}

// registers compares the account's conversation state with the model.
func (h *history) registers(m *modelAccount) {
	t := h.w.t
	page, err := h.w.inner.States(t.Context(), m.name, store.StateOptions{Limit: 1 << 16})
	require.NoError(t, err)
	states, read := map[modelKey]modelState{}, map[modelKey]uint64{}
	for _, s := range page.States {
		switch {
		case s.Internal():
		case s.Name == event.StateRead, s.Name == event.StateReadPrivate:
			read[modelKey{s.Conversation, s.Name}] = s.Number
		default:
			states[modelKey{s.Conversation, s.Name}] = modelState{s.Number, string(s.Value)}
		}
	}
	require.Equal(t, m.states, states, "registers of %s", m.name)
	require.Equal(t, m.read, read, "I16: markers of %s", m.name)
}

func (h *history) counts(m *modelAccount) {
	got, err := h.w.r.Unread(h.w.t.Context(), m.name, "")
	require.NoError(h.w.t, err)
	require.Equal(h.w.t, m.unread(), got, "unread of %s", m.name)
}

// receipts looks at what the account was told.
func (h *history) receipts(m *modelAccount) {
	t := h.w.t
	head := h.w.head(m.name)
	have := map[modelKey]event.MessageID{}
	for _, e := range h.w.kinds(m.name, event.KindRead) {
		var r event.Receipt
		require.NoError(t, json.Unmarshal(e.Payload, &r))
		have[modelKey{e.Conversation, string(r.By)}] = r.Message
	}
	for k, id := range have {
		require.Equal(t, m.told[k], id, "%s is told by %s", m.name, k.name)
	}
	if head.Trim == 0 {
		require.Equal(t, m.told, have, "%s is told", m.name)
	}
	h.delivered(m)
}

// delivered: of all that the account's devices have, its senders know.
func (h *history) delivered(m *modelAccount) {
	page, err := h.w.inner.States(h.w.t.Context(), m.name, store.StateOptions{Limit: 1 << 16})
	require.NoError(h.w.t, err)
	marks := map[modelKey]uint64{}
	for _, s := range page.States {
		marks[modelKey{s.Conversation, s.Name}] = s.Number
	}
	there := slices.ContainsFunc(h.members, func(o *member) bool { return o.account == m.name && o.first && o.in && o.Connected() })
	for _, from := range historyNames {
		last, most := map[event.ConversationID]uint64{}, map[event.ConversationID]uint64{}
		for _, e := range m.ever {
			if e.receipts && e.sender == from && len(e.targets) == 0 {
				most[e.conv] = max(most[e.conv], e.at)
			}
		}
		for _, e := range m.entries {
			if e.receipts && e.sender == from && len(e.targets) == 0 && e.conv != "brief" && e.origin == "" {
				last[e.conv] = max(last[e.conv], e.at)
			}
		}
		for _, c := range append(slices.Clone(historyConvs), "some", "brief") {
			told := marks[modelKey{c, fanout.DeliveredRegister(from, h.w.head(m.name).Epoch)}]
			require.LessOrEqual(h.w.t, told, most[c], "I18: %s in %q of %s", from, c, m.name)
			if there {
				require.GreaterOrEqual(h.w.t, told, last[c], "I18: %s in %q of %s", from, c, m.name)
			}
		}
	}
}

// device holds what a device has against the model.
func (h *history) device(m *member) {
	t, a := h.w.t, h.accounts[m.account]
	page, err := h.w.inner.States(t.Context(), m.account, store.StateOptions{Limit: 1 << 16})
	require.NoError(t, err)
	if client.Digest(page.States) != m.Digest() {
		require.Equal(t, plainStates(page.States), plainStates(m.Registers()), "I17: %s/%s", m.account, m.id)
	}
	head := h.w.head(m.account)
	require.Equal(t, event.Position{Epoch: head.Epoch, Seq: head.Seq}, m.Position(), "%s/%s", m.account, m.id)
	require.Equal(t, head.Seq, h.w.cursor(m.device).Seq, "I9: %s/%s", m.account, m.id)
	for _, e := range m.Entries() {
		if want := a.ever[e.ID]; want != nil && !ownWord(&e.Entry) {
			require.Equal(t, want.payload, string(e.Payload), "%s/%s", m.account, m.id)
			require.True(t, len(want.targets) == 0 || slices.ContainsFunc(want.targets, func(i event.Incarnation) bool {
				return slices.Contains(m.incs, i)
			}), "I14: %s/%s has entry %d", m.account, m.id, e.Seq)
		}
	}
	if m.first && len(m.Resets()) == 0 {
		h.derived(m)
	}
}

// plainStates leaves out what is the engine's own, and how registers came to be.
func plainStates(states []event.State) (all []event.State) {
	for _, s := range states {
		if !s.Internal() {
			s.Seq = 0
			if len(s.Value) == 0 {
				s.Value = nil
			}
			all = append(all, s)
		}
	}
	return all
}

// derived counts what is unread as a client does that has been there from the beginning.
func (h *history) derived(m *member) {
	ordinals, gone := map[event.ConversationID]map[uint64]event.MessageID{}, maps.Clone(m.gone)
	for _, e := range m.Entries() {
		id := e.ID
		if e.Kind == event.KindEdit {
			id = event.ReplacedMessage(e.Key)
		}
		if e.Kind == event.KindRecall || e.Kind == event.KindDeleteForMe {
			gone[changed(e.Key)] = true
		}
		if e.Ordinal > 0 && e.Conversation != "" && e.Conversation != "some" && e.Conversation != "brief" {
			if ordinals[e.Conversation] == nil {
				ordinals[e.Conversation] = map[uint64]event.MessageID{}
			}
			ordinals[e.Conversation][e.Ordinal] = id
		}
	}
	marks := map[event.ConversationID]uint64{}
	for _, s := range m.Registers() {
		if s.Name == event.StateRead || s.Name == event.StateReadPrivate {
			n, _ := strconv.ParseUint(string(s.Value), 10, 64)
			marks[s.Conversation] = max(marks[s.Conversation], n)
		}
	}
	for _, c := range []event.ConversationID{"c1", "c2"} {
		if slices.ContainsFunc(h.accounts[m.account].counted[c], func(e *modelEntry) bool { return e.trimmed }) {
			continue
		}
		n := uint64(0)
		for ordinal, id := range ordinals[c] {
			if ordinal > marks[c] && !gone[id] {
				n++
			}
		}
		u, err := h.w.r.Unread(h.w.t.Context(), m.account, c)
		require.NoError(h.w.t, err)
		require.Equal(h.w.t, u.Total, n, "unread of %q as %s/%s counts; %v beyond %d, gone %v, %s", c, m.account, m.id, ordinals[c], marks[c], gone, strings.Join(m.transcript(), "\n"))
	}
}

// fresh attaches a new device, which must find the same state as all others.
func (h *history) fresh(a *modelAccount) {
	d := h.w.loginProbe(a.name)
	defer func() {
		d.drop()
		require.NoError(h.w.t, h.w.reg.RemoveDevice(h.w.t.Context(), session.RemoveDeviceRequest{Account: a.name, Device: d.id}))
		h.w.devices = h.w.devices[:len(h.w.devices)-1]
	}()
	d.online()
	for _, m := range h.members {
		if m.account == a.name && m.in && m.Connected() {
			require.Equal(h.w.t, plainStates(m.Registers()), plainStates(d.Registers()), "I17: %s/%s and a new device", m.account, m.id)
		}
	}
}
