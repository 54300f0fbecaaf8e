package session_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// BenchmarkMemory_Attached measures what the registry keeps for a login that is attached and idle, four to an account,
// without the host's connection and without the records that it keeps in memory to save reads.
func BenchmarkMemory_Attached(b *testing.B) {
	const accounts, each = 12_500, 4
	for b.Loop() {
		st := memory()
		pol, err := policy.New(policy.Rules{PerPlatform: 16})
		require.NoError(b, err)
		open := func() *session.Registry {
			reg, err := session.New(st, session.Config{
				Policy: pol, LoginsPerMinute: -1, FlapLimit: -1, AttachesPerSecond: -1, AttachesPerAccount: -1, IdleTimeout: -1,
			})
			require.NoError(b, err)
			return reg
		}
		first := open()
		requests := make([]session.AttachRequest, 0, accounts*each)
		for i := range accounts {
			for j := range each {
				a := event.Account(fmt.Sprint("account-", i))
				res, err := first.Login(b.Context(), request(a, event.DeviceID(fmt.Sprint("device-", i, "-", j)), "ios"))
				require.NoError(b, err)
				requests = append(requests, session.AttachRequest{Account: a, Login: res.Session.Login, Token: res.Token})
			}
		}
		require.NoError(b, first.Close(context.Background()))
		first = nil
		before := heap()
		reg := open() // it knows no record
		conns := make([]*session.Connection, 0, len(requests))
		for _, q := range requests {
			c, err := reg.Attach(b.Context(), q, nowhere{})
			require.NoError(b, err)
			conns = append(conns, c)
		}
		b.ReportMetric(float64(heap()-before)/float64(len(conns)), "B/login")
		runtime.KeepAlive(requests)
		require.NoError(b, reg.Close(context.Background()))
		require.NoError(b, st.Close(context.Background()))
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
