package fanout_test

import (
	"errors"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

func (h *history) markRead() {
	m := h.account()
	q := fanout.MarkReadRequest{Account: m.name, Private: h.one(4)}
	by := h.online(m)
	if by != nil && h.one(2) {
		q.Origin = by.Login()
	} else {
		by = nil
	}
	head := h.w.head(m.name)
	var seq uint64
	if h.one(3) && len(m.messages) > 0 {
		e := m.messages[h.rnd.IntN(len(m.messages))]
		if _, err := h.w.inner.Message(h.w.t.Context(), e.id); err != nil || e.conv == "" || e.seq <= head.Trim {
			return
		}
		q.Message, q.Conversation, seq = e.id, e.conv, e.seq
	} else if head.Seq > head.Trim {
		q.Conversation, q.Seq = historyConvs[h.rnd.IntN(2)], head.Trim+1+h.rnd.Uint64N(head.Seq-head.Trim)
		seq = q.Seq
	} else {
		return
	}
	var res fanout.MarkReadResult
	err := h.must(func() (err error) {
		res, err = h.w.r.MarkRead(h.w.t.Context(), q)
		return err
	})
	h.note("read %s %q up to %d (%s) by %s: %+v %v", m.name, q.Conversation, seq, q.Message, q.Origin, res.States, err)
	if errors.Is(err, fanout.ErrUnknownOrigin) {
		h.out(by)
		return
	}
	require.NoError(h.w.t, err)
	name := event.StateRead
	if q.Private {
		name = event.StateReadPrivate
	} else {
		h.tell(m, q.Conversation, seq, q.Message)
	}
	m.mark(q.Conversation, name, seq)
	require.Equal(h.w.t, m.read[modelKey{q.Conversation, name}], res.Seq, "I16")
	if by != nil {
		by.Record(res.States...)
		by.saved = by.Save()
	}
}

func (h *history) clearUnread() {
	m := h.account()
	q := fanout.ClearUnreadRequest{Account: m.name}
	if h.one(2) {
		q.Conversation = historyConvs[h.rnd.IntN(2)]
	}
	by := h.online(m)
	if by != nil {
		q.Origin = by.Login()
	}
	u := m.unread()
	head := h.w.head(m.name).Seq
	var res fanout.ClearUnreadResult
	err := h.must(func() (err error) {
		res, err = h.w.r.ClearUnread(h.w.t.Context(), q)
		return err
	})
	h.note("clear %s %q by %s: %+v %v", m.name, q.Conversation, q.Origin, res.States, err)
	if errors.Is(err, fanout.ErrUnknownOrigin) {
		h.out(by)
		return
	}
	require.NoError(h.w.t, err)
	for _, c := range u.Conversations {
		if q.Conversation == "" || q.Conversation == c.Conversation {
			at := h.w.register(m.name, c.Conversation, event.StateReadPrivate) // receipts may have come in between
			require.GreaterOrEqual(h.w.t, at, head)
			m.mark(c.Conversation, event.StateReadPrivate, at)
		}
	}
	if by != nil {
		by.Record(res.States...)
		by.saved = by.Save()
	}
}
