package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// settle opens the file a last time, has everything finished that was begun, and balances the books.
func (w *world) settle() {
	t, ctx := w.t, w.t.Context()
	c := startChild(t, w.db)
	defer c.kill(t)
	c.first(t)
	for _, a := range w.writers {
		require.NoError(t, a.d.resume(ctx, c.addr))
		if a.open != nil {
			require.NoError(t, a.send(ctx))
		}
		for conv, seq := range a.read { // the answer to a mark may have been lost: ask once more
			_, err := a.d.markRead(ctx, conv, seq)
			require.NoError(t, err)
		}
	}
	for _, a := range w.writers {
		w.resync(c, a.d)
	}
	t.Run("I1 I2 I10 I13 I14 every message is where it belongs, once and in order", w.checkDelivery)
	t.Run("S49 a send that is repeated after restarts has one effect", func(t *testing.T) { w.checkRepetition(t, ctx) })
	t.Run("I3 the epoch is the same, and numbers rise", w.checkPositions)
	t.Run("I17 conversation state is the same on all devices", func(t *testing.T) { w.checkState(t, c.addr) })
	t.Run("S13 what has ended stays ended, with its reason", func(t *testing.T) { w.churn.check(t, c.addr) })
}

// resync attaches anew, so that everything that there is has come when it has caught up.
func (w *world) resync(c *child, d *device) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(w.t, d.resume(ctx, c.addr))
	require.NoError(w.t, d.awaitCaughtUp(ctx))
	require.NoError(w.t, d.sound())
}

func (w *world) checkDelivery(t *testing.T) {
	for _, a := range w.writers {
		d := a.d
		want := make(map[string]event.MessageID)
		for _, s := range w.ledger {
			if s.by != a && s.reaches(d) {
				want[s.q.Text] = s.answer.ID
			}
		}
		got := make(map[string]event.MessageID)
		last := make(map[string]int)
		for _, e := range d.entries() {
			if !isMessage(e) {
				continue
			}
			text := string(e.Payload)
			require.NotContains(t, got, text, "%s has %s twice", d, text)
			got[text] = e.ID
			by, number, _ := strings.Cut(text, "/")
			n, err := strconv.Atoi(number)
			require.NoError(t, err)
			require.Greater(t, n, last[by], "I12: %s got the messages of %s in another order", d, by)
			last[by] = n
		}
		require.Equal(t, want, got, "%s", d)
	}
}

// reaches reports whether the send is for the device, leaving out that its origin gets nothing.
func (s *acknowledged) reaches(d *device) bool {
	if len(s.q.Logins) > 0 {
		return slices.Contains(s.q.Logins, d.login())
	}
	return true // ann and bob are in everything else
}

func (w *world) checkRepetition(t *testing.T, ctx context.Context) {
	for i := 0; i < len(w.ledger); i += 1 + len(w.ledger)/50 {
		s := w.ledger[i]
		var answer sendAnswer
		require.NoError(t, s.by.d.call(ctx, "send", &s.q, &answer))
		require.True(t, answer.Duplicate)
		require.Equal(t, s.answer.ID, answer.ID)
		require.Equal(t, s.answer.Position, answer.Position)
		other := s.q
		other.Text = "something else"
		e, ok := errors.AsType[*requestError](s.by.d.call(ctx, "send", &other, nil))
		require.True(t, ok)
		require.Equal(t, codeConflict, e.Code)
	}
}

func (w *world) checkPositions(t *testing.T) {
	for _, a := range w.writers {
		pos, ok := a.d.position()
		require.True(t, ok)
		var last uint64
		for _, s := range w.ledger {
			if s.by == a {
				require.Equal(t, pos.Epoch, s.answer.Position.Epoch)
				require.Greater(t, s.answer.Position.Seq, last)
				last = s.answer.Position.Seq
			}
		}
	}
}

func (w *world) checkState(t *testing.T, addr string) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, account := range []event.Account{"ann", "bob"} {
		fresh := newDevice(account, "fresh", "linux", "fresh device")
		defer fresh.drop()
		_, err := fresh.enter(ctx, addr)
		require.NoError(t, err)
		require.NoError(t, fresh.awaitCaughtUp(ctx))
		fresh.mu.Lock()
		want := fresh.machine.Digest()
		registers := fresh.machine.Registers()
		fresh.mu.Unlock()
		require.NotEmpty(t, registers)
		for _, a := range w.writers {
			if a.d.account == account {
				require.NoError(t, a.d.await(ctx, func() bool { return a.d.machine.Digest() == want }))
			}
		}
	}
}

// entries returns what the app has stored so far, in order.
func (d *device) entries() []*event.Sealed {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.applied)
}

// position returns how far the device has come, or false before its first connection.
func (d *device) position() (event.Position, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machine.Position()
}
