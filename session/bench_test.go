package session_test

import (
	"context"
	"fmt"
	"path/filepath"
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
		Policy: pol, LoginsPerMinute: -1, FlapLimit: -1, AttachesPerSecond: -1,
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

// BenchmarkLogin_Evicting measures logins that each end another one.
func BenchmarkLogin_Evicting(b *testing.B) {
	b.Run("store=memory", func(b *testing.B) {
		reg := openForBench(b, memory())
		fillForBench(b, reg, "ann", 16)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := reg.Login(b.Context(), request("ann", event.DeviceID(fmt.Sprint("d", i%20)), "ios")); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, callers := range []int{1, 128} { // for each processor
		b.Run(fmt.Sprintf("store=file/callers=%d", callers), func(b *testing.B) {
			st, err := boltstore.Open(filepath.Join(b.TempDir(), "store"), boltstore.Config{})
			require.NoError(b, err)
			reg := openForBench(b, st)
			var accounts atomic.Int64
			b.SetParallelism(callers)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				a := event.Account(fmt.Sprint("ann", accounts.Add(1)))
				for pb.Next() { // each replaces the one before
					if _, err := reg.Login(context.Background(), request(a, "phone", "ios")); err != nil {
						b.Error(err)
						return
					}
				}
			})
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
				c, err := reg.Attach(b.Context(), q, nowhere{}, nil)
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
