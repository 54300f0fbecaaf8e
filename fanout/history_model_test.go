package fanout_test

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

// modelAccount is the reference: what an account's inbox and conversation state hold, as plain lists and maps.
type modelAccount struct {
	name     event.Account
	entries  []*modelEntry // that an inbox holds, oldest first, without the engine's own receipts and device events
	ever     map[event.MessageID]*modelEntry
	messages []*modelEntry
	states   map[modelKey]modelState
	counted  map[event.ConversationID][]*modelEntry // what counts as unread, oldest first
	read     map[modelKey]uint64                    // markers
	told     map[modelKey]event.MessageID           // what receipt.read must say, by conversation and reader
	last     uint64                                 // highest number seen
	age      int                                    // counts deletions
}

// modelEntry is one account's copy of a message or operation.
type modelEntry struct {
	id       event.MessageID
	kind     event.Kind
	conv     event.ConversationID
	from     event.Account
	payload  string
	key      string
	of       event.MessageID
	seq      uint64
	origin   event.LoginID
	targets  []event.Incarnation // none: all
	flagged  bool                // some inbox has it for some devices only
	receipts bool                // whose sender is to be told
	sender   event.Account       // of the message: of an edit, that of what it replaces
	names    event.MessageID     // likewise
	at       uint64              // likewise: its place in the inbox
	gone     bool                // recalled, or hidden
	heir     bool                // an edit in the message's place
	trimmed  bool                // before that: the engine goes on counting it
}

type modelKey struct {
	conv event.ConversationID
	name string
}

type modelState struct {
	number uint64
	value  string
}

func newModelAccount(name event.Account) *modelAccount {
	m := &modelAccount{name: name}
	m.clear()
	return m
}

// clear is the account's deletion.
func (m *modelAccount) clear() {
	m.entries, m.messages, m.last, m.age = nil, nil, 0, m.age+1
	m.ever = map[event.MessageID]*modelEntry{}
	m.states = map[modelKey]modelState{}
	m.counted = map[event.ConversationID][]*modelEntry{}
	m.read = map[modelKey]uint64{}
	m.told = map[modelKey]event.MessageID{}
}

// modelChange says how a kind changes messages, and modelGroup under which name a newer one takes the place of an older.
var (
	modelChange = map[event.Kind]string{
		event.KindEdit: "edit", event.KindRecall: "recall", event.KindDeleteForMe: "hide", event.KindReaction: "reaction",
	}
	modelGroup = map[event.Kind]string{
		event.KindConversationPin: "pin", event.KindConversationUnpin: "pin", event.KindConversationMute: "mute",
		event.KindConversationUnmute: "mute", event.KindConversationMark: "mark", event.KindConversationUnmark: "mark",
		event.KindConversationUnread: "unread", event.KindSettingsSilentMode: "silent",
	}
	modelRegister = map[string]string{"pin": "pinned", "mute": "muted", "mark": "mark", "unread": event.StateUnread, "silent": "silentMode"}
	modelOff      = []event.Kind{event.KindConversationUnpin, event.KindConversationUnmute, event.KindConversationUnmark}
)

// add appends an entry with all that follows from it.
func (m *modelAccount) add(e *modelEntry) {
	m.last = e.seq
	drop := func(o *modelEntry) bool { return e.key != "" && o.key == e.key }
	own := func(o *modelEntry) bool { return o.id == e.of || o.of == e.of && o.kind == event.KindEdit }
	switch modelChange[e.kind] {
	case "edit":
		drop = own
		e.heir = m.inherits(e, own)
	case "recall", "hide":
		drop = func(o *modelEntry) bool { return own(o) || o.key == e.key }
		there := m.inherits(e, own)
		if o := m.ever[e.of]; o != nil && !o.gone {
			o.gone, o.trimmed = true, !there
		}
	}
	m.entries = append(slices.DeleteFunc(m.entries, drop), e)
	m.ever[e.id] = e
	if e.kind == event.KindMessage {
		m.messages = append(m.messages, e)
	}
	if e.kind == event.KindMessage && e.from != m.name {
		m.counted[e.conv] = append(m.counted[e.conv], e)
	}
}

// inherits has a change take over for whom the message is that it changes, and reports whether the message, or an edit that
// has taken its place in the count, is still there.
func (m *modelAccount) inherits(e *modelEntry, own func(*modelEntry) bool) (there bool) {
	for _, o := range m.entries {
		if own(o) {
			there = there || o.id == e.of || o.heir
			if len(e.targets) == 0 {
				e.targets = o.targets
			}
		}
	}
	return there
}

// unread counts plainly.
func (m *modelAccount) unread() fanout.Unread {
	var u fanout.Unread
	seen := map[event.ConversationID]*fanout.UnreadIn{}
	in := func(c event.ConversationID) *fanout.UnreadIn {
		if seen[c] == nil {
			seen[c] = &fanout.UnreadIn{Conversation: c}
		}
		return seen[c]
	}
	for c, all := range m.counted {
		upTo := max(m.read[modelKey{c, event.StateRead}], m.read[modelKey{c, event.StateReadPrivate}])
		for _, e := range all {
			if c != "" && (!e.gone || e.trimmed) && e.seq > upTo {
				in(c).Count++
				u.Total++
			}
		}
	}
	for k, s := range m.states {
		if k.name == event.StateUnread && s.number != 0 {
			in(k.conv).Marked = true
		}
	}
	for _, c := range seen {
		u.Conversations = append(u.Conversations, *c)
	}
	slices.SortFunc(u.Conversations, func(a, b fanout.UnreadIn) int { return cmp.Compare(a.Conversation, b.Conversation) })
	return u
}

// mark moves a marker, and takes back that the conversation was marked as unread. It reports whether anything changed.
func (m *modelAccount) mark(conv event.ConversationID, name string, seq uint64) {
	k := modelKey{conv, name}
	m.read[k] = max(m.read[k], seq)
	if f := (modelKey{conv, event.StateUnread}); m.states[f].number != 0 {
		m.states[f] = modelState{}
	}
}

// tell notes the receipts that reading up to a place sends, or up to a message.
func (h *history) tell(m *modelAccount, conv event.ConversationID, seq uint64, id event.MessageID) {
	old := m.read[modelKey{conv, event.StateRead}]
	best := map[event.Account]*modelEntry{}
	offer := func(e *modelEntry) {
		if e.receipts && e.at > old && (best[e.sender] == nil || e.at > best[e.sender].at) {
			best[e.sender] = e
		}
	}
	for _, e := range m.entries {
		if e.conv == conv && e.seq > old && e.seq <= seq && len(e.targets) == 0 {
			offer(e)
		}
	}
	if e := m.ever[id]; e != nil && !e.flagged {
		offer(e)
	}
	for from, e := range best {
		h.accounts[from].told[modelKey{conv, string(m.name)}] = e.names
	}
}

// whom narrows a change of a message that was for some devices only, as the entries say that are left of it.
func (h *history) whom(q fanout.SendRequest, to map[event.Account][]event.Incarnation) {
	of := h.accounts[q.From].ever[q.Of]
	if of == nil || !of.flagged {
		return
	}
	for a := range to {
		i := slices.IndexFunc(h.accounts[a].entries, func(o *modelEntry) bool {
			return o.id == q.Of || o.of == q.Of && o.kind != event.KindReaction
		})
		if i < 0 {
			delete(to, a)
		} else {
			to[a] = h.accounts[a].entries[i].targets
		}
	}
}

// place looks up where a message went, which must be exactly where the model says, at a number that was never there.
func (h *history) place(e modelEntry, to map[event.Account][]event.Incarnation) {
	t := h.w.t
	info, err := h.w.inner.Message(t.Context(), e.id)
	require.NoError(t, err, "message %s", e.id)
	require.Len(t, info.To, len(to), "I2: all inboxes that it is for, and no others")
	for _, targets := range to {
		e.flagged = e.flagged || len(targets) > 0
	}
	for _, p := range info.To {
		m := h.accounts[p.Account]
		require.NotNil(t, m)
		targets, ok := to[p.Account]
		require.True(t, ok, "%s is not for %s", e.id, p.Account)
		require.Greater(t, p.Seq, m.last, "I3")
		copied := e
		copied.seq, copied.targets = p.Seq, targets
		if p.Account != e.from {
			copied.origin = ""
		}
		copied.receipts = e.receipts && p.Account != e.from
		copied.sender, copied.names, copied.at = e.from, e.id, p.Seq
		if of := m.ever[e.of]; of != nil && e.kind == event.KindEdit {
			copied.receipts, copied.sender, copied.names, copied.at = of.receipts, of.sender, of.names, of.at
		}
		m.add(&copied)
	}
}

// log compares an inbox with the model, after some of it may have been trimmed.
func (h *history) log(m *modelAccount) {
	t := h.w.t
	page := h.w.page(m.name, store.ReadOptions{Limit: 1 << 20})
	m.entries = slices.DeleteFunc(m.entries, func(e *modelEntry) bool { return e.seq <= page.Head.Trim })
	var want, got []string
	for _, e := range m.entries {
		want = append(want, wording(e.seq, e.id, e.kind, e.payload, e.targets))
	}
	for i := range page.Entries {
		if e := &page.Entries[i]; !ownWord(e) {
			got = append(got, wording(e.Seq, e.ID, e.Kind, string(e.Payload), e.Targets))
		}
	}
	require.Equal(t, want, got, "inbox of %s", m.name)
}

func wording(seq uint64, id event.MessageID, k event.Kind, payload string, targets []event.Incarnation) string {
	targets = slices.Sorted(slices.Values(targets))
	return fmt.Sprintf("%d %s %s %.20q %d", seq, id, k, payload, targets)
}

// ownWord reports entries that the engine itself makes, and fences.
func ownWord(e *event.Entry) bool {
	switch e.Kind {
	case event.KindDelivered, event.KindRead, event.KindDeviceLogin, event.KindDeviceEnded,
		event.KindConversationRead, event.KindConversationClearUnread, event.KindConversationClearAllUnread:
		return true
	}
	return e.Conversation == "fence"
}
