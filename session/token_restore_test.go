package session_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// TestToken_AfterRestore: a restored file may know less of tokens than their holders do, so each is due at once (K18.7).
func TestToken_AfterRestore(t *testing.T) {
	ready := func(w *world) *gadget { return w.join("ann", "a1", "ios") }
	day := func(w *world, g *gadget) { // the next day, with a new token
		g.conn.Detach()
		w.pass(25 * time.Hour)
		g.attach()
		require.NotEmpty(w.t, g.conn.Token().Reveal())
	}
	confirmed := func(w *world, g *gadget) {
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		g.token = g.conn.Token()
	}
	tests := map[string]struct {
		config        session.Config
		before, after func(w *world, g *gadget) // the backup
		then          func(w *world, g, old *gadget)
	}{
		"nothing has happened since": {then: func(w *world, g, _ *gadget) {
			g.attach()
			require.NotEmpty(w.t, g.conn.Token().Reveal())
			confirmed(w, g)
			require.Empty(w.t, g.attach().conn.Token().Reveal(), "once")
			require.Equal(w.t, "a1", w.devices("ann"))
		}},
		"a second holder": {then: func(w *world, g, old *gadget) {
			old.attach()
			confirmed(w, old)
			w.pass(10 * time.Second)
			require.Equal(w.t, event.TokenReuse, g.refused().Reason, "is noticed by the first who comes after the other")
			require.Empty(w.t, w.list("ann"))
		}},
		"a token that was replaced since": {
			after: func(w *world, g *gadget) { day(w, g); confirmed(w, g) },
			then: func(w *world, g, old *gadget) {
				old.attach() // the file does not know better
				require.NotEqual(w.t, g.token.Reveal(), old.conn.Token().Reveal())
				confirmed(w, old)
				_, err := g.tryAttach(new(wire))
				require.ErrorIs(w.t, err, session.ErrUnknownLogin, "the owner logs in")
				again := w.join("ann", "a1", "ios")
				require.Equal(w.t, []event.Reason{event.Replaced}, old.wire.reasons(), "and that is the end of the other one")
				require.Equal(w.t, event.Replaced, old.refused().Reason)
				require.True(w.t, again.live())
			},
		},
		"a token that was confirmed since, its owner first": {
			before: day, after: confirmed,
			then: func(w *world, g, old *gadget) {
				g.attach()
				require.NotEmpty(w.t, g.conn.Token().Reveal(), "it may have got around before")
				confirmed(w, g)
				w.pass(10 * time.Second)
				require.Equal(w.t, event.TokenReuse, old.refused().Reason)
			},
		},
		"a token that was confirmed since, its owner second": {
			before: day, after: confirmed,
			then: func(w *world, g, old *gadget) {
				old.attach()
				require.NotEqual(w.t, g.token.Reveal(), old.conn.Token().Reveal(), "the owner's is not handed out again")
				_, err := g.tryAttach(new(wire))
				require.ErrorIs(w.t, err, session.ErrUnknownLogin, "the owner logs in")
			},
		},
		"tokens are never replaced": {
			config: session.Config{TokenRotation: -1},
			then:   func(w *world, g, _ *gadget) { require.Empty(w.t, g.attach().conn.Token().Reveal()) },
		},
		"by the host's word": {then: func(w *world, _, _ *gadget) {
			before := w.stored("ann")
			conn, _, err := w.vouch("ann", "a1")
			require.NoError(w.t, err)
			require.Empty(w.t, conn.Token().Reveal())
			require.Equal(w.t, before, w.stored("ann"))
		}},
	}
	for name, tt := range tests {
		for how, restore := range map[string]func(t *testing.T, path string, st *boltstore.Store) func() store.Store{
			"restored": restored, "copied": copied,
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "store")
					st, err := boltstore.Open(path, boltstore.Config{})
					require.NoError(t, err)
					tt.config.IdleTimeout, tt.config.ResumeWindow = -1, 1_000*time.Hour
					w := newWorld(t, st, setup{config: tt.config})
					g := ready(w)
					old := g.on(w)
					if tt.before != nil {
						tt.before(w, g)
					}
					back := restore(t, path, st)
					if tt.after != nil {
						tt.after(w, g)
					}
					w.shut(w.reg)
					require.NoError(t, st.Close(context.Background()))
					w.st.Store = back()
					w.open(w.now)
					tt.then(w, g, old)
				})
			})
		}
	}
}

// restored takes a backup and returns what puts it back.
func restored(t *testing.T, path string, st *boltstore.Store) func() store.Store {
	var backup bytes.Buffer
	_, err := st.Backup(context.Background(), &backup)
	require.NoError(t, err)
	return func() store.Store {
		require.NoError(t, boltstore.Restore(context.Background(), path+"2", &backup))
		st, err := boltstore.Open(path+"2", boltstore.Config{})
		require.NoError(t, err)
		return st
	}
}

// copied does the same without Restore.
func copied(t *testing.T, path string, st *boltstore.Store) func() store.Store {
	back := restored(t, path, st)
	return func() store.Store {
		require.NoError(t, back().Close(context.Background()))
		st, err := boltstore.Open(path+"2", boltstore.Config{NewIncarnation: true})
		require.NoError(t, err)
		return st
	}
}
