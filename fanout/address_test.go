package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

func TestC4_Narrow(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b := w.ready("bob", "b1", "b2", "b3")
		gone := w.login("bob", "b4")
		require.NoError(w.t, w.reg.Logout(context.Background(), "bob", gone.Login()))
		a := w.ready("ann", "a1")
		send := func(text string, n fanout.Narrow) error {
			n.Account = "bob"
			_, err := w.r.Send(context.Background(), fanout.SendRequest{
				From: "ann", Conversation: "c1", To: []event.Account{"bob"}, Narrow: []fanout.Narrow{n}, Payload: []byte(text),
			})
			return err
		}
		require.NoError(w.t, send("login", fanout.Narrow{Logins: []event.LoginID{b[1].Login()}}))
		require.NoError(w.t, send("device", fanout.Narrow{Devices: []event.DeviceID{"b3", "b4"}}))
		require.NoError(w.t, send("platform", fanout.Narrow{Platforms: []event.Platform{"iOS"}}))
		require.NoError(w.t, send("all but", fanout.Narrow{Except: []event.LoginID{b[0].Login(), event.NewLoginID()}}))
		for name, n := range map[string]fanout.Narrow{
			"an ended login": {Logins: []event.LoginID{gone.Login()}}, "no such device": {Devices: []event.DeviceID{"b9"}},
			"nobody on it": {Platforms: []event.Platform{"web"}},
			"nobody left":  {Logins: []event.LoginID{b[0].Login()}, Except: []event.LoginID{b[0].Login()}},
		} {
			require.ErrorIs(w.t, send("no", n), fanout.ErrUnknownTarget, name)
		}
		w.fence("bob", "ann")
		require.Equal(w.t, []string{"platform"}, b[0].texts())
		require.Equal(w.t, []string{"login", "platform", "all but"}, b[1].texts())
		require.Equal(w.t, []string{"device", "platform", "all but"}, b[2].texts())
		gone.relogin()
		gone.online()
		require.Equal(w.t, []string{"device", "all but"}, gone.texts(), "a device that was away gets it when it is back")
		require.Equal(w.t, []string{"login", "device", "platform", "all but"}, a[0].texts(), "the sender's copies are for all")
	})
}

func TestC4_BadNarrow(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a, b := w.login("ann", "a1"), w.login("bob", "b1")
		one := func(n fanout.Narrow) []fanout.Narrow { return []fanout.Narrow{n} }
		to := []event.LoginID{b.Login()}
		for name, q := range map[string]fanout.SendRequest{
			"chooses nothing":    {Narrow: one(fanout.Narrow{Account: "bob"})},
			"of a client":        {Origin: a.Login(), Narrow: one(fanout.Narrow{Account: "bob", Logins: to})},
			"gets no copy":       {Narrow: one(fanout.Narrow{Account: "cid", Logins: to})},
			"no sender copy":     {NoSenderCopy: true, Narrow: one(fanout.Narrow{Account: "ann", Devices: []event.DeviceID{"a1"}})},
			"twice":              {Narrow: []fanout.Narrow{{Account: "bob", Logins: to}, {Account: "bob", Logins: to}}},
			"too many names":     {Narrow: one(fanout.Narrow{Account: "bob", Devices: make([]event.DeviceID, 65)})},
			"too many accounts":  {Narrow: make([]fanout.Narrow, 65)},
			"more than a target": {Narrow: one(fanout.Narrow{Account: "bob", Logins: to}), Origin: a.Login()},
		} {
			q.From, q.To = "ann", []event.Account{"bob"}
			_, err := w.r.Send(context.Background(), q)
			bad, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%s: %v", name, err)
			require.Regexp(w.t, `^narrow(\[[01]\](\.\w+)?)?$`, bad.Field, name)
			require.Zero(w.t, w.head("bob").Seq-1, name) // its own login
		}
		for field, n := range map[string]fanout.Narrow{
			"account": {}, "logins[1]": {Account: "bob", Logins: []event.LoginID{to[0], "x"}},
			"devices[0]": {Account: "bob", Devices: []event.DeviceID{""}}, "platforms[0]": {Account: "bob", Platforms: []event.Platform{"\n"}},
			"except[0]": {Account: "bob", Except: []event.LoginID{"x"}},
		} {
			_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Narrow: one(n)})
			w.invalid(err, "narrow[0]."+field)
		}
	})
}

func TestC12_NarrowLiveEvents(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b := w.ready("bob", "b1", "b2")
		n, err := w.r.Publish(context.Background(), fanout.PublishRequest{
			From: "ann", Kind: event.KindTyping, To: []event.Account{"bob"},
			Narrow: []fanout.Narrow{{Account: "bob", Devices: []event.DeviceID{"b2"}}},
		})
		require.NoError(w.t, err)
		require.Equal(w.t, 1, n)
		w.until("it came", func() bool { return len(typings(b[1])) == 1 })
		require.Empty(w.t, typings(b[0]))
		_, err = w.r.Publish(context.Background(), fanout.PublishRequest{
			From: "ann", Kind: event.KindTyping, To: []event.Account{"bob"}, Narrow: []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"a1"}}},
		})
		w.invalid(err, "narrow[0]")
	})
}

func typings(d *device) []*event.Sealed {
	return slices.DeleteFunc(d.Lives(), func(e *event.Sealed) bool { return e.Kind != event.KindTyping })
}

// TestC12_LowIsDroppedFirst fills the ring of a connection that does not read.
func TestC12_LowIsDroppedFirst(t *testing.T) {
	inMemory(t, fanout.Config{LiveRing: 3}, func(w *world) {
		b := w.ready("bob", "b1")
		b[0].pair.Block()
		publish := func(subject string, p fanout.Priority) int {
			n, err := w.r.Publish(context.Background(), fanout.PublishRequest{
				From: "ann", Kind: event.KindTyping, To: []event.Account{"bob"}, Subject: subject, Priority: p, Payload: []byte(subject),
			})
			require.NoError(w.t, err)
			synctest.Wait()
			return n
		}
		publish("sent", fanout.PriorityNormal) // is on its way, and blocks
		publish("high", fanout.PriorityHigh)
		publish("low", fanout.PriorityLow)
		publish("normal", fanout.PriorityNormal)
		require.Equal(w.t, 1, publish("in place of low", fanout.PriorityNormal))
		require.Zero(w.t, publish("low again", fanout.PriorityLow), "all that wait are more important")
		require.Equal(w.t, 1, publish("in place of normal", fanout.PriorityHigh))
		b[0].pair.Unblock()
		w.until("all came", func() bool { return len(typings(b[0])) == 4 })
		require.Equal(w.t, []string{"sent", "high", "in place of low", "in place of normal"}, texts(typings(b[0])))
	})
}

func TestC13_Switches(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, b := w.ready("ann", "a1", "a2"), w.ready("bob", "b1")
		res := w.post(fanout.SendRequest{
			From: "ann", Origin: a[0].Login(), To: []event.Account{"bob"}, Conversation: "c1", Payload: []byte("x"), NoPush: true,
			Priority: fanout.PriorityHigh, NoSenderCopy: true,
		})
		require.Zero(w.t, res.Position.Seq)
		w.fence("ann", "bob")
		require.Empty(w.t, a[1].texts(), "no carbon")
		require.Equal(w.t, event.FlagNoPush|event.FlagHigh|event.FlagUnread|event.FlagReceipts, b[0].of(event.KindMessage)[0].Flags)
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Priority: 3})
		w.invalid(err, "priority")
		_, err = w.r.Publish(context.Background(), fanout.PublishRequest{From: "ann", Kind: event.KindTyping, To: []event.Account{"bob"}, Priority: 3})
		w.invalid(err, "priority")
	})
}

// TestC5_TenThousandMembers come out of an iterator, share one payload, and get it in one commit.
func TestC5_TenThousandMembers(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		members := map[event.Account]bool{}
		for i := range fanout.MaxRecipients {
			members[event.Account(fmt.Sprint("m", i))] = true
		}
		commits := w.st.Calls("Commit")
		res := w.post(fanout.SendRequest{From: "m7", Conversation: "g", Members: maps.Keys(members), Payload: make([]byte, 10_000)})
		require.Equal(w.t, commits+1, w.st.Calls("Commit"))
		info, err := w.inner.Message(context.Background(), res.ID)
		require.NoError(w.t, err)
		require.Len(w.t, info.To, fanout.MaxRecipients)
		require.EqualValues(w.t, 1, w.unread("m9999"))
		require.Zero(w.t, w.unread("m7"))
		members["one more"] = true
		_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "m7", Members: maps.Keys(members)})
		w.invalid(err, "to")
		_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "m7", To: []event.Account{"x"}, Members: slices.Values([]event.Account{"y", "\n"})})
		w.invalid(err, "members")
		require.Zero(w.t, w.head("x").Seq)
	})
}
