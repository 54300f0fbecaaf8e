package fanout_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// C23, I35: accounts for which the push hook hangs delay each other and no other account. The hook is called 8 times for
// each and then left out.
func TestPush_AHookThatHangsHoldsUpNoOtherAccount(t *testing.T) {
	cfg := fanout.Config{Push: fanout.PushConfig{Concurrency: 4, Tries: 1}}
	pushInMemory(t, cfg, func(w *world, l *pushLog) {
		free := make(chan struct{})
		calls := map[event.Account]int{}
		var most, now atomic.Int32
		l.first(func(ctx context.Context, p fanout.Push) error {
			if p.Account == "zoe" {
				return nil
			}
			l.mu.Lock()
			calls[p.Account]++
			l.mu.Unlock()
			most.Store(max(most.Load(), now.Add(1)))
			context.AfterFunc(ctx, func() { now.Add(-1) })
			<-free
			return errPush
		})
		var bad []event.Account
		for i := range 12 {
			bad = append(bad, event.Account(fmt.Sprint("bad", i)))
			w.login(bad[i], "d")
		}
		w.login("zoe", "z1")
		for round := range 20 {
			for _, a := range bad {
				w.host("bob", "x", a)
			}
			w.host("bob", fmt.Sprint(round), "zoe")
			sent := time.Now()
			w.eventually("zoe's push", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return len(l.times) > 0
			})
			took := time.Since(sent)
			if round == 0 { // it was not known yet
				require.LessOrEqual(w.t, took, 10*time.Second+4*2*time.Second)
			} else {
				require.LessOrEqual(w.t, took, 10*time.Second+100*time.Millisecond, "round %d", round)
			}
			require.Equal(w.t, map[string]string{"z1": fmt.Sprint(round)}, l.got())
			time.Sleep(30 * time.Second)
		}
		require.LessOrEqual(w.t, most.Load(), int32(4+1), "at once")
		for _, a := range bad {
			require.Equal(w.t, 8, calls[a], a)
		}
		require.EqualValues(w.t, 12*12, w.r.Stats().Hooks[fanout.HookPush].Skipped)
		close(free)
		w.decided()
	})
}

// The same with a hook that returns as soon as its context ends, so that nothing hangs: it takes its time all the same.
func TestPush_AHookThatTakesAllItsTimeHoldsUpNoOtherAccount(t *testing.T) {
	for _, which := range []string{"hook", "decide"} {
		t.Run(which, func(t *testing.T) {
			cfg := fanout.Config{Push: fanout.PushConfig{Concurrency: 2}}
			slow := func(ctx context.Context, a event.Account) error {
				if a == "zoe" {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			if which == "decide" {
				cfg.Push.Decide = func(ctx context.Context, q fanout.PushQuestion) ([]event.DeviceID, error) {
					return q.Default, slow(ctx, q.Account)
				}
			}
			pushInMemory(t, cfg, func(w *world, l *pushLog) {
				if which == "hook" {
					l.first(func(ctx context.Context, p fanout.Push) error { return slow(ctx, p.Account) })
				}
				for i := range 20 {
					w.login(event.Account(fmt.Sprint("bad", i)), "d")
				}
				w.login("zoe", "z1")
				for i := range 20 {
					w.host("bob", "x", event.Account(fmt.Sprint("bad", i)))
				}
				time.Sleep(31 * time.Second) // all were late by now, and come again
				for i := range 20 {
					w.host("bob", "y", event.Account(fmt.Sprint("bad", i)))
				}
				w.host("bob", "x", "zoe")
				time.Sleep(10*time.Second + 100*time.Millisecond)
				require.Equal(w.t, "x", l.got()["z1"])
				l.first(nil)
				w.decided()
			})
		})
	}
}
