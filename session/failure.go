package session

import (
	"context"
	"errors"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// causeWait is how long a store that says it is of no use may take to say why, which needs no I/O.
const causeWait = time.Second

// Failed is closed when the store can no longer be used, because a physical write failed or because it was closed before the
// registry. All connections have been closed by then, with reason unavailable and advice to come back, and one line of level
// Error tells of it. Every call that needs the store returns its error from then on. What is left to do is to close the engine
// and to open it again. A registry that is closed before its store never fails.
func (r *Registry) Failed() <-chan struct{} { return r.failed }

// watchStore waits for the end of the store, and fails the registry unless that was closed first.
func (r *Registry) watchStore() {
	select {
	case <-r.ctx.Done():
		return
	case <-r.st.Failed():
	}
	if r.ctx.Err() != nil { // both have ended: the order was right
		return
	}
	all := r.connections() // one that is still arriving finds out itself; see unserved
	for _, c := range all {
		c.Close(event.ClosedOf(store.ErrFailed))
	}
	close(r.failed)
	err := r.storeError(r.ctx)
	text := "session: the store failed, and all connections were closed"
	if errors.Is(err, store.ErrClosed) {
		text = "session: the store was closed before the engine, and all connections were closed"
	}
	r.log.Error(text, "connections", len(all), "err", err)
}

// storeError returns what the store says why it can no longer be used; nil: it can.
func (r *Registry) storeError(ctx context.Context) error {
	if !storeFailed(r.st) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, causeWait)
	defer cancel()
	if _, err := r.st.Load(ctx, heartAccount); unusable(err) {
		return err
	}
	return store.ErrFailed
}

// storeFailed reports whether the store can no longer be used.
func storeFailed(st store.Store) bool {
	select {
	case <-st.Failed():
		return true
	default:
		return false
	}
}

// unusable reports whether an error says that the store can no longer be used.
func unusable(err error) bool {
	return errors.Is(err, store.ErrFailed) || errors.Is(err, store.ErrClosed)
}
