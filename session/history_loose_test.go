package session_test

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// admittedLoosely takes over what a login did to the account.
func (h *history) admittedLoosely(m *modelAccount, in *modelLogin, replaced []*modelLogin) {
	for _, l := range replaced {
		l.ended = ""
	}
	in.since, in.ended = time.Now(), ""
	m.all = append(m.all, in)
	for _, v := range in.g.res.Victims {
		for _, l := range m.live() {
			if l.g.id != v.Session.Login {
				continue
			}
			if v.Closed.Reason == event.KickedSelf { // it was chosen
				require.Contains(h.t, replaced, l)
				h.over(l, event.KickedSelf)
			} else {
				h.victim(l, in, v.Closed.Reason)
			}
		}
	}
	h.adopt(in.g.w, m, in)
}

// adopt takes over what an admission did, and requires that only those went whom it concerns.
func (h *history) adopt(w *world, m *modelAccount, in *modelLogin) {
	there := map[event.LoginID]uint64{}
	for _, s := range w.list(m.name) {
		there[s.Login] = s.Admission
	}
	for _, l := range m.live() {
		if l.admission = there[l.g.id]; l.admission == 0 {
			h.victim(l, in, l.g.on(w).refused().Reason)
		}
	}
}

// victim notes that a login had to go for another one.
func (h *history) victim(l, in *modelLogin, why event.Reason) {
	switch {
	case why == event.ExpiredIdle:
		require.Greater(h.t, time.Since(h.trouble.calm), day, "I30: a clock has ended a login")
	case l.device == in.device:
		require.Equal(h.t, event.Replaced, why)
	default:
		require.Equal(h.t, event.EvictedQuota, why, "I30: nobody ends by a clock")
		require.True(h.t, l.platform == in.platform || !l.online, "I19: nobody goes for another platform's sake, but at the bound")
	}
	h.over(l, why)
}
