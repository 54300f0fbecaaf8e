package session_test

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// restart closes a registry and opens another one over the same store.
func (h *history) restart(w *world) {
	for _, m := range h.accounts { // otherwise what is over would linger anew
		h.touch(w, m)
	}
	if h.reopen != nil {
		h.reopen()
	} else {
		w.restart(w.now)
	}
	w.events.add(session.Change{Kind: restarted})
	now := time.Now()
	for _, m := range h.accounts {
		for _, l := range m.live() {
			switch {
			case len(h.worlds) > 1 && l.on != w:
			case l.online && len(h.worlds) == 1:
				l.online, l.tabs, l.since = false, nil, now
			case m.holds(l) && len(h.worlds) == 1: // it lingers anew
				l.since = now
			case l.online:
				l.online, l.tabs = false, nil
			}
		}
	}
	if len(h.worlds) > 1 {
		h.outlast()
	}
}

// partition keeps a node from its leases for a while: it stops serving, and takes up again under a new lease.
func (h *history) partition(w *world) {
	cut := h.cluster.cut[w.now.config.Node]
	cut.down.Store(true)
	w.pass(25 * time.Second)
	for _, m := range h.accounts {
		for _, l := range m.live() {
			if l.online && l.on == w {
				require.False(h.t, l.tabs[0].live(), "S31: fenced")
				l.online, l.tabs = false, nil
			}
		}
	}
	cut.down.Store(false)
	h.outlast()
}

// outlast has all nodes notice that one has gone, and waits until everything that was attached there is offline.
func (h *history) outlast() {
	h.worlds[0].pass(25 * time.Second)
	for _, w := range h.worlds {
		for _, m := range h.accounts {
			w.list(m.name)
		}
	}
	h.worlds[0].pass(2*modelWindow + time.Minute)
}

// restarted stands in the history of changes where the registry was opened anew.
const restarted session.ChangeKind = "restarted"

// faults has commits fail now and then: conflicts, errors, and outcomes that are not known, whether or not they took
// effect.
func (h *history) faults(on bool) {
	h.faulty = on
	h.worlds[0].st.set(func(f *faults) {
		f.before, f.after = nil, nil
		if !on {
			return
		}
		var mu sync.Mutex // the sweep commits, too
		random := rand.New(rand.NewPCG(h.random.Uint64(), 1))
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(n)
		}
		f.before = func(store.Batch) error {
			switch draw(40) {
			case 0:
				return errDown
			case 1, 2:
				return store.ErrConflict
			case 3, 4:
				return store.ErrUnknownOutcome
			}
			return nil
		}
		f.after = func(_ store.Batch, err error) error {
			if err == nil && draw(20) == 0 {
				return store.ErrUnknownOutcome
			}
			return nil
		}
	})
}
