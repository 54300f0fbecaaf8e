package fanout_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestS73_AnHourWithoutTrim: the store refuses to trim for an hour. That is loud, and costs no more than the hour.
func TestS73_AnHourWithoutTrim(t *testing.T) {
	var log syncBuffer
	inMemory(t, fanout.Config{MaxEntries: 5, Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(w *world) {
		events := w.watch()
		for _, a := range []event.Account{"ann", "cid", "dan"} {
			w.feed(a, 0, 20)
		}
		remove := w.st.Inject(storetest.Fault{Method: storetest.Trim, Times: -1, Err: errAway})
		time.Sleep(time.Hour + time.Second)
		failed := events.of(fanout.EventTrimFailed)
		require.NotEmpty(w.t, failed)
		about := make(map[event.Account]int)
		for _, e := range failed {
			require.ErrorIs(w.t, e.Err, errAway)
			about[e.Account]++
		}
		for _, a := range []event.Account{"ann", "cid", "dan", "bob"} { // bob has sent it all
			require.Equal(w.t, 60, about[a], "tried every minute: %s", a)
			require.Len(w.t, w.log(a), map[bool]int{false: 20, true: 60}[a == "bob"])
		}
		require.Equal(w.t, uint64(240), w.r.Stats().TrimFailures)
		require.Equal(w.t, 60, strings.Count(log.String(), "could not be trimmed"), "one line a round, however many fail")
		require.Equal(w.t, 4, w.r.Grown(), "they keep their place")
		remove()
		time.Sleep(time.Minute)
		for _, a := range []event.Account{"ann", "cid", "dan"} {
			require.Equal(w.t, numbers(15, 20), w.kept(a), "the next round does it")
		}
		require.Zero(w.t, w.r.Grown())
	})
}

// TestS73_OneBadAccount: an account that cannot be trimmed is tried again and again, and holds up nobody.
func TestS73_OneBadAccount(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 5, MaxAge: 48 * time.Hour}, func(w *world) {
		w.feed("ann", 0, 20)
		w.feed("cid", 0, 20)
		w.st.Inject(storetest.Fault{Method: storetest.Trim, Account: "ann", Times: -1, Err: errAway})
		time.Sleep(time.Minute + time.Second)
		require.Len(w.t, w.kept("ann"), 20)
		require.Equal(w.t, numbers(15, 20), w.kept("cid"))
		time.Sleep(50 * time.Hour)
		require.Empty(w.t, w.kept("cid"), "full rounds go on beyond it")
		require.Equal(w.t, uint64(50*60+1), w.r.Stats().TrimFailures, "and it is tried every minute, full round or not")
	})
}

// TestS73_FullRoundGoesOn: a round over all accounts that meets an error goes on where it was, a minute later.
func TestS73_FullRoundGoesOn(t *testing.T) {
	inMemory(t, fanout.Config{MaxAge: time.Hour}, func(w *world) {
		const accounts = 600 // three pages
		for i := range accounts {
			w.post(fanout.SendRequest{From: "bob", To: []event.Account{event.Account(fmt.Sprintf("a%03d", i))}, NoSenderCopy: true, Payload: []byte("x")})
		}
		left := func() (n int) {
			for i := range accounts {
				n += len(w.log(event.Account(fmt.Sprintf("a%03d", i))))
			}
			return n
		}
		time.Sleep(90*time.Minute + time.Second)
		require.Equal(w.t, accounts, left(), "they have not grown: only a full round looks at them")
		lists := w.st.Calls(storetest.Accounts)
		remove := w.st.Inject(storetest.Fault{Method: storetest.Accounts, Account: "a511", Times: 10, Err: errAway})
		time.Sleep(15 * time.Minute)
		require.Equal(w.t, accounts-512, left(), "two pages are done")
		require.Equal(w.t, uint64(6), w.r.Stats().TrimFailures)
		require.Equal(w.t, lists+2+6, w.st.Calls(storetest.Accounts), "it did not begin anew")
		remove()
		time.Sleep(time.Minute)
		require.Zero(w.t, left())
		lists = w.st.Calls(storetest.Accounts)
		time.Sleep(90 * time.Minute)
		require.Equal(w.t, lists, w.st.Calls(storetest.Accounts), "and then it is over")
	})
}

// TestS73_StoreAway: when nothing can be trimmed, a round gives up soon, and nobody is forgotten.
func TestS73_StoreAway(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 1, MaxAge: time.Hour}, func(w *world) {
		const accounts = 400
		for range 2 {
			for i := range accounts {
				w.post(fanout.SendRequest{From: "bob", To: []event.Account{event.Account(fmt.Sprintf("a%03d", i))}, NoSenderCopy: true, Payload: []byte("x")})
			}
		}
		left := func() (n int) {
			for i := range accounts {
				n += len(w.log(event.Account(fmt.Sprintf("a%03d", i))))
			}
			return n
		}
		remove := w.st.Inject(storetest.Fault{Method: storetest.Trim, Times: -1, Err: errAway})
		time.Sleep(time.Minute + time.Second)
		require.Equal(w.t, uint64(16), w.r.Stats().TrimFailures)
		require.Equal(w.t, accounts, w.r.Grown())
		remove()
		time.Sleep(time.Minute)
		require.Equal(w.t, accounts, left())

		time.Sleep(96 * time.Minute)
		remove = w.st.Inject(storetest.Fault{Method: storetest.Trim, Times: -1, Err: errAway})
		time.Sleep(2 * time.Minute) // the hundredth round, and none of these accounts has grown
		require.Equal(w.t, uint64(32), w.r.Stats().TrimFailures)
		remove()
		time.Sleep(time.Minute)
		require.Zero(w.t, left(), "the same full round goes on")
	})
}
