package transporttest

import (
	"context"
	"sync"
	"time"
)

// gate is a mutex whose holders can wait for changes of what it guards. Waiting holds no lock and blocks on a channel, which
// a synctest bubble counts as durably blocked; a sync.Cond could not be left when a context ends.
type gate struct {
	sync.Mutex
	changed chan struct{}
}

// notifyLocked wakes everybody who waits.
func (g *gate) notifyLocked() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// waitLocked returns a channel that is closed at the next change.
func (g *gate) waitLocked() <-chan struct{} {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed
}

// wait calls ready under the lock, now and after every change, until it reports true. If ready returns a time, it is
// called again then. It returns the cause of ctx's end if that comes first.
func (g *gate) wait(ctx context.Context, ready func() (ok bool, again time.Time)) error {
	for {
		g.Lock()
		ok, again := ready()
		if ok {
			g.Unlock()
			return nil
		}
		changed := g.waitLocked()
		g.Unlock()
		if err := sleep(ctx, changed, nil, again); err != nil {
			return err
		}
	}
}

// sleep waits for a change of either kind, a time (zero: none), or the end of ctx, which is the only error.
func sleep(ctx context.Context, one, other <-chan struct{}, until time.Time) error {
	var due <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-one:
	case <-other:
	case <-due:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
