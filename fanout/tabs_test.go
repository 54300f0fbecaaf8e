package fanout_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// withTabs has the registry allow three connections of a login.
func (w *world) withTabs() {
	w.t.Helper()
	p, err := policy.New(policy.Rules{Tabs: map[event.Platform]int{"ios": 3}})
	require.NoError(w.t, err)
	require.NoError(w.t, w.reg.SetPolicy(p))
}

func TestS24_TabsShareOneLogin(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.withTabs()
		one := w.login("ann", "browser")
		one.tab = "1"
		two := one.sibling("2")
		one.online()
		two.online()
		w.feed("ann", 0, 60)
		w.fence("ann")
		for _, d := range []*device{one, two} {
			require.Equal(w.t, numbers(0, 60), d.wire(), "each entry reaches both tabs, once per connection")
			require.Empty(w.t, d.Violations())
		}
		one.leave()
		p, err := w.reg.Presence(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, session.Online, p.State, "closing one tab does not take the login offline")
		w.feed("ann", 60, 70)
		w.fence("ann")
		require.Equal(w.t, numbers(0, 70), two.wire())
		one.online() // it names its own position: what its sibling has acknowledged is still news to it
		w.fence("ann")
		require.Equal(w.t, numbers(0, 70), one.wire())
		require.Empty(w.t, one.Resets())
	})
}

// A tab that comes without a position begins where the device has acknowledged.
func TestS24_TheDeviceHasOneCursor(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.withTabs()
		one := w.login("ann", "browser")
		one.tab = "1"
		one.online()
		w.feed("ann", 0, 10)
		w.fence("ann")
		one.acked()
		slow := one.sibling("2")
		slow.HoldAcks(true)
		slow.online()
		require.Empty(w.t, slow.wire(), "nothing that the device has already")
		w.feed("ann", 10, 20)
		w.fence("ann")
		one.acked()
		w.flush()
		require.Equal(w.t, w.head("ann").Seq, w.cursor(one).Seq, "the ack of one tab counts for the device")
		require.Equal(w.t, numbers(10, 20), slow.wire())
	})
}

// Own sends are told by the login: a sibling of the sending tab gets no copy, other devices do.
func TestI13_TabsOfTheOrigin(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.withTabs()
		one := w.login("ann", "browser")
		one.tab = "1"
		one.online()
		two, phone := one.sibling("2"), w.login("ann", "phone")
		two.online()
		phone.online()
		w.send(one, "mine", "bea")
		w.fence("ann")
		require.Empty(w.t, one.wire())
		require.Empty(w.t, two.wire())
		require.Equal(w.t, []string{"mine"}, phone.wire())
	})
}

func TestS64_ASlowTabAlone(t *testing.T) {
	overStores(t, fanout.Config{AckWait: time.Second}, func(w *world) {
		w.withTabs()
		one := w.login("ann", "browser")
		one.tab = "1"
		one.online()
		slow := one.sibling("2")
		slow.online()
		slow.HoldAcks(true)
		w.feed("ann", 0, 5)
		require.Equal(w.t, event.Slow, slow.closed().Reason)
		require.True(w.t, one.Connected())
		w.feed("ann", 5, 10)
		w.fence("ann")
		require.Equal(w.t, numbers(0, 10), one.wire())
	})
}

func TestLive_ReachesEveryTab(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.withTabs()
		one := w.login("ann", "browser")
		one.tab = "1"
		one.online()
		two := one.sibling("2")
		two.online()
		_, err := w.r.Publish(context.Background(), fanout.PublishRequest{
			From: "bea", To: []event.Account{"ann"}, Kind: event.KindTyping, Conversation: "c",
		})
		require.NoError(w.t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(w.t, one.WaitLives(ctx, 1))
		require.NoError(w.t, two.WaitLives(ctx, 1))
	})
}

func TestD8_DeletedAccountBeginsAnew(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		bob := w.login("bob", "b1")
		bob.online()
		old := w.login("ann", "phone")
		old.online()
		w.feed("ann", 0, 50)
		w.fence("ann")
		before, saved := old.Position(), old.Save()
		_, err := w.reg.DeleteAccount(context.Background(), session.DeleteRequest{Account: "ann"})
		require.NoError(w.t, err)
		require.Equal(w.t, event.AccountDeleted, old.closed().Reason)
		require.Zero(w.t, w.head("ann").Seq)

		w.feed("ann", 50, 55) // an inbox is there again as soon as somebody writes
		anew := w.login("ann", "phone")
		anew.online()
		w.feed("ann", 55, 60)
		w.fence("ann")
		require.Equal(w.t, numbers(50, 60), anew.wire())
		require.Greater(w.t, anew.Position().Epoch, before.Epoch)

		// A device that comes with a position of before is told that it is of no use.
		anew.leave()
		saved.State.Login, saved.State.Token = anew.Login(), anew.Token()
		anew.Restore(saved)
		anew.online()
		require.Equal(w.t, event.ResetEpoch, anew.Resets()[0].Reason)
	})
}
