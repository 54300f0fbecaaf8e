package session_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

const modelWindow = 2 * time.Minute

var (
	modelPlatforms = []event.Platform{"ios", "web", "macos"}
	modelLimits    = map[event.Platform]int{"ios": 2, "web": 1, "macos": 3}
)

// modelLogin is what the reference model knows of a login.
type modelLogin struct {
	g         *gadget
	device    event.DeviceID
	platform  event.Platform
	admission uint64
	online    bool
	since     time.Time // of its admission or last detach
	ended     event.Reason
}

func (l *modelLogin) holds() bool { return l.online || time.Since(l.since) < modelWindow }

func (l *modelLogin) state() session.State {
	switch {
	case l.online:
		return session.Online
	case l.holds():
		return session.Lingering
	}
	return session.Offline
}

// modelAccount is the reference: plain lists, no clever parts.
type modelAccount struct {
	name      event.Account
	admission uint64
	all       []*modelLogin // also those that have ended
}

func (m *modelAccount) live() []*modelLogin {
	var all []*modelLogin
	for _, l := range m.all {
		if l.ended == "" {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b *modelLogin) int { return cmp.Compare(a.admission, b.admission) })
	return all
}

// admit makes room for a login and returns who has to go.
func (m *modelAccount) admit(in *modelLogin) []*modelLogin {
	var victims []*modelLogin
	var holders []*modelLogin
	for _, l := range m.live() {
		switch {
		case l == in:
		case l.device == in.device:
			l.ended = event.Replaced
			victims = append(victims, l)
		case l.platform == in.platform && l.holds():
			holders = append(holders, l)
		}
	}
	for len(holders) >= modelLimits[in.platform] {
		holders[0].ended = event.EvictedQuota
		victims = append(victims, holders[0])
		holders = holders[1:]
	}
	m.admission++
	in.admission, in.since = m.admission, time.Now()
	slices.SortFunc(victims, func(a, b *modelLogin) int { return cmp.Compare(a.admission, b.admission) })
	return victims
}

// check compares the account with what the registry says of it.
func (m *modelAccount) check(w *world) {
	w.t.Helper()
	live, list := m.live(), w.list(m.name)
	require.Len(w.t, list, len(live), "I20: list")
	holders := map[event.Platform]int{}
	for i, l := range live {
		s := list[i]
		require.Equal(w.t, l.g.id, s.Login)
		require.Equal(w.t, l.admission, s.Admission)
		require.Equal(w.t, l.device, s.Device)
		require.Equal(w.t, l.state(), s.State)
		if s.State != session.Offline {
			holders[s.Platform]++
		}
	}
	for p, n := range holders {
		require.LessOrEqual(w.t, n, modelLimits[p], "I19: quota")
	}
	for _, l := range m.all {
		if l.g.wire == nil {
			continue
		}
		require.Equal(w.t, l.online && l.ended == "", l.g.live(), "a connection lives as long as its login is online")
	}
}

// history plays random operations on a few accounts.
type history struct {
	w        *world
	random   *rand.Rand
	accounts []*modelAccount
	ended    int
}

func (h *history) play() {
	w, m := h.w, h.accounts[h.random.IntN(len(h.accounts))]
	live := m.live()
	one := func() *modelLogin { return live[h.random.IntN(len(live))] }
	switch op := h.random.IntN(100); {
	case op < 30 || len(live) == 0:
		h.login(m)
	case op < 50:
		h.attach(m, one())
	case op < 65:
		if l := one(); l.online {
			l.g.conn.Detach()
			l.online, l.since = false, time.Now()
		}
	case op < 72:
		h.kick(m, session.KickRequest{Logins: []event.LoginID{one().g.id, one().g.id, event.NewLoginID()}})
	case op < 76:
		l := one()
		require.NoError(w.t, w.reg.Logout(w.t.Context(), m.name, l.g.id))
		h.over(l, event.Logout)
	case op < 77:
		h.kick(m, session.KickRequest{Others: one().g.id})
	case op < 78:
		h.kick(m, session.KickRequest{All: true})
	case op < 80:
		h.remove(m, one().device)
	case op < 90:
		h.late(m.all[h.random.IntN(len(m.all))])
	default:
		w.pass(time.Duration(h.random.IntN(60)) * time.Second)
	}
	m.check(w)
}

func (h *history) login(m *modelAccount) {
	w := h.w
	p := modelPlatforms[h.random.IntN(len(modelPlatforms))]
	in := &modelLogin{device: event.DeviceID(fmt.Sprint("d", h.random.IntN(12))), platform: p}
	in.g = w.login(m.name, in.device, p)
	victims := m.admit(in)
	m.all = append(m.all, in)
	require.Equal(w.t, in.admission, in.g.res.Session.Admission)
	require.Len(w.t, in.g.res.Victims, len(victims), "I19: exactly the victims that the rules name")
	for i, v := range in.g.res.Victims {
		require.Equal(w.t, victims[i].g.id, v.Session.Login)
		require.Equal(w.t, victims[i].ended, v.Closed.Reason)
		h.over(victims[i], v.Closed.Reason)
	}
}

func (h *history) attach(m *modelAccount, l *modelLogin) {
	var victims []*modelLogin
	if !l.holds() {
		victims = m.admit(l)
	}
	l.g.attach()
	l.online = true
	for _, v := range victims {
		require.Equal(h.w.t, v.ended, v.g.refused().Reason)
		h.over(v, v.ended)
	}
}

// over notes the end of a login, and checks that its last connection was told.
func (h *history) over(l *modelLogin, why event.Reason) {
	l.ended = why
	h.ended++
	if l.online {
		reasons := l.g.wire.reasons()
		require.Equal(h.w.t, []event.Reason{why}, reasons)
	}
	l.online = false
}

func (h *history) kick(m *modelAccount, q session.KickRequest) {
	w := h.w
	q.Account = m.name
	want := map[event.LoginID]bool{}
	for _, l := range m.live() {
		want[l.g.id] = q.All || q.Others != "" && q.Others != l.g.id || slices.Contains(q.Logins, l.g.id)
	}
	res, err := w.reg.Kick(w.t.Context(), q)
	require.NoError(w.t, err)
	for _, r := range res {
		require.Equal(w.t, want[r.Login], r.Ended)
		delete(want, r.Login)
		for _, l := range m.live() {
			if r.Ended && l.g.id == r.Login {
				h.over(l, event.KickedHost)
			}
		}
	}
	for _, ended := range want {
		require.False(w.t, ended)
	}
}

func (h *history) remove(m *modelAccount, d event.DeviceID) {
	require.NoError(h.w.t, h.w.reg.RemoveDevice(h.w.t.Context(), m.name, d))
	for _, l := range m.live() {
		if l.device == d {
			h.over(l, event.DeviceRemoved)
		}
	}
}

// late says things in the name of a login that may have ended long ago.
func (h *history) late(l *modelLogin) {
	if l.ended == "" {
		return
	}
	_, err := l.g.tryAttach(new(wire))
	if ended, ok := errors.AsType[*session.EndedError](err); ok {
		require.Equal(h.w.t, l.ended, ended.Closed.Reason)
	} else {
		require.ErrorIs(h.w.t, err, session.ErrUnknownLogin)
	}
	if l.g.conn != nil {
		l.g.conn.Detach()
	}
}

// TestS16_RandomHistory: whatever happens, what the registry says is what the rules say. It covers S1 to S5, S17, S18, S20.
func TestS16_RandomHistory(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	steps := 20_000
	if testing.Short() {
		steps = 2_000
	}
	s := setup{rules: policy.Rules{Platforms: modelLimits}, config: session.Config{IdleTimeout: -1, TokenRotation: -1, IdleDevice: -1}}
	inBubble(t, s, func(w *world) {
		h := &history{w: w, random: rand.New(rand.NewPCG(seed, 0))}
		for i := range 4 {
			h.accounts = append(h.accounts, &modelAccount{name: event.Account(fmt.Sprint("ann", i))})
		}
		for i := range steps {
			h.play()
			if i%500 == 499 { // what is long over need not be looked at again and again
				for _, m := range h.accounts {
					old := max(0, len(m.all)-100)
					lasting := slices.DeleteFunc(slices.Clone(m.all[:old]), func(l *modelLogin) bool { return l.ended != "" })
					m.all = append(lasting, m.all[old:]...)
				}
			}
		}
		require.Len(w.t, w.revocations(), h.ended, "each end was told once")
		w.pass(10 * time.Second)
		online := map[event.LoginID]bool{}
		for _, c := range w.history() {
			switch c.Kind {
			case session.ChangeOnline:
				require.False(w.t, online[c.Session.Login], "online twice")
				online[c.Session.Login] = true
			case session.ChangeOffline:
				require.True(w.t, online[c.Session.Login], "offline without having been online")
				delete(online, c.Session.Login)
			case session.ChangeEnded:
				delete(online, c.Session.Login)
			}
		}
	})
}

// TestI20_ConcurrentHistory: many callers at one account. Every login ends at most once, and what is left is what was
// admitted and did not end.
func TestI20_ConcurrentHistory(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	onStores(t, setup{rules: policy.Rules{Platforms: modelLimits}}, func(w *world) {
		const callers, steps = 8, 60
		var mu sync.Mutex
		admitted, ended := map[event.LoginID]*gadget{}, map[event.LoginID]int{}
		note := func(ids ...event.LoginID) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				ended[id]++
			}
		}
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(c)))
				var mine []*gadget
				for range steps {
					if len(mine) == 0 || random.IntN(3) == 0 {
						g, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprint("d", random.IntN(20))), modelPlatforms[random.IntN(3)]))
						if err != nil {
							note("failed: " + event.LoginID(err.Error()))
							return
						}
						mu.Lock()
						admitted[g.id] = g
						mu.Unlock()
						for _, v := range g.res.Victims {
							note(v.Session.Login)
						}
						mine = append(mine, g)
						continue
					}
					g := mine[random.IntN(len(mine))]
					switch random.IntN(3) {
					case 0:
						if conn, err := g.tryAttach(new(wire)); err == nil && random.IntN(2) == 0 {
							conn.Detach()
						}
					case 1:
						if _, err := w.reg.List(context.Background(), "ann", g.id); err != nil {
							note("failed: " + event.LoginID(err.Error()))
						}
					case 2:
						res, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}})
						if err == nil && res[0].Ended {
							note(g.id)
						}
					}
				}
			})
		}
		wg.Wait()
		for id, n := range ended {
			require.Contains(w.t, admitted, id)
			require.Equal(w.t, 1, n, "each login ends once")
			delete(admitted, id)
		}
		list := w.list("ann")
		require.Len(w.t, list, len(admitted))
		for _, s := range list {
			require.Contains(w.t, admitted, s.Login)
		}
		require.Len(w.t, w.revocations(), len(ended))
		rec := shapeOf(w.t, []byte(w.stored("ann").data))
		require.Len(w.t, rec.Logins, len(list))
		for p, limit := range modelLimits {
			require.LessOrEqual(w.t, rec.holders(p), limit)
		}
	})
}
