package fanout_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

var historyConvs = []event.ConversationID{"c1", "c2", ""}

// request begins a send from an account, by one of its devices if there is one.
func (h *history) request(m *modelAccount) (fanout.SendRequest, *member) {
	q := fanout.SendRequest{From: m.name, ClientID: clientID(), Payload: fmt.Appendf(nil, "%d", h.steps)}
	by := h.online(m)
	if by == nil || h.one(5) {
		return q, nil
	}
	q.Origin = by.Login()
	return q, by
}

// online returns a member of the account that is attached, as far as is known.
func (h *history) online(m *modelAccount) *member {
	var all []*member
	for _, o := range h.members {
		if o.account == m.name && o.in && o.Connected() {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[h.rnd.IntN(len(all))]
}

func (h *history) others(m *modelAccount) (all []event.Account) {
	for _, a := range historyNames {
		if a != m.name && h.one(2) {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		all = append(all, historyNames[(slices.Index(historyNames, m.name)+1)%len(historyNames)])
	}
	return all
}

// accept sends until the outcome is known, and has the model do the same.
func (h *history) accept(q fanout.SendRequest, by *member, targets map[event.Account][]event.Incarnation) {
	var res fanout.SendResult
	err := h.must(func() (err error) {
		res, err = h.w.r.Send(h.w.t.Context(), q)
		return err
	})
	h.note("send %s from %s by %s to %v in %q of %s: %s %d %v", q.Kind, q.From, q.Origin, q.To, q.Conversation, q.Of, res.ID, res.Position.Seq, err)
	if by != nil && errors.Is(err, fanout.ErrUnknownOrigin) {
		h.out(by)
		return
	}
	require.NoError(h.w.t, err)
	h.took(q, res, by, targets)
	if by != nil {
		by.Record(res.States...)
		by.saved = by.Save()
	}
	if len(q.Targets)+len(q.Narrow) == 0 {
		h.sent = append(h.sent, accepted{q, res, h.accounts[q.From].age, by})
		h.sent = h.sent[max(0, len(h.sent)-50):]
	}
}

// addressees returns whom a send is for, and which of their devices; none: all.
func (h *history) addressees(q fanout.SendRequest, targets map[event.Account][]event.Incarnation) map[event.Account][]event.Incarnation {
	to := map[event.Account][]event.Incarnation{}
	if !q.NoSenderCopy {
		to[q.From] = targets[q.From]
	}
	for _, a := range q.To {
		to[a] = targets[a]
	}
	if q.Of != "" {
		h.whom(q, to)
	}
	return to
}

// took has the model append what was accepted.
func (h *history) took(q fanout.SendRequest, res fanout.SendResult, by *member, targets map[event.Account][]event.Incarnation) {
	kind := q.Kind
	if kind == "" {
		kind = event.KindMessage
	}
	to := h.addressees(q, targets)
	e := modelEntry{id: res.ID, kind: kind, conv: q.Conversation, from: q.From, payload: string(q.Payload), of: q.Of, origin: q.Origin}
	others := len(to)
	if _, self := to[q.From]; self {
		others--
	}
	e.receipts = kind == event.KindMessage && (others == 1 && q.Receipts == fanout.ReceiptsAuto || q.Receipts == fanout.ReceiptsOn)
	if c := modelChange[kind]; c != "" {
		e.key = c + " " + string(q.Of)
		if c == "reaction" {
			e.key += " " + string(q.From) + " " + q.Subject
		}
	}
	if g := modelGroup[kind]; g != "" {
		e.key = g + " " + q.Subject + " " + string(q.Conversation)
		s := modelState{value: string(q.Payload)}
		if !slices.Contains(modelOff, kind) {
			s.number = 1
		}
		name := modelRegister[g]
		if q.Subject != "" {
			name += ":" + q.Subject
		}
		h.accounts[q.From].states[modelKey{q.Conversation, name}] = s
	}
	h.place(e, to)
}

func (h *history) sendMessage() {
	m := h.account()
	q, by := h.request(m)
	q.Conversation, q.To = historyConvs[h.rnd.IntN(len(historyConvs))], h.others(m)
	switch h.rnd.IntN(12) {
	case 0:
		q.To = nil
	case 1:
		q.NoSenderCopy = true
	case 2:
		q.Receipts = fanout.ReceiptsOn
	case 3:
		q.Receipts = fanout.ReceiptsOff
	case 4:
		q.Payload = fmt.Append(nil, "poison ", h.steps)
	case 5:
		q.Conversation, q.TTL = "brief", time.Duration(1+h.rnd.IntN(5))*time.Second
	case 6:
		q.Payload = []byte(strings.Repeat("x", h.rnd.IntN(5_000)))
	}
	h.accept(q, by, nil)
}

func (h *history) sendOperation() {
	m := h.account()
	q, by := h.request(m)
	kinds := []event.Kind{
		event.KindContactAccept, event.KindGroupJoin, event.KindGroupMute, event.KindThreadCreate, event.KindHistoryDelete, "acme.own",
	}
	q.Kind = kinds[h.rnd.IntN(len(kinds))]
	if h.one(2) {
		q.To = h.others(m)
	}
	h.accept(q, by, nil)
}

func (h *history) sendRegister() {
	q, by := h.request(h.account())
	kinds := []event.Kind{
		event.KindConversationPin, event.KindConversationUnpin, event.KindConversationMute, event.KindConversationUnmute,
		event.KindConversationMark, event.KindConversationUnmark, event.KindConversationUnread, event.KindSettingsSilentMode,
	}
	q.Kind, q.Conversation = kinds[h.rnd.IntN(len(kinds))], historyConvs[h.rnd.IntN(len(historyConvs))]
	if q.Kind == event.KindConversationMark || q.Kind == event.KindConversationUnmark {
		q.Subject = fmt.Sprint("star", h.rnd.IntN(2))
	}
	if q.Conversation == "" && q.Kind != event.KindSettingsSilentMode {
		q.Conversation = "c1"
	}
	h.accept(q, by, nil)
}

// sendTargets sends to one or two logins of the own account.
func (h *history) sendTargets() {
	m := h.account()
	q, by := h.request(m)
	q.Conversation = "some"
	var incs []event.Incarnation
	for range 1 + h.rnd.IntN(2) {
		o := h.members[h.rnd.IntN(len(h.members))]
		if o.account != m.name || o.Login() == "" {
			continue
		}
		_, err := h.w.reg.Get(h.w.t.Context(), m.name, o.Login())
		if err != nil {
			if errors.Is(err, session.ErrNotFound) {
				h.out(o)
				h.heal()
				bad := q
				bad.Targets, bad.Origin = []event.LoginID{o.Login()}, ""
				_, err := h.w.r.Send(h.w.t.Context(), bad)
				require.ErrorIs(h.w.t, err, fanout.ErrUnknownTarget, "I14")
			}
			continue
		}
		q.Targets = append(q.Targets, o.Login())
		if !slices.Contains(incs, o.inc) {
			incs = append(incs, o.inc)
		}
	}
	if len(q.Targets) > 0 {
		h.accept(q, by, map[event.Account][]event.Incarnation{m.name: incs})
	}
}

// sendNarrow leaves out some devices of a recipient.
func (h *history) sendNarrow() {
	m := h.account()
	q, _ := h.request(m)
	q.Origin, q.Conversation, q.To = "", "some", h.others(m)
	to := q.To[0]
	var chosen []*member
	for _, o := range h.members {
		if o.account == to && o.inc != 0 && h.one(3) {
			chosen = append(chosen, o)
		}
	}
	h.heal()
	known, err := h.w.reg.Devices(h.w.t.Context(), to)
	require.NoError(h.w.t, err)
	var incs []event.Incarnation
	n := fanout.Narrow{Account: to}
	for _, o := range chosen {
		if known[o.id] == o.inc {
			n.Devices, incs = append(n.Devices, o.id), append(incs, o.inc)
		}
	}
	if len(incs) == 0 {
		return
	}
	slices.Sort(incs)
	q.Narrow = []fanout.Narrow{n}
	h.accept(q, nil, map[event.Account][]event.Incarnation{to: incs})
}

// sendChange edits, recalls, hides or reacts to some message.
func (h *history) sendChange() {
	m := h.account()
	var of *modelEntry
	for _, e := range m.messages[max(0, len(m.messages)-20):] {
		if !e.gone && (of == nil || h.one(4)) {
			of = e
		}
	}
	if of == nil {
		return
	}
	info, err := h.w.inner.Message(h.w.t.Context(), of.id)
	if errors.Is(err, store.ErrNotFound) { // every copy was trimmed
		return
	}
	require.NoError(h.w.t, err)
	q, by := h.request(m)
	kinds := []event.Kind{event.KindEdit, event.KindEdit, event.KindRecall, event.KindReaction, event.KindReaction, event.KindDeleteForMe}
	q.Kind, q.Of, q.Conversation = kinds[h.rnd.IntN(len(kinds))], of.id, of.conv
	if by != nil && !slices.ContainsFunc(by.Entries(), func(e *event.Sealed) bool { return e.ID == of.id }) {
		q.Origin, by = "", nil // who has not seen a message does not change it
	}
	if q.Kind == event.KindReaction && h.one(2) {
		q.Subject = "heart"
	}
	if q.Kind != event.KindDeleteForMe {
		for _, p := range info.To {
			q.To = append(q.To, p.Account)
		}
	}
	explicit := q
	if h.one(2) {
		explicit.To, explicit.Conversation = nil, ""
	}
	h.change(explicit, q, by)
}

// change sends a change as it was asked for; the model knows whom it concerns.
func (h *history) change(asked, meant fanout.SendRequest, by *member) {
	var res fanout.SendResult
	err := h.must(func() (err error) {
		res, err = h.w.r.Send(h.w.t.Context(), asked)
		return err
	})
	h.note("%s of %s from %s by %s to %v: %s %v", meant.Kind, meant.Of, meant.From, meant.Origin, meant.To, res.ID, err)
	if by != nil && errors.Is(err, fanout.ErrUnknownOrigin) {
		h.out(by)
		return
	}
	if len(h.addressees(meant, nil)) == 0 {
		require.ErrorIs(h.w.t, err, fanout.ErrUnknownMessage, "I14")
		return
	}
	require.NoError(h.w.t, err)
	h.took(meant, res, by, nil)
	if by != nil && meant.Kind != event.KindEdit && meant.Kind != event.KindReaction {
		by.gone[meant.Of] = true
	}
}

// repeat sends something again, as a client does that did not get the answer.
func (h *history) repeat() {
	if len(h.sent) == 0 {
		return
	}
	a := h.sent[h.rnd.IntN(len(h.sent))]
	if a.age != h.accounts[a.q.From].age {
		return
	}
	if a.by != nil {
		if !a.by.in || a.q.Origin != a.by.Login() {
			return
		}
	}
	var res fanout.SendResult
	err := h.must(func() (err error) {
		res, err = h.w.r.Send(h.w.t.Context(), a.q)
		return err
	})
	h.note("repeat %s: %v", a.res.ID, err)
	if errors.Is(err, fanout.ErrUnknownOrigin) {
		h.out(a.by)
		return
	}
	require.NoError(h.w.t, err)
	require.True(h.w.t, res.Duplicate, "I11")
	require.Equal(h.w.t, a.res.ID, res.ID, "I11")
	require.Equal(h.w.t, a.res.Position.Seq, res.Position.Seq, "I11")
	a.q.Payload = append(slices.Clone(a.q.Payload), '!')
	err = h.must(func() error {
		_, err := h.w.r.Send(h.w.t.Context(), a.q)
		return err
	})
	require.ErrorIs(h.w.t, err, store.ErrMismatch, "I11")
}

func (h *history) publish() {
	m := h.account()
	q, _ := h.request(m)
	p := fanout.PublishRequest{From: m.name, Origin: q.Origin, Kind: event.KindTyping, Conversation: "c1", To: h.others(m), Mirror: h.one(2), Payload: q.Payload}
	err := h.must(func() error {
		_, err := h.w.r.Publish(h.w.t.Context(), p)
		return err
	})
	require.True(h.w.t, err == nil || errors.Is(err, fanout.ErrUnknownOrigin), "%v", err)
	h.note("publish from %s to %v", m.name, p.To)
}
