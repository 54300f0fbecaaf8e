package session_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// nowhere is a connection that takes everything.
type nowhere struct{}

func (nowhere) Send(context.Context, []event.Frame) error { return nil }
func (nowhere) Close(event.Closed) error                  { return nil }

func openForBench(b *testing.B, st store.Store) *session.Registry {
	b.Helper()
	pol, err := policy.New(policy.Rules{PerPlatform: 16})
	require.NoError(b, err)
	reg, err := session.New(st, session.Config{
		Policy: pol, LoginsPerMinute: -1, FlapLimit: -1, AttachesPerSecond: -1, AttachesPerAccount: -1,
	})
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, reg.Close(context.Background()))
		require.NoError(b, st.Close(context.Background()))
	})
	return reg
}

func memory() store.Store { return memstore.New(memstore.Config{}) }

// fillForBench logs in so many devices that the next one evicts.
func fillForBench(b *testing.B, reg *session.Registry, a event.Account, n int) *session.LoginResult {
	b.Helper()
	var last *session.LoginResult
	for i := range n {
		res, err := reg.Login(b.Context(), request(a, event.DeviceID(fmt.Sprint("old", i)), "ios"))
		require.NoError(b, err)
		last = res
	}
	return last
}

var benchAccounts = flag.Int("bench.accounts", 100_000, "accounts in the larger store of BenchmarkLogin_Accounts")

// BenchmarkLogin_Evicting measures logins into accounts that are full: each ends the earliest of 16. Every caller has an
// account of its own.
func BenchmarkLogin_Evicting(b *testing.B) {
	for _, kind := range []string{"memory", "file"} {
		for _, callers := range []int{1, 256} {
			b.Run(fmt.Sprintf("store=%s/callers=%d", kind, callers), func(b *testing.B) {
				benchEvicting(b, openForBench(b, storeForBench(b, kind)), callers)
			})
		}
	}
}

func storeForBench(b *testing.B, kind string) store.Store {
	b.Helper()
	if kind == "memory" {
		return memory()
	}
	st, err := boltstore.Open(filepath.Join(b.TempDir(), "store"), boltstore.Config{})
	require.NoError(b, err)
	return st
}

func benchEvicting(b *testing.B, reg *session.Registry, callers int) {
	each := func(work func(a event.Account) error) {
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				if err := work(event.Account(fmt.Sprint("ann", i))); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	logIn := func(a event.Account, n int64) error {
		_, err := reg.Login(b.Context(), request(a, event.DeviceID(fmt.Sprint("d", n%20)), "ios"))
		return err
	}
	each(func(a event.Account) error {
		for i := range int64(16) {
			if err := logIn(a, i); err != nil {
				return err
			}
		}
		return nil
	})
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	each(func(a event.Account) error {
		for i := int64(16); next.Add(1) <= int64(b.N); i++ {
			if err := logIn(a, i); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkLogin_Accounts measures logins into different accounts of a store that has few or many. What a login costs
// should not depend on it.
func BenchmarkLogin_Accounts(b *testing.B) {
	for _, accounts := range []int{10_000, *benchAccounts} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			reg := openForBench(b, memory())
			for i := range accounts {
				fillForBench(b, reg, event.Account(fmt.Sprint("ann", i)), 1)
			}
			random := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				a := event.Account(fmt.Sprint("ann", random.IntN(accounts)))
				if _, err := reg.Login(b.Context(), request(a, "phone", "ios")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAttach measures a resume within the window and the end of its connection.
func BenchmarkAttach(b *testing.B) {
	for _, logins := range []int{1, 16} {
		b.Run(fmt.Sprintf("logins=%d", logins), func(b *testing.B) {
			reg := openForBench(b, memory())
			res := fillForBench(b, reg, "ann", logins)
			q := session.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
			b.ReportAllocs()
			for b.Loop() {
				c, err := reg.Attach(b.Context(), q, nowhere{})
				if err != nil {
					b.Fatal(err)
				}
				c.Detach()
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	const logins = 16
	b.Run(fmt.Sprintf("logins=%d", logins), func(b *testing.B) {
		reg := openForBench(b, memory())
		fillForBench(b, reg, "ann", logins)
		b.ReportAllocs()
		for b.Loop() {
			all, err := reg.List(b.Context(), "ann", "")
			if err != nil || len(all) != logins {
				b.Fatal(len(all), err)
			}
		}
	})
}

// BenchmarkStats measures the figures of a registry with attached logins.
func BenchmarkStats(b *testing.B) {
	for _, logins := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("logins=%d", logins), func(b *testing.B) {
			reg := openForBench(b, memory())
			for i := range logins {
				a := event.Account(fmt.Sprint("ann", i))
				res := fillForBench(b, reg, a, 1)
				_, err := reg.Attach(b.Context(), session.AttachRequest{Account: a, Login: res.Session.Login, Token: res.Token}, nowhere{})
				require.NoError(b, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if s := reg.Stats(); s.Online != logins {
					b.Fatal(s.Online)
				}
			}
		})
	}
}
