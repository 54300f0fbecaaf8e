package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// mark reports how far a device has read the conversation c1, and has the device record the result as its app would.
func (d *device) mark(seq uint64) fanout.MarkReadResult {
	d.w.t.Helper()
	res, err := d.w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: d.account, Origin: d.Login(), Conversation: "c1", Seq: seq})
	require.NoError(d.w.t, err)
	d.Record(res.States...)
	return res
}

func TestS58_LateReport(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.feed("ann", 0, 110)
		w.fence("ann")
		require.True(w.t, a[0].mark(100).Advanced)
		late := a[1].mark(80)
		require.False(w.t, late.Advanced)
		require.Equal(w.t, uint64(100), late.Seq, "it is told where the marker is")
		require.Zero(w.t, late.Position.Seq)
		w.fence("ann")
		require.Equal(w.t, uint64(100), w.register("ann", "c1", event.StateRead))
		require.Equal(w.t, uint64(100), a[1].read("c1", event.StateRead))
		require.Len(w.t, w.kinds("ann", event.KindConversationRead), 1)
	})
}

func TestS59_I16_ConcurrentReports(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.login("ann", "a1")
		seen := map[event.ConversationID][]uint64{}
		w.feed("ann", 0, 100)
		d.online()
		for i := range 25 {
			conv := event.ConversationID(fmt.Sprint("c", i))
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for j, seq := range []uint64{90, 100} {
				wg.Go(func() {
					_, errs[j] = w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Conversation: conv, Seq: seq})
				})
			}
			wg.Wait()
			require.NoError(w.t, errors.Join(errs...))
			require.Equal(w.t, uint64(100), w.register("ann", conv, event.StateRead), "also in the store")
		}
		w.fence("ann")
		for _, e := range d.Messages(event.KindConversationRead) {
			var m event.ReadMark
			require.NoError(w.t, json.Unmarshal(e.Payload, &m))
			seen[e.Conversation] = append(seen[e.Conversation], m.Seq)
		}
		require.Len(w.t, seen, 25)
		for conv, marks := range seen {
			require.True(w.t, slices.IsSorted(marks), "I16: %s went back: %v", conv, marks)
			require.Equal(w.t, uint64(100), marks[len(marks)-1])
		}
	})
}

func TestS60_BeyondTheEnd(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.feed("ann", 0, 5)
		for _, seq := range []uint64{6, 1e9, 1 << 63} {
			_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: seq})
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok)
			require.Equal(w.t, "seq", invalid.Field)
		}
		require.Zero(w.t, w.register("ann", "c1", event.StateRead))
		require.Equal(w.t, uint64(5), w.head("ann").Seq, "nothing was written")
	})
}

func TestS61_StateComesBeforeTheBacklog(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		a[0].drop()
		w.feed("ann", 0, 20)
		w.fence("ann")
		a[1].mark(w.head("ann").Seq)
		before := len(a[0].Frames())
		a[0].online()
		frames := a[0].Frames()[before:]
		state := slices.IndexFunc(frames, func(f event.Frame) bool { _, ok := f.(*event.StatePage); return ok })
		data := slices.IndexFunc(frames, func(f event.Frame) bool { _, ok := f.(*event.Data); return ok })
		require.Positive(w.t, state)
		require.Less(w.t, state, data)
		require.Equal(w.t, a[1].read("c1", event.StateRead), frames[state].(*event.StatePage).States[0].Number)
	})
}

func TestS62_MarkAsUnread(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.feed("ann", 0, 5)
		a[0].mark(5)
		w.post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), Kind: event.KindConversationUnread, Conversation: "c1", Payload: []byte(`{"on":true}`)})
		w.fence("ann")
		require.Len(w.t, a[1].Messages(event.KindConversationUnread), 1)
		require.Equal(w.t, uint64(5), a[1].read("c1", event.StateRead), "the marker stays")
		require.Equal(w.t, uint64(5), w.register("ann", "c1", event.StateRead))
	})
}

func TestS63_BadgeSyncWithoutReceipts(t *testing.T) {
	for _, private := range []bool{false, true} {
		t.Run(fmt.Sprint("private ", private), func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				a := w.ready("ann", "a1", "a2")
				b := w.ready("bob", "b1")
				mode := fanout.ReceiptsOff
				name := event.StateRead
				if private {
					mode, name = fanout.ReceiptsAuto, event.StateReadPrivate
				}
				res := w.post(fanout.SendRequest{
					From: "bob", Origin: b[0].Login(), Conversation: "c1", To: []event.Account{"ann"}, Payload: []byte("x"), Receipts: mode,
				})
				w.fence("ann", "bob")
				_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Origin: a[0].Login(), Message: res.ID, Private: private})
				require.NoError(w.t, err)
				w.fence("ann", "bob")
				require.NotZero(w.t, a[1].read("c1", name), "the own devices learn it")
				require.Len(w.t, a[1].Messages(event.KindConversationRead), 1)
				require.Empty(w.t, a[0].Messages(event.KindConversationRead), "I13")
				require.Empty(w.t, w.kinds("bob", event.KindRead), "I18: the peer does not")
				require.Zero(w.t, w.register("bob", "c1", name))
			})
		})
	}
}

func TestReadReceipts(t *testing.T) {
	overStores(t, fanout.Config{PageEntries: 2}, func(w *world) {
		a := w.ready("ann", "a1")
		b := w.ready("bob", "b1")
		c := w.ready("cid", "c1")
		group := func(from *device, text string) fanout.SendResult {
			return w.post(fanout.SendRequest{
				From: from.account, Origin: from.Login(), Conversation: "c1", Payload: []byte(text), Receipts: fanout.ReceiptsOn,
				To: []event.Account{"ann", "bob", "cid"},
			})
		}
		group(b[0], "1")
		last := map[event.Account]event.MessageID{"bob": group(b[0], "2").ID, "cid": group(c[0], "3").ID}
		w.post(fanout.SendRequest{From: "cid", Conversation: "c2", To: []event.Account{"ann"}, Receipts: fanout.ReceiptsOn})
		place := w.head("ann").Seq
		group(b[0], "not read")
		w.fence("ann")
		a[0].mark(place)
		w.fence("bob", "cid")
		for _, d := range []*device{b[0], c[0]} {
			got := d.Messages(event.KindRead)
			require.Len(w.t, got, 1)
			var r event.Receipt
			require.NoError(w.t, json.Unmarshal(got[0].Payload, &r))
			require.Equal(w.t, event.Receipt{By: "ann", Message: last[d.account]}, r)
			require.Equal(w.t, event.ConversationID("c1"), got[0].Conversation)
		}
		a[0].mark(place)
		group(c[0], "4")
		a[0].mark(place + 1)
		a[0].mark(w.head("ann").Seq)
		w.fence("bob", "cid")
		require.Len(w.t, b[0].Messages(event.KindRead), 2, "told of what the marker passed now, and not again")
		require.Len(w.t, c[0].Messages(event.KindRead), 2)
	})
}

func TestI17_EqualDigests(t *testing.T) {
	overStores(t, fanout.Config{PageEntries: 1}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		a[2].drop()
		b := w.ready("bob", "b1")
		for i := range 12 {
			conv := event.ConversationID(fmt.Sprint("c", i%5))
			w.post(fanout.SendRequest{From: "bob", Origin: b[0].Login(), Conversation: conv, To: []event.Account{"ann"}, Payload: []byte("x")})
			w.fence("ann")
			d, q := a[i%2], fanout.MarkReadRequest{Account: "ann", Origin: a[i%2].Login(), Conversation: conv, Seq: w.head("ann").Seq, Private: i%3 == 0}
			res, err := w.r.MarkRead(context.Background(), q)
			require.NoError(w.t, err)
			d.Record(res.States...)
		}
		w.post(fanout.SendRequest{From: "bob", Origin: b[0].Login(), Conversation: "z", To: []event.Account{"ann"}})
		w.fence("ann")
		w.until("delivered watermarks, which are internal registers", func() bool {
			w.flush()
			return w.register("ann", "z", fanout.DeliveredRegister("bob", w.head("ann").Epoch)) > 0
		})
		a[2].online()
		fresh := w.login("ann", "a4")
		fresh.online()
		w.fence("ann")
		want := a[0].Digest()
		for _, d := range append(a, fresh) {
			require.Equal(w.t, want, d.Digest(), d.id)
			require.Len(w.t, d.Registers(), 9, d.id)
			for _, s := range d.Registers() {
				require.False(w.t, s.Internal(), "internal registers never leave the engine")
			}
		}
		pages := count[*event.StatePage](fresh)
		require.Greater(w.t, pages, 9, "page by page, also those with nothing to show")
		fresh.leave()
		fresh.online()
		require.Equal(w.t, pages, count[*event.StatePage](fresh), "what a device has is not sent again")
	})
}

func TestEarlyReadMarks(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		a := w.ready("ann", "a1", "a2")
		_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Message: "aaaaaaaaaaaaaaaaaaaaaaaaaa"})
		require.ErrorIs(w.t, err, fanout.ErrUnknownMessage, "not of this store")

		foreign := w.host("bob", "for cid", "cid").ID
		res, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Message: foreign})
		require.NoError(w.t, err)
		never := event.NewIssuer(w.st.Info().Secret).Issue()
		same, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Message: never})
		require.NoError(w.t, err)
		require.True(w.t, res.Pending)
		require.Equal(w.t, same, res, "I23: a message of others looks like one that is on its way")

		for _, early := range []bool{true, false} { // the mark comes before the commit, or between commit and doorbell
			before := w.register("ann", "c1", event.StateRead)
			st := &markingStore{Store: w.st, before: early}
			r2 := w.second(st, fanout.Config{})
			st.mark = func(id event.MessageID) {
				got, err := r2.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Origin: a[0].Login(), Message: id})
				require.NoError(w.t, err)
				require.Equal(w.t, early, got.Pending)
			}
			sent, err := r2.Send(ctx, fanout.SendRequest{From: "bob", Conversation: "c1", To: []event.Account{"ann"}, Payload: []byte("m")})
			require.NoError(w.t, err)
			info, err := w.st.Message(ctx, sent.ID)
			require.NoError(w.t, err)
			at := info.To[slices.IndexFunc(info.To, func(p store.Place) bool { return p.Account == "ann" })].Seq
			require.Greater(w.t, at, before)
			w.until("the marker moves", func() bool { return w.register("ann", "c1", event.StateRead) == at })
		}
	})
}

// second returns another router over a store, besides the world's own, with a registry of its own, as another node has them.
func (w *world) second(st store.Store, cfg fanout.Config) *fanout.Router {
	w.t.Helper()
	reg, err := session.New(unclaimed{st}, w.scfg)
	require.NoError(w.t, err)
	r, err := fanout.New(reg, st, cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		require.NoError(w.t, reg.Close(context.Background()))
		require.NoError(w.t, r.Close(context.Background()))
	})
	return r
}

// markingStore has a message marked as read right before or after it is committed.
type markingStore struct {
	store.Store
	before bool
	mark   func(event.MessageID)
}

func (s *markingStore) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	send := len(b.Messages) == 1 && b.Messages[0].Kind == event.KindMessage
	if send && s.before {
		s.mark(b.Messages[0].ID)
	}
	res, err := s.Store.Commit(ctx, b)
	if send && !s.before && err == nil {
		s.mark(b.Messages[0].ID)
	}
	return res, err
}

// lateStore commits a message while somebody asks whether it is there.
type lateStore struct {
	store.Store
	arrive func()
}

func (s *lateStore) Message(ctx context.Context, id event.MessageID) (store.MessageInfo, error) {
	info, err := s.Store.Message(ctx, id)
	if arrive := s.arrive; arrive != nil {
		s.arrive = nil
		arrive()
	}
	return info, err
}

func TestEarlyReadMarkWhileTheMessageArrives(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		gate := make(chan struct{})
		begun := make(chan event.MessageID)
		st := &markingStore{Store: w.st, before: true}
		late := &lateStore{Store: st}
		r2 := w.second(late, fanout.Config{})
		st.mark = func(m event.MessageID) { begun <- m; <-gate }
		sent := make(chan error, 1)
		go func() {
			_, err := r2.Send(ctx, fanout.SendRequest{From: "bob", Conversation: "c1", To: []event.Account{"ann"}})
			sent <- err
		}()
		id := <-begun
		late.arrive = func() {
			close(gate)
			require.NoError(w.t, <-sent)
		}
		_, err := r2.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Message: id})
		require.NoError(w.t, err)
		w.until("the marker moves", func() bool { return w.register("ann", "c1", event.StateRead) == 1 })
	})
}

func TestEarlyReadMarksAreBounded(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		st := &markingStore{Store: w.st, before: true}
		r2 := w.second(st, fanout.Config{})
		issuer := event.NewIssuer(w.st.Info().Secret)
		fill := func(account event.Account, n int) {
			for range n {
				_, err := r2.MarkRead(ctx, fanout.MarkReadRequest{Account: account, Message: issuer.Issue()})
				require.NoError(w.t, err)
			}
		}
		for _, c := range []struct {
			account event.Account
			after   func()
			moves   bool
		}{
			{"15 more", func() { fill("15 more", 15) }, true},
			{"16 more", func() { fill("16 more", 16) }, false},
			{"59 minutes later", func() { time.Sleep(59 * time.Minute) }, true},
			{"an hour later", func() { time.Sleep(time.Hour) }, false},
		} {
			st.mark = func(id event.MessageID) {
				_, err := r2.MarkRead(ctx, fanout.MarkReadRequest{Account: c.account, Message: id})
				require.NoError(w.t, err)
				c.after()
			}
			_, err := r2.Send(ctx, fanout.SendRequest{From: "bob", Conversation: "c1", To: []event.Account{c.account}})
			require.NoError(w.t, err)
			time.Sleep(time.Second)
			require.Equal(w.t, c.moves, w.register(c.account, "c1", event.StateRead) > 0, c.account)
		}
	})
}

func TestDeviceNamesNoConversation(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.loginWith("ann", "a1", transporttest.DeviceConfig{})
		d.online()
		id := w.host("bob", "x", "ann").ID
		w.fence("ann")
		_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Message: id, Conversation: "other"})
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok)
		require.Equal(w.t, "conversation", invalid.Field)
		res, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Message: id})
		require.NoError(w.t, err)
		require.True(w.t, res.Advanced)
		w.fence("ann")
		require.Equal(w.t, res.Seq, d.read("c1", event.StateRead), "the conversation is the message's")
	})
}
