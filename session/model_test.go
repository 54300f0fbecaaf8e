package session_test

import (
	"cmp"
	"context"
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

const (
	modelWindow   = 2 * time.Minute
	modelLife     = 6 * time.Hour
	modelRotation = time.Hour
)

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
	on        *world    // where it is attached
	tabs      []tab     // its connections; oldest first
	since     time.Time // of its admission or last detach
	at        time.Time // of its login
	ended     event.Reason
	name      string // of its description

	confirmed time.Time           // when the token was
	next      event.ResumeToken   // issued and not confirmed
	old       []event.ResumeToken // confirmed once, then replaced
}

func (m *modelAccount) holds(l *modelLogin) bool { return l.online || time.Since(l.since) < m.window }

func (m *modelAccount) state(l *modelLogin) session.State {
	switch {
	case l.online:
		return session.Online
	case m.holds(l):
		return session.Lingering
	}
	return session.Offline
}

// modelAccount is the reference: plain lists, no clever parts.
type modelAccount struct {
	name      event.Account
	limits    map[event.Platform]int
	rules     *policy.Policy // other rules than limits of platforms; nil: none
	window    time.Duration
	bound     int  // logins, with or without a slot; 0: none
	lax       bool // stricter rules were not enforced here
	banned    bool
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

// judge lets policy, which has a reference model of its own, say who has to go. With a host that is asked, the newest of
// the candidates goes first.
func (m *modelAccount) judge(in *modelLogin) (victims []*modelLogin, refused bool) {
	live := m.live()
	var logins []policy.Login
	for _, l := range live {
		logins = append(logins, policy.Login{
			ID: l.g.id, Device: l.device, Platform: l.platform, Admission: l.admission, Holds: m.holds(l), Online: l.online,
		})
	}
	who := policy.Newcomer{Device: in.device, Platform: in.platform}
	if in.admission > 0 {
		who.Login = in.g.id
	}
	d := m.rules.Decide(logins, who, time.Now(), nil)
	if d.Verdict == policy.Ask {
		var answer policy.Answer
		for _, v := range slices.Backward(d.Victims) {
			answer.End = append(answer.End, v.Login)
		}
		d = m.rules.Resolve(logins, who, time.Now(), answer, nil)
	}
	for _, v := range d.Victims {
		victims = append(victims, live[v.Index])
		live[v.Index].ended = v.Reason
	}
	return victims, d.Verdict == policy.Refuse
}

// admit makes room for a login and returns who has to go.
func (m *modelAccount) admit(in *modelLogin) (victims []*modelLogin, refused bool) {
	if m.rules != nil {
		victims, refused = m.judge(in)
	} else {
		victims = m.evict(in)
	}
	if !refused {
		m.admission++
		in.admission, in.since = m.admission, time.Now()
	}
	slices.SortFunc(victims, func(a, b *modelLogin) int { return cmp.Compare(a.admission, b.admission) })
	return victims, refused
}

// evict is what the limits of platforms say, without policy's help.
func (m *modelAccount) evict(in *modelLogin) []*modelLogin {
	var victims []*modelLogin
	var holders []*modelLogin
	for _, l := range m.live() {
		switch {
		case l == in:
		case l.device == in.device:
			l.ended = event.Replaced
			victims = append(victims, l)
		case l.platform == in.platform && m.holds(l):
			holders = append(holders, l)
		}
	}
	for len(holders) >= m.limits[in.platform] {
		holders[0].ended = event.EvictedQuota
		victims = append(victims, holders[0])
		holders = holders[1:]
	}
	if m.bound == 0 {
		return victims
	}
	others := m.live()
	for _, l := range others {
		if n := m.count(in); n >= m.bound && l != in && !m.holds(l) { // K11.1: those without a slot go first
			l.ended = event.EvictedQuota
			victims = append(victims, l)
		}
	}
	return victims
}

// count returns how many logins there are beside one.
func (m *modelAccount) count(in *modelLogin) (n int) {
	for _, l := range m.live() {
		if l != in {
			n++
		}
	}
	return n
}

// check compares the account with what the registry says of it. Loosely: which of the logins that are not online hold a slot
// is not known.
func (m *modelAccount) check(w *world, loose bool) {
	w.t.Helper()
	live, list := m.live(), w.list(m.name)
	require.Len(w.t, list, len(live), "I20: list")
	holders := map[event.Platform]int{}
	for i, l := range live {
		s := list[i]
		require.Equal(w.t, l.g.id, s.Login)
		require.Equal(w.t, l.admission, s.Admission)
		require.Equal(w.t, l.device, s.Device)
		require.Equal(w.t, l.name, s.Description.Name)
		if !loose || l.online || s.State == session.Online {
			require.Equal(w.t, m.state(l), s.State)
		}
		if l.online || !loose && s.State != session.Offline {
			holders[s.Platform]++
		}
	}
	for p, n := range holders {
		require.True(w.t, m.rules != nil || m.lax || n <= m.limits[p], "I19: quota")
	}
	for _, l := range m.all {
		for _, b := range l.tabs {
			require.Equal(w.t, l.online && l.ended == "", b.live(), "S16: a connection lives as long as its login is online")
		}
	}
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
