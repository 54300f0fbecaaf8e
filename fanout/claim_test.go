package fanout_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

func (d *device) claimKey(key, data string) fanout.ClaimResult {
	d.w.t.Helper()
	res, err := d.w.r.Claim(context.Background(), fanout.ClaimRequest{
		Account: d.account, Origin: d.Login(), Key: key, Conversation: "c1", Data: []byte(data),
	})
	require.NoError(d.w.t, err)
	return res
}

func TestC21_FirstDeviceWins(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		away := w.login("ann", "a4")
		won := a[1].claimKey("call-7", "answered")
		require.True(w.t, won.Won)
		require.Equal(w.t, event.Claim{
			Key: "call-7", Login: a[1].Login(), Device: "a2", Platform: "ios", Data: []byte("answered"),
		}, won.Winner)

		late := a[0].claimKey("call-7", "me too")
		require.False(w.t, late.Won)
		require.Equal(w.t, won.Winner, late.Winner, "a late claimer learns who has it")
		require.Equal(w.t, won.Position, late.Position)
		require.True(w.t, a[1].claimKey("call-7", "answered again").Won, "a repetition by the winner")
		require.True(w.t, a[0].claimKey("call-8", "").Won, "another key is another matter")

		w.fence("ann")
		require.Empty(w.t, a[1].claims("call-7"), "the winner has its result")
		away.online()
		for _, d := range []*device{a[0], a[2], away} {
			require.Equal(w.t, []event.Claim{won.Winner}, d.claims("call-7"), d.id)
		}
	})
}

// claims returns what the device was told of a key.
func (d *device) claims(key string) []event.Claim {
	d.w.t.Helper()
	var all []event.Claim
	for _, e := range d.of(event.KindClaim) {
		var c event.Claim
		require.NoError(d.w.t, json.Unmarshal(e.Payload, &c))
		require.Equal(d.w.t, d.account, e.From)
		if c.Key == key {
			all = append(all, c)
		}
	}
	return all
}

func TestC21_OneWinnerAmongMany(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ids := []event.DeviceID{"a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"}
		a := w.ready("ann", ids...)
		b := w.ready("bob", "b1")
		for round := range 20 {
			key := strings.Repeat("k", round+1)
			results := make([]fanout.ClaimResult, len(a))
			var wg sync.WaitGroup
			for i, d := range a {
				wg.Go(func() { results[i] = d.claimKey(key, string(d.id)) })
			}
			wg.Wait()
			winners := 0
			for i, res := range results {
				require.Equal(w.t, results[0].Winner, res.Winner, "all are told the same")
				require.Equal(w.t, res.Winner.Device == a[i].id, res.Won)
				if res.Won {
					winners++
				}
			}
			require.Equal(w.t, 1, winners)
			require.True(w.t, b[0].claimKey(key, "").Won, "I23: another account's keys are its own")
		}
	})
}

func TestC21_ClaimOutlivesARestart(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		won := a[0].claimKey("call", "")
		w.crash()
		require.Equal(w.t, won.Winner, a[1].claimKey("call", "").Winner)
		require.True(w.t, a[0].claimKey("call", "").Won)
	})
}

func TestC21_AnswerLost(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		q := fanout.ClaimRequest{Account: "ann", Origin: a[0].Login(), Key: "call"}
		w.st.Inject(storetest.LostAnswer())
		_, err := w.r.Claim(context.Background(), q)
		require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
		require.False(w.t, a[1].claimKey("call", "").Won, "it had taken effect")
		res, err := w.r.Claim(context.Background(), q)
		require.NoError(w.t, err)
		require.True(w.t, res.Won, "who asks again is told so")
	})
}

func TestC21_AClaimEnds(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		require.True(w.t, a[0].claimKey("call", "").Won)
		time.Sleep(23 * time.Hour)
		require.False(w.t, a[1].claimKey("call", "").Won)
		time.Sleep(2 * time.Hour)
		require.True(w.t, a[1].claimKey("call", "").Won, "after 24 h the key is free")
	})
}

func TestC21_WinnerTrimmed(t *testing.T) {
	overStores(t, fanout.Config{MaxBytes: 128 << 10, TrimInterval: -1}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		require.True(w.t, a[0].claimKey("call", "").Won)
		for range 3 {
			w.host("bob", strings.Repeat("x", 60_000), "ann")
		}
		w.fence("ann")
		require.NoError(w.t, w.r.Trim(context.Background(), "ann"))
		res := a[1].claimKey("call", "")
		require.False(w.t, res.Won, "there is no second winner")
		require.Zero(w.t, res.Winner)
	})
}

func TestC21_BadClaims(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		before := w.head("ann")
		good := fanout.ClaimRequest{Account: "ann", Origin: a[0].Login(), Key: "call"}
		for field, change := range map[string]func(*fanout.ClaimRequest){
			"account":      func(q *fanout.ClaimRequest) { q.Account = "" },
			"origin":       func(q *fanout.ClaimRequest) { q.Origin = "" },
			"key":          func(q *fanout.ClaimRequest) { q.Key = strings.Repeat("k", 129) },
			"conversation": func(q *fanout.ClaimRequest) { q.Conversation = "a\x00b" },
			"data":         func(q *fanout.ClaimRequest) { q.Data = make([]byte, fanout.MaxClaimBytes+1) },
		} {
			q := good
			change(&q)
			_, err := w.r.Claim(context.Background(), q)
			w.invalid(err, field)
		}
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{a[1].Login()}})
		require.NoError(w.t, err)
		before.Seq++ // the end of the login
		_, err = w.r.Claim(context.Background(), fanout.ClaimRequest{Account: "ann", Origin: a[1].Login(), Key: "call"})
		require.ErrorIs(w.t, err, fanout.ErrUnknownOrigin)
		require.Equal(w.t, before.Seq, w.head("ann").Seq)
	})
}
