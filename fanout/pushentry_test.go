package fanout_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

func TestC23_WhatWantsAPush(t *testing.T) {
	kinds, err := event.NewRegistry(
		event.KindInfo{Kind: "call.ring", Durable: true, Mirrored: true, Push: true},
		event.KindInfo{Kind: "poll", Durable: true, Mirrored: true, Unread: true},
		event.KindInfo{Kind: "status", Durable: true, Mirrored: true, Push: true, Coalesce: "status"},
	)
	require.NoError(t, err)
	for _, test := range []struct {
		name string
		q    fanout.SendRequest
		want bool
	}{
		{"message", fanout.SendRequest{From: "bob", To: []event.Account{"ann"}}, true},
		{"to oneself and ann", fanout.SendRequest{From: "bob", To: []event.Account{"ann", "bob"}, NoSenderCopy: true}, true},
		{"no push", fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, NoPush: true}, false},
		{"own send", fanout.SendRequest{From: "ann", To: []event.Account{"eve"}}, false},
		{"own operation", fanout.SendRequest{From: "ann", Kind: event.KindConversationPin}, false},
		{"own call", fanout.SendRequest{From: "ann", Kind: "call.ring"}, false},
		{"kind of the host that wants a push", fanout.SendRequest{From: "bob", Kind: "call.ring", To: []event.Account{"ann"}}, true},
		{"kind of the host that counts as unread", fanout.SendRequest{From: "bob", Kind: "poll", To: []event.Account{"ann"}}, true},
		{"kind that does not count as unread", fanout.SendRequest{From: "bob", Kind: event.KindGroupJoin, To: []event.Account{"ann"}}, false},
		{"unknown kind", fanout.SendRequest{From: "bob", Kind: "odd", To: []event.Account{"ann"}}, false},
		{"high priority", fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Priority: fanout.PriorityHigh}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := anyOffline()
			cfg.Kinds = kinds
			pushInMemory(t, cfg, func(w *world, l *pushLog) {
				w.login("ann", "a1")
				w.login("bob", "b1")
				test.q.Conversation, test.q.Payload = "c1", []byte("x")
				w.post(test.q)
				w.decided()
				time.Sleep(time.Minute)
				want := map[string]string{}
				if test.want {
					want["a1"] = "x"
				}
				require.Equal(w.t, want, l.got())
			})
		})
	}
	t.Run("superseded", func(t *testing.T) {
		pushInMemory(t, fanout.Config{Kinds: kinds}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			for _, text := range []string{"away", "back"} {
				w.post(fanout.SendRequest{From: "bob", Kind: "status", To: []event.Account{"ann"}, Payload: []byte(text)})
			}
			w.decided()
			require.Equal(w.t, []string{"ann: a1 back"}, l.take())
		})
	})
}

func TestC23_NeverForLiveOnly(t *testing.T) {
	pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		_, err := w.r.Publish(context.Background(), fanout.PublishRequest{From: "bob", Kind: event.KindMessage, To: []event.Account{"ann"}})
		require.NoError(w.t, err)
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, NoPush: true})
		w.undecided(0)
		time.Sleep(time.Minute)
		require.Empty(w.t, l.take())
	})
}

func TestC23_ForTargetsOnly(t *testing.T) {
	pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
		a := w.ready("ann", "a1", "a2")
		a[0].leave()
		w.post(fanout.SendRequest{
			From: "bob", To: []event.Account{"ann"}, Payload: []byte("for a1"),
			Narrow: []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"a1"}}},
		})
		w.host("bob", "for all", "ann")
		w.post(fanout.SendRequest{
			From: "bob", To: []event.Account{"ann"}, Payload: []byte("for a2"),
			Narrow: []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"a2"}}},
		})
		w.decided()
		require.Equal(w.t, map[string]string{"a1": "for a1"}, l.got(), "all that it is for are offline")
		a[1].leave()
		w.post(fanout.SendRequest{
			From: "bob", To: []event.Account{"ann"}, Payload: []byte("for a2"),
			Narrow: []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"a2"}}},
		})
		w.host("bob", "for all", "ann")
		w.decided()
		require.Equal(w.t, map[string]string{"a1": "for all", "a2": "for a2 for all"}, l.got())
	})
}

func TestC23_GoneBeforeItsTime(t *testing.T) {
	for _, test := range []struct {
		name string
		gone func(w *world, id event.MessageID, seq uint64)
	}{
		{"recalled", func(w *world, id event.MessageID, _ uint64) {
			w.post(fanout.SendRequest{From: "bob", Kind: event.KindRecall, Of: id})
		}},
		{"hidden", func(w *world, id event.MessageID, _ uint64) {
			w.post(fanout.SendRequest{From: "ann", Kind: event.KindDeleteForMe, Of: id})
		}},
		{"voided", func(w *world, _ event.MessageID, seq uint64) {
			_, err := w.inner.Void(context.Background(), "ann", []uint64{seq})
			require.NoError(w.t, err)
			_, err = w.inner.Void(context.Background(), "bob", []uint64{w.head("bob").Seq}) // nowhere half a message (I2)
			require.NoError(w.t, err)
		}},
		{"trimmed", func(w *world, _ event.MessageID, seq uint64) {
			_, err := w.inner.Trim(context.Background(), "ann", seq, 100)
			require.NoError(w.t, err)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
				w.login("ann", "a1")
				id := w.host("bob", "x", "ann").ID
				test.gone(w, id, w.head("ann").Seq)
				w.host("bob", "y", "ann")
				w.decided()
				require.Equal(w.t, map[string]string{"a1": "y"}, l.got())
			})
		})
	}
	t.Run("expired", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			for _, ttl := range []time.Duration{9 * time.Second, 10 * time.Second, 11 * time.Second} {
				w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, TTL: ttl, Payload: []byte(ttl.String())})
			}
			w.decided()
			require.Equal(w.t, []string{"ann: a1 11s"}, l.take())
		})
	})
}

// TestC23_EditNotAcknowledged: the device has passed the place of the message, but has not got the edit.
func TestC23_EditNotAcknowledged(t *testing.T) {
	cfg := anyOffline()
	cfg.CursorFlush = time.Hour // the ack is known without a look into the store
	pushInMemory(t, cfg, func(w *world, l *pushLog) {
		d := w.ready("ann", "a1")[0]
		d.leave()
		time.Sleep(11 * time.Second) // the look after the start is over
		id := w.host("bob", "typo", "ann").ID
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, NoPush: true, Payload: []byte("quiet")})
		at := w.head("ann")
		w.post(fanout.SendRequest{From: "bob", Kind: event.KindEdit, Of: id, Payload: []byte("edited")})
		d.HoldAcks(true)
		d.online()
		require.NoError(w.t, d.Send(&event.Ack{Position: event.Position{Epoch: at.Epoch, Seq: at.Seq}}))
		d.leave()
		w.decided()
		require.Equal(w.t, []string{"ann: a1 edited"}, l.take())
	})
}

func TestC23_EditInTime(t *testing.T) {
	pushInMemory(t, anyOffline(), func(w *world, l *pushLog) {
		w.login("ann", "a1")
		edit := func(id event.MessageID, text string, noPush bool) {
			w.post(fanout.SendRequest{From: "bob", Kind: event.KindEdit, Of: id, Payload: []byte(text), NoPush: noPush})
		}
		id := w.host("bob", "typo", "ann").ID
		time.Sleep(9 * time.Second)
		edit(id, "edited", false)
		w.decided()
		require.Equal(w.t, []string{"ann: a1 edited"}, l.take(), "in the place of the message")
		edit(id, "edited again", false)
		w.decided()
		time.Sleep(time.Minute)
		require.Empty(w.t, l.take(), "the message has had its push")
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("quiet"), NoPush: true})
		edit(w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("quiet"), NoPush: true}).ID, "q", false)
		edit(w.host("bob", "typo", "ann").ID, "r", true)
		w.decided()
		require.Empty(w.t, l.take())
		id = w.host("bob", "typo", "ann").ID
		w.read("c1", w.head("ann").Seq, false)
		edit(id, "edited", false)
		w.decided()
		require.Empty(w.t, l.take(), "read already")
	})
}
