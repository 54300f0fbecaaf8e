package fanout_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// quick is a sink whose Send never waits, and which says so.
type quick struct{ sink }

func (*quick) NonBlocking() bool { return true }

// BenchmarkCrowd sends 512 bytes to one of many accounts after the other. The four devices of each take every entry and
// acknowledge it on the goroutine that sends.
func BenchmarkCrowd(b *testing.B) {
	for _, waits := range []bool{false, true} {
		for _, senders := range []int{1, 2} {
			b.Run(fmt.Sprintf("blocking=%v/senders=%d", waits, senders), func(b *testing.B) { crowd(b, waits, senders) })
		}
	}
}

func crowd(b *testing.B, waits bool, senders int) {
	const accounts, devices = 500, 4
	ctx := context.Background()
	p, err := policy.New(policy.Rules{})
	require.NoError(b, err)
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{Policy: p, LoginsPerMinute: -1, AttachesPerSecond: -1, AttachesPerAccount: -1})
	require.NoError(b, err)
	r, err := fanout.New(reg, st, fanout.Config{})
	require.NoError(b, err)
	defer func() {
		require.NoError(b, reg.Close(ctx))
		require.NoError(b, r.Close(ctx))
	}()
	names, all := make([]event.Account, accounts), make([]*sink, 0, accounts*devices)
	for i := range names {
		names[i] = event.Account(fmt.Sprint("account-", i))
		for j := range devices {
			l, err := reg.Login(ctx, session.LoginRequest{Account: names[i], Device: event.DeviceID(fmt.Sprint("d", j)), Platform: "ios"})
			require.NoError(b, err)
			q := &quick{sink{caughtUp: make(chan struct{})}}
			all = append(all, &q.sink)
			att := fanout.AttachRequest{Account: names[i], Login: l.Session.Login, Token: l.Token}
			var a *fanout.Attachment
			if waits {
				a, err = r.Attach(ctx, att, &q.sink)
			} else {
				a, err = r.Attach(ctx, att, q)
			}
			require.NoError(b, err)
			<-q.caughtUp
			q.att.Store(a)
		}
	}
	sum := func() (n int64) {
		for _, s := range all {
			n += s.delivered.Load()
		}
		return n
	}
	before := int64(-1)
	for n := sum(); n != before; n = sum() { // the logins themselves are entries
		before = n
		time.Sleep(200 * time.Millisecond)
	}
	payload := make([]byte, 512)
	send := func(n int) {
		_, err := r.Send(ctx, fanout.SendRequest{
			From: "sender", To: names[n%accounts : n%accounts+1], Conversation: "c", NoSenderCopy: true, Receipts: fanout.ReceiptsOff, Payload: payload,
		})
		if err != nil {
			b.Error(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for n := s; n < b.N; n += senders {
				send(n)
			}
		})
	}
	wg.Wait()
	want := before + int64(b.N)*devices
	for sum() < want {
	}
	b.StopTimer()
	require.Equal(b, want, sum(), "each entry once at each device")
	b.ReportMetric(float64(b.N*devices)/b.Elapsed().Seconds(), "deliveries/s")
}
