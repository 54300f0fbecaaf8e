package fanout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

var (
	anyID   = regexp.MustCompile(`\b[a-z2-7]{26}\b|\b[a-z2-7]{32}\b`)
	anyTime = regexp.MustCompile(`(time\\?":\\?")\d+`)
)

// transcript writes down what a device saw, with IDs numbered in order of appearance, without epochs and times, and
// without regard to how entries were grouped into frames.
func (d *device) transcript() []string {
	d.w.t.Helper()
	names := make(map[string]string)
	plain := func(s string) string {
		s = anyTime.ReplaceAllString(s, "${1}T")
		return anyID.ReplaceAllStringFunc(s, func(id string) string {
			if names[id] == "" {
				names[id] = fmt.Sprint("id", len(names))
			}
			return names[id]
		})
	}
	var all []string
	for _, f := range d.Frames() {
		switch f := f.(type) {
		case *event.Welcome:
			all = append(all, plain(fmt.Sprintf("welcome %s at %d of %d", f.Login, f.Position.Seq, f.Head)))
		case *event.Data:
			for _, e := range f.Entries {
				all = append(all, plain(fmt.Sprintf("entry %t %s", f.Redelivered, e.JSON())))
			}
		case *event.StatePage:
			for _, s := range f.States {
				all = append(all, plain(fmt.Sprint("state ", s)))
			}
		case *event.CaughtUp:
			all = append(all, fmt.Sprint("caught up ", f.Position.Seq))
		case *event.Reset:
			all = append(all, fmt.Sprintf("reset %s (%d, %d]", f.Reason, f.From.Seq, f.To.Seq))
		case *event.Closed:
			all = append(all, plain(fmt.Sprintf("closed %s %q %s %v", f.Reason, f.Note, f.Retry, f.Cause)))
		}
	}
	return append(all, fmt.Sprint("position ", d.Position().Seq))
}

// story is a script that touches most of what a store does for the router.
func story(w *world) map[event.DeviceID][]string {
	ctx := context.Background()
	a := w.ready("ann", "a1", "a2")
	b := w.ready("bob", "b1")
	post := func(q fanout.SendRequest) {
		w.t.Helper()
		q.Receipts = fanout.ReceiptsOff
		w.post(q)
		w.fence("ann", "bob")
	}
	ann, bob := []event.Account{"ann"}, []event.Account{"bob"}
	post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), ClientID: "m1", Conversation: "c1", To: bob, Payload: []byte("one")})
	post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), ClientID: "m1", Conversation: "c1", To: bob, Payload: []byte("one")})
	post(fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: "c1", To: ann, Payload: []byte("{}")})
	a[1].acked()
	a[1].leave()
	for i := range 20 {
		post(fanout.SendRequest{From: "bob", Origin: b[0].Login(), Conversation: "c1", To: ann, Payload: []byte{byte(i), 0xff}})
	}
	post(fanout.SendRequest{From: "ann", Kind: event.KindConversationUnpin, Conversation: "c1", Payload: []byte("{}")})
	post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), Targets: []event.LoginID{a[1].Login()}, Payload: []byte("for a2")})
	for _, seq := range []uint64{5, 9, 7} {
		_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Origin: a[0].Login(), Conversation: "c1", Seq: seq})
		require.NoError(w.t, err)
	}
	w.fence("ann")
	a[1].online()
	a[1].acked()
	a[1].leave()
	w.restart()
	for i := range 40 {
		post(fanout.SendRequest{From: "bob", Conversation: "c2", To: ann, Payload: fmt.Append(nil, i)})
	}
	w.trim("ann")
	a[1].online()
	a[0].online()
	b[0].online()
	_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{a[1].Login()}, By: a[0].Login(), Note: "bye"})
	require.NoError(w.t, err)
	a[1].closed()
	w.fence("ann", "bob")
	all := make(map[event.DeviceID][]string)
	for _, d := range w.devices {
		all[d.id] = d.transcript()
	}
	return all
}

func TestS74_BothStoresLookAlike(t *testing.T) {
	cfg := fanout.Config{MaxEntries: 30, TrimInterval: -1, Window: 7, PageEntries: 5}
	var memory, file map[event.DeviceID][]string
	synctest.Test(t, func(t *testing.T) { memory = story(newWorld(t, "", cfg)) })
	t.Run("file", func(t *testing.T) { file = story(newWorld(t, filepath.Join(t.TempDir(), "store.db"), cfg)) })
	require.Len(t, memory, 3)
	for id, want := range memory {
		require.Greater(t, len(want), 30)
		require.Equal(t, want, file[id], id)
	}
}
