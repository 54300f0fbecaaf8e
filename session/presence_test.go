package session_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// onlooker reads one login all the time, in every way, and notes each state that it is in, once in a row. "" is: not there.
type onlooker struct {
	states []session.State
}

func (o *onlooker) saw(s session.State) {
	if n := len(o.states); n == 0 || o.states[n-1] != s {
		o.states = append(o.states, s)
	}
}

// look reads until stop is set, and once more after that.
func (o *onlooker) look(w *world, way int, a event.Account, device event.DeviceID, stop *atomic.Bool) {
	ctx := context.Background()
	for last := false; !last; {
		last = stop.Load()
		var state session.State
		switch way {
		case 0, 1:
			all, err := w.reg.List(ctx, a, "")
			if way == 1 {
				var p session.Presence
				p, err = w.reg.Presence(ctx, a)
				all = p.Devices
			}
			if err != nil {
				continue
			}
			for _, s := range all {
				if s.Device == device {
					state = s.State
				}
			}
		case 2:
			in, err := w.reg.Inspect(ctx, a)
			if err != nil {
				continue
			}
			for _, s := range in.Logins {
				if s.Device == device {
					state = s.State
				}
			}
		}
		o.saw(state)
		time.Sleep(50 * time.Microsecond)
	}
}

// TestPresence_OnlyStatesThatWere (K9.5): a login goes from not there to lingering, to online, and to not there. Whoever
// reads beside that sees these states in this order, and never another one, in whatever way the login ends, and whether
// the registry has just been opened or a while ago.
func TestPresence_OnlyStatesThatWere(t *testing.T) {
	none := session.State("")
	order := []session.State{none, session.Lingering, session.Online, none}
	for _, old := range []bool{false, true} {
		for _, hidden := range []bool{false, true} {
			t.Run(fmt.Sprintf("opened long ago: %v, store shared: %v", old, !hidden), func(t *testing.T) {
				onStores(t, setup{hidden: hidden, config: session.Config{ResumeWindow: window(old), IdleTimeout: -1}}, func(w *world) {
					slowly := func() error {
						if !w.real {
							time.Sleep(70 * time.Microsecond)
						}
						return nil
					}
					w.st.set(func(f *faults) {
						f.load = slowly
						f.before = func(store.Batch) error { return slowly() }
						f.after = func(_ store.Batch, err error) error { _ = slowly(); return err }
					})
					if old { // the window of what was there before it was opened is over
						time.Sleep(window(old) + 10*time.Millisecond)
					}
					rounds := 40
					if w.real {
						rounds = 10
					}
					for round := range rounds {
						device := event.DeviceID(fmt.Sprint("d", round))
						var stop atomic.Bool
						var wg sync.WaitGroup
						lookers := make([]onlooker, 6)
						for i := range lookers {
							wg.Go(func() { lookers[i].look(w, i%3, "ann", device, &stop) })
						}
						g := w.login("ann", device, "ios")
						require.Equal(w.t, session.Lingering, g.res.Session.State)
						g.attach()
						if round%2 == 0 {
							g.attach() // another connection takes over: it stays online
						}
						_ = endings[round%5].call(w, g)
						if !w.real {
							time.Sleep(time.Millisecond)
						}
						stop.Store(true)
						wg.Wait()
						for _, o := range lookers {
							i := 0
							for _, s := range o.states {
								for i < len(order) && order[i] != s {
									i++
								}
								require.Less(w.t, i, len(order), "%v", o.states)
							}
						}
					}
					for _, c := range w.history() {
						if c.Kind == session.ChangeLogin {
							require.Equal(w.t, session.Lingering, c.Session.State)
						}
						if c.Kind == session.ChangeEnded {
							require.Equal(w.t, session.Online, c.Session.State, "as it was right before")
						}
					}
					require.False(w.t, slices.ContainsFunc(w.history(), func(c session.Change) bool { return c.Kind == session.ChangeOffline }))
				})
			})
		}
	}
}

// window is a resume window that is over soon, for registries that are to be open for longer than that.
func window(short bool) time.Duration {
	if short {
		return 2 * time.Second
	}
	return time.Minute
}
