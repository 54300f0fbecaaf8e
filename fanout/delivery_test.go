package fanout_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

func TestS35_EveryDeviceOnce(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		b := w.ready("bob", "b1", "b2")
		b3 := w.login("bob", "b3")
		res := w.send(a[0], "hello", "bob")
		require.False(w.t, res.Duplicate)
		require.NotZero(w.t, res.Position.Seq)
		w.fence("ann", "bob")
		require.Empty(w.t, a[0].wire(), "I13: the origin gets only its result")
		for _, d := range []*device{a[1], a[2], b[0], b[1]} {
			require.Equal(w.t, []string{"hello"}, d.wire(), d.id)
			e := d.Messages(event.KindMessage)[0]
			require.Equal(w.t, res.ID, e.ID)
			require.Equal(w.t, event.Account("ann"), e.From, "of a carbon this is the own account")
			own := d.account == "ann"
			require.Equal(w.t, own, e.Origin == a[0].Login(), "only the own account learns the origin")
			require.Equal(w.t, !own, e.Flags&event.FlagUnread != 0, "the carbon does not count as unread")
		}
		b3.online()
		require.Equal(w.t, []string{"hello"}, b3.wire(), "the device that was away gets it later")
	})
}

func TestS36_MessageToSelf(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		w.send(a[0], "note", "ann")
		w.fence("ann")
		require.Empty(w.t, a[0].wire())
		for _, d := range a[1:] {
			require.Equal(w.t, []string{"note"}, d.wire())
			require.Zero(w.t, d.Messages(event.KindMessage)[0].Ordinal, "not counted unread")
		}
		require.Len(w.t, w.kinds("ann", event.KindMessage), 2, "one copy, and the fence")
	})
}

func TestS37_I14_TargetSurvivesRelogin(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		old := a[1].Login()
		a[1].drop()
		w.send(a[0], "before", "ann")
		w.post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), Targets: []event.LoginID{old}, Payload: []byte("for a2")})
		w.send(a[0], "after", "ann")
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{old}})
		require.NoError(w.t, err)
		a[1].relogin()
		require.NotEqual(w.t, old, a[1].Login())
		a[1].online()
		w.fence("ann")
		require.Equal(w.t, []string{"before", "for a2", "after"}, a[1].wire(), "in order among the others")
		require.Equal(w.t, []string{"before", "after"}, a[2].wire())
		require.Empty(w.t, a[0].wire())

		for name, claim := range map[string]uint64{"from the start": 0, "from the middle": 2} {
			replay := a[2].replay(claim)
			require.NotContains(w.t, replay, "for a2", "not in another device's replay: "+name)
			require.Contains(w.t, replay, "after")
		}
		_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Targets: []event.LoginID{old}})
		require.ErrorIs(w.t, err, fanout.ErrUnknownTarget, "an ended login cannot be addressed")
	})
}

// replay attaches the device anew at an earlier place and returns the messages that come.
func (d *device) replay(seq uint64) []string {
	d.w.t.Helper()
	p := d.Position()
	p.Seq = seq
	p0 := len(d.Frames())
	saved := d.Save()
	saved.State.Position = &p
	d.drop()
	d.Restore(saved)
	d.online()
	var all []*event.Sealed
	for _, f := range d.Frames()[p0:] {
		if data, ok := f.(*event.Data); ok {
			all = append(all, data.Entries...)
		}
	}
	return texts(slices.DeleteFunc(all, func(e *event.Sealed) bool { return e.Kind != event.KindMessage }))
}

func TestS38_I13_OriginIsALoginNotASocket(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.send(a[0], "first", "bob")
		a[0].drop()
		w.send(a[0], "second", "bob")
		a[0].online()
		w.send(a[0], "third", "bob")
		a[0].start() // while the old socket is still there
		a[0].caughtUp()
		w.fence("ann")
		require.Empty(w.t, a[0].wire(), "no echo on any socket")
		require.Equal(w.t, []string{"first", "second", "third"}, a[1].wire())
		require.Equal(w.t, w.head("ann").Seq, a[0].Position().Seq, "the position passes the own sends")
	})
}

func TestD7_S39_SenderIsMember(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		b := w.ready("bob", "b1")
		c := w.ready("cid", "c1")
		w.send(a[0], "all", "ann", "bob", "cid", "bob", "ann")
		w.fence("ann", "bob", "cid")
		require.Empty(w.t, a[0].wire())
		for _, d := range []*device{a[1], b[0], c[0]} {
			require.Equal(w.t, []string{"all"}, d.wire())
		}
	})
}

func TestS40_EvictedWhileSending(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		gone := a[1].Login()
		w.send(a[0], "seen", "bob")
		w.fence("ann")
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{gone}})
		require.NoError(w.t, err)
		require.Equal(w.t, event.KickedHost, a[1].closed().Reason)
		w.send(a[0], "missed", "bob")
		w.fence("ann")
		require.Zero(w.t, a[1].pair.LateSends(), "I21: no Send after the kick was answered")
		require.Equal(w.t, []string{"seen"}, a[1].wire())
		require.Equal(w.t, []string{"seen", "missed"}, a[2].wire())
		require.Len(w.t, w.kinds("ann", event.KindMessage), 4, "the entry stays in the log, once")
		var ended *session.EndedError
		require.ErrorAs(w.t, a[1].tryConnect(), &ended)
	})
}

func TestS40_EvictedWhileSendRuns(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		a[1].pair.Block()
		w.send(a[0], "in flight", "bob")
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{a[1].Login()}})
		require.NoError(w.t, err)
		w.send(a[0], "later", "bob")
		require.Equal(w.t, event.KickedHost, a[1].closed().Reason)
		frames := a[1].Frames()
		require.IsType(w.t, &event.Closed{}, frames[len(frames)-1], "nothing after the kick frame")
		require.Zero(w.t, a[1].pair.LateSends())
	})
}

// TestS41_MirroredOperations sends every kind of the catalogue.
func TestS41_MirroredOperations(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		kinds, err := event.NewRegistry()
		require.NoError(w.t, err)
		sent := 0
		for _, k := range kinds.Kinds() {
			info := kinds.Info(k)
			q := fanout.SendRequest{From: "ann", Origin: a[0].Login(), Kind: k, Conversation: event.ConversationID("of " + k), Payload: []byte(`{}`)}
			if info.Change != event.ChangeNone {
				q.Of = w.send(a[0], "changed").ID
				q.Conversation = ""
			}
			res, err := w.r.Send(context.Background(), q)
			own := info.Family == event.FamilyReceipt || info.Family == event.FamilyDevice || slices.Contains([]event.Kind{
				event.KindConversationRead, event.KindConversationClearUnread, event.KindConversationClearAllUnread, event.KindClaim,
			}, k)
			if !info.Durable || own {
				var invalid *event.InvalidError
				require.ErrorAs(w.t, err, &invalid, k)
				require.Equal(w.t, "kind", invalid.Field)
				continue
			}
			require.NoError(w.t, err, k)
			sent++
			w.fence("ann")
			require.Empty(w.t, a[0].of(k), "%s: the origin is left out", k)
			for _, d := range a[1:] {
				got := d.of(k)
				require.Len(w.t, got, 1, "%s at %s", k, d.id)
				require.Equal(w.t, res.ID, got[0].ID, "the operation ID is the same everywhere")
				require.Equal(w.t, event.Account("ann"), got[0].From)
			}
		}
		require.Greater(w.t, sent, 50)
	})
}

func TestS42_FirstLoginWhileEntriesCome(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.ready("ann", "a1")
		half, stop, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: fmt.Append(nil, i)})
				if i == 30 {
					close(half)
				}
				select {
				case <-stop:
					failed <- err
					return
				default:
				}
				if err != nil {
					failed <- err
					return
				}
			}
		}()
		<-half
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a2", Platform: "ios"})
		require.NoError(w.t, err)
		a2 := w.login("ann", "a2") // the same device again: its place does not change
		a2.start()
		close(stop)
		w.feed("ann", 1000, 1010)
		require.NoError(w.t, <-failed)
		w.fence("ann")
		var want []string
		for _, e := range w.kinds("ann", event.KindMessage) {
			if e.Seq > res.Position.Seq && e.Conversation != "fence" {
				want = append(want, string(e.Payload))
			}
		}
		require.Equal(w.t, want, a2.wire(), "every entry after the login's place once, none before")
		require.GreaterOrEqual(w.t, len(want), 10)
		require.NotContains(w.t, want, "0")
	})
}

func TestS42_BackFill(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.host("bob", "0", "ann") // the first device starts at the oldest entry
		a := w.ready("ann", "a1")
		require.Equal(w.t, []string{"0"}, a[0].wire())
		for i := range 5 {
			w.host("bob", fmt.Sprint(i+1), "ann")
		}
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a2", Platform: "ios", BackFill: 3})
		require.NoError(w.t, err)
		a2 := w.login("ann", "a2")
		a2.online()
		var want []string
		for _, e := range w.kinds("ann", event.KindMessage) {
			if e.Seq+3 > res.Position.Seq {
				want = append(want, string(e.Payload))
			}
		}
		require.NotEmpty(w.t, want)
		require.Equal(w.t, want, a2.wire())
	})
}

func TestS46_AppendsWhileReplaying(t *testing.T) {
	overStores(t, fanout.Config{Window: 4}, func(w *world) {
		a1 := w.login("ann", "a1")
		var want []string
		for i := range 80 {
			want = append(want, fmt.Sprint("old ", i))
			w.host("bob", want[i], "ann")
		}
		a1.start()
		for i := range 80 {
			want = append(want, fmt.Sprint("new ", i))
			w.host("bob", want[80+i], "ann")
		}
		w.fence("ann")
		require.Equal(w.t, want, a1.wire(), "no hole and no repetition at the seam")
		require.Equal(w.t, 1, count[*event.CaughtUp](a1))
	})
}

func TestS48_HolesDoNotStall(t *testing.T) {
	overStores(t, fanout.Config{Window: 4, PageEntries: 3}, func(w *world) {
		a1 := w.login("ann", "a1")
		for i := range 120 {
			w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: "c1", Payload: []byte("p")})
			if i%40 == 0 {
				w.host("bob", fmt.Sprint(i), "ann")
			}
		}
		require.Less(w.t, len(w.log("ann")), 10, "superseded entries leave holes")
		a1.online()
		require.Equal(w.t, []string{"0", "40", "80"}, a1.wire())
		require.Len(w.t, a1.Messages(event.KindConversationPin), 1)
		require.Equal(w.t, w.head("ann").Seq, a1.Position().Seq)
	})
}

func TestC10_BackFillSince(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1")
		begin := time.Now()
		for i := range 10 {
			w.host("bob", fmt.Sprint(i), "ann")
			time.Sleep(time.Hour)
		}
		for name, c := range map[string]struct {
			since time.Time
			fill  uint64
			want  []string
		}{
			"not at all":          {time.Time{}, 0, nil},
			"three hours":         {begin.Add(7 * time.Hour), 0, []string{"7", "8", "9"}},
			"between two entries": {begin.Add(7*time.Hour + time.Minute), 0, []string{"8", "9"}},
			"the earlier of both": {begin.Add(9 * time.Hour), 1000, a[0].texts()},
			"all":                 {begin.Add(-time.Hour), 0, a[0].texts()},
			"the future":          {begin.Add(24 * time.Hour), 0, nil},
		} {
			id := event.DeviceID(name)
			_, err := w.reg.Login(context.Background(), session.LoginRequest{
				Account: "ann", Device: id, Platform: "ios", BackFill: c.fill, BackFillSince: c.since,
			})
			require.NoError(w.t, err)
			d := w.login("ann", id) // its place does not change
			d.online()
			require.Equal(w.t, c.want, d.wire(), name)
		}
	})
}
