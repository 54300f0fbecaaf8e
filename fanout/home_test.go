package fanout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// hold makes the store hold up all reads of some accounts.
func (w *world) hold(accounts []event.Account) (free func()) {
	stop := make(chan struct{})
	for _, a := range accounts {
		w.st.Inject(storetest.Fault{Method: storetest.Read, Account: a, Times: -1, Wait: stop})
	}
	return func() { close(stop) }
}

func names(what string, n int) (all []event.Account) {
	for i := range n {
		all = append(all, event.Account(fmt.Sprint(what, i)))
	}
	return all
}

// I35: an account that the store holds up does not end retention for all others.
func TestTrim_AnAccountThatHangsHoldsUpNoOther(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 10}, func(w *world) {
		good, bad := names("good", 20), names("bad", 2)
		for i := range 20 {
			w.host("bob", fmt.Sprint(i), append(good, bad...)...)
		}
		free := w.hold(bad)
		time.Sleep(time.Minute + 2*time.Minute + time.Second)
		for _, a := range good {
			require.Len(w.t, w.log(a), 10, a)
		}
		require.NotZero(w.t, w.r.Stats().TrimFailures)
		free()
		time.Sleep(3 * time.Minute)
		require.Len(w.t, w.log(bad[0]), 10)
	})
}

// I35: accounts that the store holds up delay each other's pushes and those of no other account.
func TestPush_AccountsThatTheStoreHoldsUpHoldUpNoOther(t *testing.T) {
	cfg := fanout.Config{Push: fanout.PushConfig{Concurrency: 2}}
	pushInMemory(t, cfg, func(w *world, l *pushLog) {
		bad := names("bad", 8)
		for _, a := range append(bad, "zoe") {
			w.login(a, event.DeviceID(a))
		}
		free := w.hold(bad)
		w.host("bob", "x", bad...)
		time.Sleep(time.Minute + time.Second) // all were late by now
		for i := range 5 {
			w.host("bob", fmt.Sprint(i), "zoe")
			time.Sleep(10*time.Second + 100*time.Millisecond)
			require.Equal(w.t, map[string]string{"zoe": fmt.Sprint(i)}, l.got())
		}
		free()
		w.decided()
		require.Len(w.t, l.got(), len(bad))
	})
}
