package fanout_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/boltstore"
)

// backup returns a backup of the world's file.
func (w *world) backup() []byte {
	w.t.Helper()
	var b bytes.Buffer
	_, err := w.inner.(*boltstore.Store).Backup(context.Background(), &b)
	require.NoError(w.t, err)
	return b.Bytes()
}

// restore loses the world's file and goes on with a backup.
func (w *world) restore(backup []byte) {
	w.t.Helper()
	w.stop()
	w.path = filepath.Join(w.t.TempDir(), "restored.db")
	require.NoError(w.t, boltstore.Restore(context.Background(), w.path, bytes.NewReader(backup)))
	w.openStore()
	w.start()
}

// TestS33_Restore takes a backup of a running engine, goes on for a while, loses the file, and restores the backup. Some
// devices were told things that the store does not know any more.
func TestS33_Restore(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{})
	ctx := context.Background()
	a, e := w.ready("ann", "a1", "a2", "a3"), w.ready("eve", "e1", "e2")
	w.feed("ann", 0, 10)
	toEve := func(id event.ClientMessageID) fanout.SendRequest {
		return fanout.SendRequest{From: "ann", ClientID: id, Conversation: "c1", To: []event.Account{"eve"}, NoSenderCopy: true, Payload: []byte(id)}
	}
	w.fence("ann", "eve")
	a[2].acked()
	a[2].leave() // knows nothing of what comes
	w.flush()
	before := w.head("ann").Epoch
	w.post(toEve("known"))
	w.fence("ann", "eve")
	backup := w.backup()

	w.feed("ann", 10, 15) // lost, but seen by a1 and a2
	w.post(toEve("lost"))
	w.fence("ann", "eve")
	late := w.login("ann", "a4") // its login is lost
	late.online()
	kicked := e[1].Login()
	_, err := w.reg.Kick(ctx, session.KickRequest{Account: "eve", Logins: []event.LoginID{kicked}})
	require.NoError(t, err)
	for _, d := range []*device{a[0], a[1], e[0], late} {
		d.drop()
	}
	w.restore(backup)
	require.NotEqual(t, before>>32, w.head("ann").Epoch>>32)

	w.feed("ann", 20, 25) // takes the numbers of what was lost
	require.True(t, w.post(toEve("known")).Duplicate, "what the backup knows has no second effect")
	require.False(t, w.post(toEve("lost")).Duplicate, "what it does not know is sent anew")
	for _, d := range []*device{a[0], a[1], a[2], e[0]} {
		d.online()
		resets := d.Resets()
		require.Len(t, resets, 1, d.id)
		require.Equal(t, event.ResetEpoch, resets[0].Reason, d.id)
		require.Equal(t, w.head(d.account).Epoch, d.Position().Epoch)
	}
	w.fence("ann", "eve")
	for _, d := range a[:2] {
		require.Equal(t, append(numbers(0, 15), numbers(20, 25)...), d.texts(), d.id)
	}
	require.Equal(t, append(numbers(0, 10), numbers(20, 25)...), a[2].texts())
	require.Equal(t, []string{"known", "lost", "lost"}, e[0].texts())

	// No number means two things in one epoch, in whatever a device was ever told.
	names := map[string]event.MessageID{}
	for _, d := range w.devices {
		for _, data := range framesOf[*event.Data](d) {
			for _, n := range data.Entries {
				key := fmt.Sprint(d.account, data.Epoch, n.Seq)
				require.True(t, names[key] == "" || names[key] == n.ID, "%s was used twice", key)
				names[key] = n.ID
			}
		}
	}

	// Logins are those of the backup.
	require.ErrorIs(t, late.tryConnect(), session.ErrUnknownLogin)
	late.relogin()
	late.online()
	require.Len(t, late.Resets(), 1)
	e[1].online() // it was kicked since: the store cannot know
	require.Equal(t, kicked, e[1].Login())
	_, err = w.reg.Kick(ctx, session.KickRequest{Account: "eve", All: true})
	require.NoError(t, err, "the host ends all logins if that matters")
	require.Equal(t, event.KickedHost, e[1].closed().Reason)
}

// TestS33_TokensOfABackup: a device that has got another token since the backup is refused, and logs in anew.
func TestS33_TokensOfABackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{})
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 5)
		w.fence("ann")
		backup, old := w.backup(), d.Token()
		d.leave()
		time.Sleep(25 * time.Hour)
		d.online()
		require.NotEqual(t, old, d.Token())
		w.until("the new token is confirmed", func() bool {
			return sent[*event.TokenStored](d)
		})
		w.restore(backup)
		require.ErrorIs(t, d.tryConnect(), session.ErrUnknownLogin)
		inc := d.inc
		d.relogin()
		require.Equal(t, inc, d.inc, "it is the same device, with its place in the inbox")
		d.online()
		w.feed("ann", 5, 8)
		w.fence("ann")
		require.Equal(t, numbers(0, 8), d.texts())
	})
}

// TestS33_RestoredAgain restores one backup several times.
func TestS33_RestoredAgain(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{})
	d := w.ready("ann", "a1")[0]
	w.feed("ann", 0, 5)
	w.fence("ann")
	backup := w.backup()
	epochs := map[event.Epoch]bool{w.head("ann").Epoch: true}
	for i := range 3 {
		w.feed("ann", 100*(i+1), 100*(i+1)+5)
		w.fence("ann")
		d.drop()
		w.restore(backup)
		epoch := w.head("ann").Epoch
		require.False(t, epochs[epoch], "each time the same backup is restored")
		epochs[epoch] = true
		if i > 0 { // it was given another token after the restore before
			require.ErrorIs(t, d.tryConnect(), session.ErrUnknownLogin)
			d.relogin()
		}
		d.online()
		require.Len(t, d.Resets(), i+1)
	}
}
