package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

func TestI11_ConcurrentRepetitions(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		b := w.ready("bob", "b1")
		for i := range 10 {
			q := fanout.SendRequest{
				From: "ann", Origin: a[0].Login(), ClientID: clientID(), Conversation: "c1", To: []event.Account{"bob"}, Payload: fmt.Append(nil, i),
			}
			results, errs := make([]fanout.SendResult, 8), make([]error, 8)
			var wg sync.WaitGroup
			for j := range results {
				wg.Go(func() { results[j], errs[j] = w.r.Send(context.Background(), q) })
			}
			wg.Wait()
			require.NoError(w.t, errors.Join(errs...))
			first := 0
			for _, res := range results {
				require.Equal(w.t, results[0].ID, res.ID)
				require.Equal(w.t, results[0].Position, res.Position)
				if !res.Duplicate {
					first++
				}
			}
			require.Equal(w.t, 1, first)
		}
		w.fence("ann", "bob")
		require.Equal(w.t, numbers(0, 10), b[0].wire())
		require.Equal(w.t, numbers(0, 10), a[1].wire())
		require.Equal(w.t, uint64(70), w.r.Stats().Duplicates)
	})
}

func TestI11_WhatIsTheSameSend(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		base := fanout.SendRequest{
			From: "ann", Origin: a[0].Login(), ClientID: "m1", Conversation: "c1", To: []event.Account{"bob", "cid"}, Payload: []byte("x"),
		}
		first := w.post(base)
		heads := []store.Head{w.head("ann"), w.head("bob")}
		for name, change := range map[string]func(q *fanout.SendRequest){
			"payload":      func(q *fanout.SendRequest) { q.Payload = []byte("y") },
			"kind":         func(q *fanout.SendRequest) { q.Kind = event.KindGroupJoin },
			"conversation": func(q *fanout.SendRequest) { q.Conversation = "c2" },
			"subject":      func(q *fanout.SendRequest) { q.Subject = "s" },
			"recipients":   func(q *fanout.SendRequest) { q.To = []event.Account{"bob"} },
			"targets":      func(q *fanout.SendRequest) { q.To, q.Targets = nil, []event.LoginID{a[1].Login()} },
			"receipts":     func(q *fanout.SendRequest) { q.Receipts = fanout.ReceiptsOn },
			"no push":      func(q *fanout.SendRequest) { q.NoPush = true },
			"priority":     func(q *fanout.SendRequest) { q.Priority = fanout.PriorityLow },
			"narrow": func(q *fanout.SendRequest) {
				q.Narrow = []fanout.Narrow{{Account: "ann", Logins: []event.LoginID{a[1].Login()}}}
			},
			"carbon": func(q *fanout.SendRequest) { q.NoSenderCopy = true },
		} {
			q := base
			change(&q)
			_, err := w.r.Send(context.Background(), q)
			require.ErrorIs(w.t, err, store.ErrMismatch, name)
		}
		require.Equal(w.t, heads, []store.Head{w.head("ann"), w.head("bob")}, "no append")
		same := base
		same.To = []event.Account{"cid", "bob", "cid", "ann"}
		same.To = same.To[:3]
		require.Equal(w.t, first.ID, w.post(same).ID, "the order of recipients does not matter")
		other := base
		other.Origin = a[1].Login()
		require.NotEqual(w.t, first.ID, w.post(other).ID, "another device has its own names")
		none := base
		none.NoSenderCopy, none.ClientID = true, "m2"
		require.Zero(w.t, w.post(none).Position.Seq)
		require.Zero(w.t, w.post(none).Position.Seq)
	})
}

func TestI11_Window(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		q := fanout.SendRequest{From: "ann", ClientID: "m1", To: []event.Account{"bob"}}
		first := w.post(q)
		time.Sleep(23 * time.Hour)
		require.Equal(w.t, first.ID, w.post(q).ID)
		time.Sleep(2 * time.Hour)
		again := w.post(q)
		require.False(w.t, again.Duplicate, "after 24 h it is a new send")
		require.NotEqual(w.t, first.ID, again.ID)
	})
}

func TestI11_WindowIsBounded(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		q := fanout.SendRequest{From: "ann", To: []event.Account{"bob"}}
		var err error
		n := 0
		for ; n < 20_000 && err == nil; n++ {
			q.ClientID = event.ClientMessageID(fmt.Sprint(n))
			_, err = w.r.Send(context.Background(), q)
		}
		require.ErrorIs(w.t, err, store.ErrWindowFull)
		require.Equal(w.t, 16_385, n)
		q.ClientID = ""
		w.post(q)
	})
}

func TestI11_UnknownOutcome(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		b := w.ready("bob", "b1")
		for i, fault := range []storetest.Fault{
			storetest.LostAnswer(),
			{Method: storetest.Commit, Err: store.ErrUnknownOutcome},
		} {
			w.st.Inject(fault)
			q := fanout.SendRequest{
				From: "ann", Origin: a[0].Login(), ClientID: clientID(), Conversation: "c1", To: []event.Account{"bob"}, Payload: fmt.Append(nil, i),
			}
			_, err := w.r.Send(context.Background(), q)
			require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
			res := w.post(q)
			require.Equal(w.t, i == 0, res.Duplicate)
		}
		w.fence("ann", "bob")
		require.Equal(w.t, numbers(0, 2), b[0].wire(), "one effect each, also of the one whose doorbell did not ring")
		require.Equal(w.t, numbers(0, 2), a[1].wire())
	})
}

// TestI12_UniformOrder has six logins of three accounts send to one conversation at once.
func TestI12_UniformOrder(t *testing.T) {
	overStores(t, fanout.Config{Window: 8}, func(w *world) {
		accounts := []event.Account{"ann", "bob", "cid"}
		var senders []*device
		for _, a := range accounts {
			senders = append(senders, w.ready(a, "d1", "d2")...)
		}
		const each = 40
		var wg sync.WaitGroup
		errs := make([]error, len(senders))
		for i, d := range senders {
			q := fanout.SendRequest{From: d.account, Origin: d.Login(), Conversation: "c1", To: accounts}
			wg.Go(func() {
				for n := 0; n < each && errs[i] == nil; n++ {
					q.Payload = fmt.Appendf(nil, "%d/%d", i, n)
					_, errs[i] = w.r.Send(context.Background(), q)
				}
			})
		}
		wg.Wait()
		require.NoError(w.t, errors.Join(errs...))
		w.fence(accounts...)
		order := func(a event.Account) []string {
			var all []string
			for _, e := range w.kinds(a, event.KindMessage) {
				if e.Conversation == "c1" {
					all = append(all, string(e.Payload))
				}
			}
			return all
		}
		want := order("ann")
		require.Len(w.t, want, each*len(senders))
		for _, a := range accounts[1:] {
			require.Equal(w.t, want, order(a), "two inboxes order common messages alike")
		}
		for i, d := range senders {
			mine := func(text string) bool { return strings.HasPrefix(text, fmt.Sprint(i, "/")) }
			require.Equal(w.t, slices.DeleteFunc(slices.Clone(want), mine), d.wire(), "I6, I13: the log without the own sends")
			var own []string
			for _, text := range want {
				if mine(text) {
					own = append(own, text)
				}
			}
			for n, text := range own {
				require.Equal(w.t, fmt.Sprintf("%d/%d", i, n), text, "in accept order")
			}
		}
	})
}

// TestTailCache checks that a reader that is served from the tail and one that is served from the store see the same.
func TestTailCache(t *testing.T) {
	for _, size := range []int64{-1, 1_000, 0} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			overStores(t, fanout.Config{TailCache: size, Window: 16}, func(w *world) {
				d := w.ready("ann", "a1", "a2")
				var wg sync.WaitGroup
				errs := make([]error, 4)
				for i := range errs {
					wg.Go(func() {
						for n := 0; n < 100 && errs[i] == nil; n++ {
							_, errs[i] = w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: fmt.Appendf(nil, "%d/%d", i, n)})
						}
					})
				}
				wg.Wait()
				require.NoError(w.t, errors.Join(errs...))
				w.fence("ann")
				var want []string
				for _, e := range w.kinds("ann", event.KindMessage) {
					if e.Conversation != "fence" {
						want = append(want, string(e.Payload))
					}
				}
				require.Len(w.t, want, 400)
				for _, d := range d {
					require.Equal(w.t, want, d.wire())
				}
				w.until("the tail is empty at rest", func() bool { return w.r.TailBytes() == 0 })
			})
		})
	}
}

func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", fanout.Config{})
		d := w.ready("ann", "a1")[0]
		d.drop()
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("short"), TTL: time.Minute})
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("long"), TTL: time.Hour})
		time.Sleep(time.Minute)
		d.online()
		require.Equal(w.t, []string{"long"}, d.wire())
		require.Equal(w.t, w.head("ann").Seq, d.Position().Seq, "it is covered")
	})
}
