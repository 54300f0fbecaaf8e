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
