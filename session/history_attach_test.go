package session_test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// showing is by what a device is let in.
type showing int

const (
	showsToken  showing = iota // its token, or the one that takes its place
	isVouched                  // the host's word
	repeatsLast                // the token before, which it still has since it never heard that the new one was confirmed
)

func (h *history) attach(w *world, m *modelAccount, l *modelLogin) {
	by := showsToken
	if h.random.IntN(8) == 0 {
		by = isVouched
	}
	h.attachBy(w, m, l, by, new(wire))
}

// attachRequest returns what a device comes with, and whether that confirms its next token.
func (h *history) attachRequest(l *modelLogin, by showing) (q session.AttachRequest, confirms bool) {
	q = session.AttachRequest{Account: l.g.acc, Login: l.g.id, Token: l.g.token}
	switch {
	case by == isVouched:
		q.Token, q.Vouched = event.ResumeToken{}, true
		if h.random.IntN(2) == 0 {
			q.Login, q.Device = "", l.device
		}
	case by == repeatsLast:
		q.Token = l.old[len(l.old)-1]
	case !l.next.IsZero() && h.random.IntN(2) == 0: // it has the new one
		q.Token, confirms = l.next, true
	}
	if h.random.IntN(10) == 0 {
		q.Description = &session.Description{Name: fmt.Sprint("name ", h.random.IntN(100)), AppVersion: "2"}
	}
	return q, confirms
}

func (h *history) attachBy(w *world, m *modelAccount, l *modelLogin, by showing, c *wire) {
	b := tab{wire: c}
	q, confirms := h.attachRequest(l, by)
	begin := time.Now()
	var err error
	b.conn, err = w.reg.Attach(h.t.Context(), q, b.wire)
	b.wire.attached(b.conn)
	h.quick(begin)
	if h.down(err) {
		return
	}
	var victims []*modelLogin
	if !h.loose && !m.holds(l) && !(m.rules != nil && m.rules.Rules().Slots == policy.SlotEveryLogin) { // those keep their slot, and age
		var refused bool
		if victims, refused = m.admit(l); refused {
			require.ErrorIs(h.t, err, session.ErrRefused)
			return
		}
	}
	require.NoError(h.t, err)
	if q.Description != nil {
		l.name = event.CleanName(q.Description.Name)
	}
	if confirms {
		l.confirm()
	}
	h.handed(w, l, b, by)
	h.displace(w, l)
	l.tabs, l.online, l.on, l.g = append(l.tabs, b), true, w, l.g.on(w)
	for _, v := range victims {
		h.over(v, v.ended)
		require.Equal(h.t, v.ended, v.g.refused().Reason)
	}
	if h.loose {
		h.adopt(w, m, l)
	}
}

// handed looks at the token that a connection was handed.
func (h *history) handed(w *world, l *modelLogin, b tab, by showing) {
	next := b.conn.Token()
	switch {
	case by == isVouched:
		require.Empty(h.t, next, "one that is vouched for has no place to keep it")
	case by == repeatsLast:
		require.Equal(h.t, l.g.token, next, "K18.4: the one that took its place")
	case !next.IsZero():
		require.True(h.t, l.next.IsZero() || next == l.next, "K18.4: the same one as before")
		require.True(h.t, !l.next.IsZero() || !l.online || l.platform != "web" || l.on != w, "no rotation beside a tab")
		l.next = next
	}
}

// displace looks at the connections that a new one takes the place of.
func (h *history) displace(w *world, l *modelLogin) {
	limit := 1
	if l.platform == "web" {
		limit = 2
	}
	if l.on != w {
		limit = 1
	}
	for len(l.tabs) >= limit {
		reason := event.Moved
		if limit > 1 {
			reason = event.TabReplaced
		}
		h.settle()
		require.Equal(h.t, []event.Reason{reason}, l.tabs[0].wire.reasons())
		require.False(h.t, l.tabs[0].live())
		l.tabs = l.tabs[1:]
	}
}

// confirm is what happens when a device shows that it has its new token.
func (l *modelLogin) confirm() {
	l.old = append(l.old, l.g.token)
	l.old = l.old[max(len(l.old)-64, 0):]
	l.g.token, l.next, l.confirmed = l.next, event.ResumeToken{}, time.Now()
}

// stored has the device say that it has stored its new token.
func (h *history) stored(w *world, l *modelLogin) {
	for _, b := range l.tabs {
		if l.on == w && !l.next.IsZero() && b.conn.Token() == l.next && !h.failed(w.reg.ConfirmToken(h.t.Context(), b.conn)) {
			l.confirm()
		}
	}
}

// reuse comes with a token that was replaced, which ends the login.
func (h *history) reuse(w *world, l *modelLogin) {
	if len(l.old) == 0 {
		return
	}
	g := l.g.on(w)
	i := h.random.IntN(len(l.old))
	if h.trouble != nil { // by a wall clock that is set, the last one may still be within its interval
		if i--; i < 0 {
			return
		}
	}
	if i == len(l.old)-1 && time.Since(l.confirmed) < 10*time.Second { // it would be let in
		w.pass(10 * time.Second)
		if h.expire(w); l.ended != "" {
			return
		}
	}
	g.token = l.old[i]
	_, err := g.tryAttach(new(wire))
	if h.down(err) {
		return
	}
	ended, ok := errors.AsType[*session.EndedError](err)
	require.True(h.t, ok, "I26: %v", err)
	require.Equal(h.t, event.TokenReuse, ended.Why.Reason)
	h.over(l, event.TokenReuse)
}

func (h *history) detach(l *modelLogin) {
	if !l.online {
		return
	}
	i := h.random.IntN(len(l.tabs))
	l.tabs[i].conn.Detach()
	if l.tabs = slices.Delete(l.tabs, i, i+1); len(l.tabs) == 0 {
		l.online, l.since = false, time.Now()
	}
}
