package session_test

import (
	"errors"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// setClock sets the wall clock of one node, or sets it right.
func (h *history) setClock() {
	tr := h.trouble
	wall := tr.walls[h.random.IntN(len(tr.walls))]
	steps := []time.Duration{20 * time.Second, 100 * time.Second, 10 * time.Hour, 40 * day, 20 * 365 * day}
	ahead := time.Duration(h.random.Int64N(int64(steps[h.random.IntN(len(steps))])))
	if h.random.IntN(2) == 0 {
		ahead = -ahead
	}
	if h.random.IntN(3) == 0 {
		ahead = 0
	}
	before := time.Duration(wall.off.Load())
	wall.set(ahead)
	if (ahead - before).Abs() > 2*time.Minute {
		tr.calm = time.Now()
	}
	if h.random.IntN(2) == 0 {
		h.worlds[0].pass(time.Duration(h.random.IntN(60)) * time.Second)
	}
}

// off stops a server for hours, or for 40 days.
func (h *history) off(w *world) {
	for _, m := range h.accounts {
		h.touch(w, m)
	}
	var lingers []*modelLogin // emptied: they hold their slots when the server stops
	for _, m := range h.accounts {
		for _, l := range m.live() {
			if m.holds(l) {
				lingers = append(lingers, l)
			}
		}
	}
	w.shut(w.reg)
	for _, m := range h.accounts {
		for _, l := range m.live() {
			if l.online && l.on == w { // it has lost its connection
				require.Equal(h.t, []event.Reason{event.Shutdown}, l.tabs[0].wire.reasons())
				l.online, l.tabs, l.since = false, nil, time.Now()
			}
		}
	}
	away := time.Duration(2+h.random.IntN(9)) * time.Hour
	if len(h.worlds) == 1 && h.random.IntN(2) == 0 {
		away = 40 * day
	}
	w.pass(away)
	if h.random.IntN(3) == 0 {
		h.setClock()
	}
	w.open(w.now)
	h.trouble.calm = time.Now()
	h.ignore()
	w.events.add(session.Change{Kind: restarted})
	if len(h.worlds) > 1 {
		h.outlast()
		return
	}
	for _, l := range lingers {
		l.since = time.Now()
	}
}

// idle looks for logins that were ended for their age. None is within a day after a clock was set or a server was off (I30),
// and none that holds a slot.
func (h *history) idle(w *world) {
	tr := h.trouble
	defer func() {
		if tr.apart() && time.Since(tr.calm) > 12*time.Hour { // the grace is the time to set them right
			for _, wall := range tr.walls {
				wall.set(0)
			}
			tr.calm = time.Now()
		}
	}()
	if time.Since(tr.calm) < day-time.Hour {
		return
	}
	for _, m := range h.accounts {
		for _, o := range h.worlds { // each by its own clock
			h.touch(o, m)
		}
		there := map[event.LoginID]bool{}
		for _, s := range w.list(m.name) {
			there[s.Login] = true
		}
		for _, l := range m.live() {
			if there[l.g.id] {
				continue
			}
			require.Greater(h.t, time.Since(tr.calm), day, "I30: a clock or a stop has ended a login")
			require.False(h.t, l.online)
			require.True(h.t, tr.apart() || !m.holds(l))
			h.over(l, event.ExpiredIdle)
			_, err := l.g.on(w).tryAttach(new(wire))
			if tr.apart() && errors.Is(err, session.ErrUnknownLogin) {
				continue // one node has ended it, and by the other one's clock, which is believed by now, that is long over
			}
			require.ErrorIs(h.t, err, session.ErrEnded)
			require.Equal(h.t, event.ExpiredIdle, event.ClosedOf(err).Reason)
		}
	}
}

// apart reports whether the nodes' clocks differ by more than they may.
func (t *trouble) apart() bool {
	var offs []int64
	for _, w := range t.walls {
		offs = append(offs, w.off.Load())
	}
	return time.Duration(slices.Max(offs)-slices.Min(offs)) > time.Minute
}
