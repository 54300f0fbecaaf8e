package session_test

import (
	"errors"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

func (h *history) login(w *world, m *modelAccount) {
	p := modelPlatforms[h.random.IntN(len(modelPlatforms))]
	q := request(m.name, event.DeviceID(fmt.Sprint("d", h.random.IntN(12))), p)
	if h.random.IntN(5) == 0 {
		q.Device = ""
	}
	g, err := w.tryLogin(q)
	if m.banned {
		require.True(h.t, errors.Is(err, session.ErrBanned) || h.faulty && errors.Is(err, errDown), "%v", err)
		return
	}
	if !h.down(err) {
		h.admitted(m, q, g, err, nil)
	}
}

// down reports whether an operation failed because it was told to. Whatever else happened is to be looked at.
func (h *history) down(err error) bool { return h.faulty && errors.Is(err, errDown) }

// admitted compares an admission with what the model makes of it.
func (h *history) admitted(m *modelAccount, q session.LoginRequest, g *gadget, err error, replaced []*modelLogin) {
	in := &modelLogin{g: g, device: q.Device, platform: q.Platform, at: time.Now(), name: event.CleanName(q.Description.Name)}
	if in.device == "" && g != nil {
		in.device = g.res.Session.Device
	}
	for _, l := range replaced {
		l.ended = event.KickedSelf
	}
	var victims []*modelLogin
	refused := false
	if !h.loose {
		victims, refused = m.admit(in)
	}
	if refused {
		require.ErrorIs(h.t, err, session.ErrRefused)
		for _, l := range replaced {
			l.ended = ""
		}
		return
	}
	require.NoError(h.t, err)
	if h.loose {
		h.admittedLoosely(m, in, replaced)
		return
	}
	victims = append(slices.Clone(replaced), victims...)
	slices.SortFunc(victims, func(a, b *modelLogin) int { return int(a.admission) - int(b.admission) })
	m.all = append(m.all, in)
	require.Equal(h.t, in.admission, g.res.Session.Admission)
	require.Len(h.t, g.res.Victims, len(victims), "I19: exactly the victims that the rules name")
	for i, v := range g.res.Victims {
		require.Equal(h.t, victims[i].g.id, v.Session.Login)
		require.Equal(h.t, victims[i].ended, v.Closed.Reason)
		h.over(victims[i], v.Closed.Reason)
	}
}

func (h *history) replace(w *world, m *modelAccount, l *modelLogin) {
	p := modelPlatforms[h.random.IntN(len(modelPlatforms))]
	q := request(m.name, event.DeviceID(fmt.Sprint("d", h.random.IntN(12))), p)
	res, err := w.reg.LoginReplacing(h.t.Context(), q, l.g.id)
	if h.down(err) {
		return
	}
	var g *gadget
	if res != nil {
		g = &gadget{w: w, res: res, acc: m.name, id: res.Session.Login, token: res.Token}
	}
	h.admitted(m, q, g, err, []*modelLogin{l})
}

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

// kickBy has one login of the account end another one, or itself.
func (h *history) kickBy(w *world, m *modelAccount, by, victim *modelLogin) {
	res, err := w.reg.Kick(h.t.Context(), session.KickRequest{
		Account: m.name, Logins: []event.LoginID{victim.g.id}, By: by.g.id,
	})
	if h.failed(err) {
		return
	}
	require.Equal(h.t, []session.KickResult{{Login: victim.g.id, Ended: true}}, res)
	h.over(victim, event.KickedSelf)
	require.Equal(h.t, by.g.id, victim.g.refused().Cause.Login)
}

// expire has steps find out whose lifetime is over.
func (h *history) expire(w *world) {
	if h.life == 0 {
		return
	}
	for _, m := range h.accounts {
		var over []*modelLogin
		for _, l := range m.live() {
			if time.Since(l.at) >= h.life {
				over = append(over, l)
			}
		}
		if len(over) > 0 {
			h.touch(w, m)
		}
		for _, l := range over {
			h.over(l, event.ExpiredAbsolute)
		}
	}
}

// touch makes a step on the account: it notes what time has done.
func (h *history) touch(w *world, m *modelAccount) {
	for {
		_, err := w.reg.Kick(h.t.Context(), session.KickRequest{Account: m.name, Logins: []event.LoginID{event.NewLoginID()}})
		if !h.failed(err) {
			return
		}
	}
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

// over notes the end of a login, and checks that its connections were told.
func (h *history) over(l *modelLogin, why event.Reason) {
	l.ended = why
	h.ended++
	if len(h.worlds) > 1 {
		for _, b := range l.tabs {
			require.False(h.t, b.live(), "I21: no Send begins on any node")
		}
		synctest.Wait()
	}
	for _, b := range l.tabs {
		require.Equal(h.t, []event.Reason{why}, b.wire.reasons())
	}
	l.online, l.tabs = false, nil
}

func (h *history) logout(w *world, m *modelAccount, l *modelLogin) {
	if !h.failed(w.reg.Logout(h.t.Context(), m.name, l.g.id)) {
		h.over(l, event.Logout)
	}
}

func (h *history) kick(w *world, m *modelAccount, q session.KickRequest) {
	q.Account = m.name
	want := map[event.LoginID]bool{}
	for _, l := range m.live() {
		want[l.g.id] = q.All || q.Others != "" && q.Others != l.g.id || slices.Contains(q.Logins, l.g.id) ||
			q.Platform != "" && l.platform == q.Platform || q.Filter != nil && l.platform == "ios"
	}
	begin := time.Now()
	res, err := w.reg.Kick(h.t.Context(), q)
	h.quick(begin)
	if h.failed(err) {
		return
	}
	for _, r := range res {
		require.Equal(h.t, want[r.Login], r.Ended)
		delete(want, r.Login)
		for _, l := range m.live() {
			if r.Ended && l.g.id == r.Login {
				h.over(l, event.KickedHost)
			}
		}
	}
	for _, ended := range want {
		require.False(h.t, ended)
	}
}

func (h *history) remove(w *world, m *modelAccount, d event.DeviceID) {
	if h.failed(w.reg.RemoveDevice(h.t.Context(), session.RemoveDeviceRequest{Account: m.name, Device: d})) {
		return
	}
	for _, l := range m.live() {
		if l.device == d {
			h.over(l, event.DeviceRemoved)
		}
	}
}

func (h *history) ban(w *world, m *modelAccount) {
	if m.banned {
		if !h.failed(w.reg.Unban(h.t.Context(), m.name)) {
			m.banned = false
		}
		return
	}
	ended, err := w.reg.Ban(h.t.Context(), session.BanRequest{Account: m.name})
	if h.failed(err) {
		return
	}
	m.banned = true
	require.Len(h.t, ended, len(m.live()))
	for _, l := range m.live() {
		h.over(l, event.Banned)
	}
}

// erase removes the account. Faults are off meanwhile: a deletion that fails on the way is a story of its own.
func (h *history) erase(w *world, m *modelAccount) {
	faulty := h.faulty
	h.faults(false)
	_, err := w.reg.DeleteAccount(h.t.Context(), session.DeleteRequest{Account: m.name})
	require.NoError(h.t, err)
	for _, l := range m.live() {
		h.over(l, event.AccountDeleted)
	}
	m.all, m.admission = nil, 0
	h.faults(faulty)
}

// change lowers the limits of the policy, or raises them again, and enforces them on everybody.
func (h *history) change(*modelAccount) { h.changeBut(nil, false) }

// changeBut is change while the host does not say which rules hold for one account: there nobody ends.
func (h *history) changeBut(unknown *modelAccount, silent bool) {
	if h.faulty || h.loose || h.accounts[0].rules != nil {
		return
	}
	limits := map[event.Platform]int{"ios": 1, "web": 1, "macos": 1}
	if h.lowered {
		limits = modelLimits
	}
	h.lowered = !h.lowered
	p, err := policy.New(policy.Rules{Platforms: limits, Tabs: modelTabs, MaxLogins: h.accounts[0].bound})
	require.NoError(h.t, err)
	for _, w := range h.worlds {
		w.now.rules = p.Rules()
		require.NoError(h.t, w.reg.SetPolicy(p))
	}
	report, err := h.world().reg.Enforce(h.t.Context(), session.EnforceRequest{PerSecond: -1})
	require.NoError(h.t, err)
	for _, f := range report.Failures {
		require.True(h.t, silent && f.Account == unknown.name, "%s: %v", f.Account, f.Err)
	}
	for _, o := range h.accounts {
		o.limits = limits
		if o.lax = silent && o == unknown; o.lax {
			continue
		}
		for p, limit := range limits {
			var holders []*modelLogin
			for _, l := range o.live() {
				if l.platform == p && o.holds(l) {
					holders = append(holders, l)
				}
			}
			for _, l := range holders[:max(len(holders)-limit, 0)] {
				h.over(l, event.PolicyChanged)
			}
		}
	}
}
