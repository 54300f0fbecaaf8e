package storetest

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// model is the contract in its plainest form, for one goroutine. It does not choose sequence numbers, revisions and
// epochs: it takes those of the store and checks what is promised of them.
type model struct {
	accounts map[event.Account]*modelAccount
	messages map[event.MessageID]*modelMessage
}

type modelAccount struct {
	record  store.Record
	head    store.Head
	entries []event.Entry
	states  map[register]event.State
	cursors map[event.Incarnation]store.Cursor
	counts  map[event.ConversationID]store.Conversation
	names   map[attemptName]attempt
}

type modelMessage struct {
	info    store.MessageInfo
	holders map[event.Account]bool
	of      *modelMessage
	changes int  // messages that change it and are known
	known   bool // an inbox holds it, or a message that changes it is known
}

type register struct {
	conversation event.ConversationID
	name         string
}

type attemptName struct {
	device event.DeviceID
	id     event.ClientMessageID
}

type attempt struct {
	digest  [32]byte
	expires time.Time
	result  []store.Placed
}

func newModel() *model {
	return &model{accounts: map[event.Account]*modelAccount{}, messages: map[event.MessageID]*modelMessage{}}
}

// account returns the account, which begins with the head that the store has for it.
func (m *model) account(name event.Account, epoch func() event.Epoch) *modelAccount {
	a := m.accounts[name]
	if a == nil {
		a = &modelAccount{}
		a.clear(epoch())
		m.accounts[name] = a
	}
	return a
}

func (a *modelAccount) clear(epoch event.Epoch) {
	*a = modelAccount{
		head: store.Head{Epoch: epoch}, states: map[register]event.State{},
		cursors: map[event.Incarnation]store.Cursor{},
		counts:  map[event.ConversationID]store.Conversation{}, names: map[attemptName]attempt{},
	}
}

// verdict is what the contract says of a batch before anything is done: the error, or a result without effect.
type verdict struct {
	err       error
	duplicate *attempt
	unchanged bool
}

func (a *modelAccount) judge(b *store.Batch) verdict {
	if i := b.Idempotency; i != nil {
		maps.DeleteFunc(a.names, func(_ attemptName, r attempt) bool { return !b.Now.Before(r.expires) })
		if r, ok := a.names[attemptName{i.Device, i.ClientID}]; ok {
			if r.digest != i.Digest {
				return verdict{err: store.ErrMismatch}
			}
			return verdict{duplicate: &r}
		}
		if len(a.names) >= i.Max {
			return verdict{err: store.ErrWindowFull}
		}
	}
	if b.Record != nil && b.Record.Expect != a.record.Revision {
		return verdict{err: store.ErrConflict}
	}
	if b.OnlyIfChanged && !slices.ContainsFunc(b.States, func(u store.StateUpdate) bool {
		_, changed := a.merge(u)
		return changed
	}) {
		return verdict{unchanged: true}
	}
	return verdict{}
}

// merge is written out here, so that store.Merge is checked too.
func (a *modelAccount) merge(u store.StateUpdate) (event.State, bool) {
	old, ok := a.states[register{u.Conversation, u.Name}]
	next := event.State{Conversation: u.Conversation, Name: u.Name, Number: u.Number, Value: u.Value}
	if !ok {
		return next, true
	}
	if u.Merge == store.MergeMax && u.Number <= old.Number {
		return old, false
	}
	if u.Merge == store.MergeLast && u.Number == old.Number && string(u.Value) == string(old.Value) {
		return old, false
	}
	return next, true
}

// sortedStates returns all registers by conversation and name.
func (a *modelAccount) sortedStates() []event.State {
	return slices.SortedFunc(maps.Values(a.states), compareStates)
}

func compareStates(s, t event.State) int {
	return cmp.Or(strings.Compare(string(s.Conversation), string(t.Conversation)), strings.Compare(s.Name, t.Name))
}

// entry is what a message becomes in an inbox, with the place that the store gave it. What it replaces is removed.
func (m *model) entry(a *modelAccount, msg *store.Message, to *store.Inbox, p store.Place, now time.Time) event.Entry {
	e := event.Entry{
		Seq: p.Seq, Kind: msg.Kind, Flags: msg.Flags | to.Flags, Conversation: msg.Conversation, ID: msg.ID,
		From: msg.From, Targets: to.Targets, Key: msg.Key, Time: now, Expires: msg.Expires, Payload: msg.Payload,
	}
	if to.Account == msg.From {
		e.ClientID, e.Origin = msg.ClientID, msg.Origin
	}
	counts := e.Flags&event.FlagUnread != 0
	successor := to.Replaces.Seq != 0 && to.Replaces.Epoch == a.head.Epoch
	for _, which := range []func(o *event.Entry) bool{
		func(o *event.Entry) bool { return successor && o.Seq == to.Replaces.Seq },
		func(o *event.Entry) bool { return msg.Key != "" && o.Key == msg.Key },
		func(o *event.Entry) bool { return msg.Drop != "" && o.Key == msg.Drop },
	} {
		for _, old := range m.remove(a, to.Account, which) {
			if successor && len(e.Targets) == 0 {
				e.Targets = old.Targets
			}
			if successor && !counts && !msg.Uncount && e.Ordinal == 0 && old.Conversation == e.Conversation && old.Ordinal > 0 {
				e.Ordinal, e.Flags = old.Ordinal, e.Flags|event.FlagUnread
				continue
			}
			a.uncount(&old)
		}
	}
	if counts {
		c := a.counts[e.Conversation]
		c.Conversation = e.Conversation
		c.Counted++
		a.counts[e.Conversation], e.Ordinal = c, c.Counted
	}
	return e
}

// uncount is written out here, so that store.Uncount is checked too.
func (a *modelAccount) uncount(e *event.Entry) {
	if e.Ordinal == 0 {
		return
	}
	c := a.counts[e.Conversation]
	c.Uncounted = append(slices.Clone(c.Uncounted), e.Ordinal)
	slices.Sort(c.Uncounted)
	if len(c.Uncounted) > store.MaxUncounted {
		c.Uncounted = c.Uncounted[1:]
	}
	a.counts[e.Conversation] = c
}

// append puts an entry into the inbox.
func (m *model) append(a *modelAccount, msg *store.Message, to *store.Inbox, e event.Entry) {
	a.entries = append(a.entries, normalised([]event.Entry{e})...)
	a.head.Seq = e.Seq
	a.head.Bytes += int64(e.Size())
	if e.Key == "" {
		a.head.Entries++
	}
	m.messages[msg.ID].holders[to.Account] = true
}

// forget notes that nobody knows a message any more, unless an inbox holds it or a message that changes it is known.
func (msg *modelMessage) forget() {
	for ; msg != nil && msg.known && len(msg.holders) == 0 && msg.changes == 0; msg = msg.of {
		msg.known = false
		if msg.of != nil {
			msg.of.changes--
		}
	}
}

// remove takes entries out of an inbox and returns them.
func (m *model) remove(a *modelAccount, name event.Account, which func(e *event.Entry) bool) (gone []event.Entry) {
	a.entries = slices.DeleteFunc(a.entries, func(e event.Entry) bool {
		if !which(&e) {
			return false
		}
		a.head.Bytes -= int64(e.Size())
		if e.Key == "" {
			a.head.Entries--
		}
		msg := m.messages[e.ID]
		delete(msg.holders, name)
		msg.forget()
		gone = append(gone, e)
		return true
	})
	return gone
}
