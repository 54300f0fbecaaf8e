package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// standing is how a lease stands.
type standing uint8

const (
	leaseOver   standing = iota // nothing may be served under it
	leaseDoubt                  // only the wall clock says that it is over: nothing may be sent until it was renewed
	leaseServes                 // what was bound under it may be served
)

// standing returns how a lease stands. It ends at the earlier of both clocks.
func (n *nodes) standing(lease uint64) standing {
	if n == nil {
		return leaseServes
	}
	now := n.r.clock.Read()
	switch {
	case lease == 0 || n.epoch.Load() != lease || int64(now.Elapsed) >= n.until.Load():
		return leaseOver
	case now.Now.UnixMilli() >= n.wall.Load():
		return leaseDoubt
	}
	return leaseServes
}

// await returns nil if what was bound under a lease may be served, ErrFenced if not. While that is in doubt it has the lease
// renewed, and waits for what comes of that as long as ctx allows, but not longer than the lease lasts by elapsed time. It
// needs no wait unless the wall clock was set forwards or the machine was suspended.
func (n *nodes) await(ctx context.Context, lease uint64) error {
	for {
		switch n.standing(lease) {
		case leaseServes:
			return nil
		case leaseOver:
			return ErrFenced
		}
		n.mu.Lock()
		renewed := n.renewed
		n.mu.Unlock()
		if n.standing(lease) != leaseDoubt { // it was renewed between the two
			continue
		}
		select {
		case n.soon <- struct{}{}:
		default: // it is about to be
		}
		t := time.NewTimer(time.Duration(n.until.Load()) - n.r.clock.Elapsed())
		select {
		case <-renewed:
		case <-t.C:
		case <-ctx.Done():
		case <-n.r.ctx.Done():
		}
		t.Stop()
		switch {
		case n.r.ctx.Err() != nil:
			return ErrFenced
		case ctx.Err() != nil:
			return fmt.Errorf("session: waiting for the node's lease: %w", ctx.Err())
		}
	}
}

// SendsSince returns since when, as clock.Elapsed, connections could be sent on without a break. Before that the process stood
// still, or it was not certain whether the node still had its lease. It is for fan-out, which ends no connection for time in
// which nothing could be sent; hosts have no use for it.
func (r *Registry) SendsSince() time.Duration {
	n := r.nodes
	switch {
	case n == nil:
		return r.clock.Woke()
	case n.standing(n.epoch.Load()) == leaseDoubt:
		return r.clock.Elapsed()
	}
	return max(r.clock.Woke(), time.Duration(n.sure.Load()))
}

// lease returns the epoch of the node's lease, 0 if it has none.
func (n *nodes) lease(ctx context.Context) uint64 {
	if e := n.epoch.Load(); n.await(ctx, e) == nil {
		return e
	}
	return 0
}

// hold notes that the lease lasts from a moment on, and wakes those who wait to know that.
func (n *nodes) hold(from clock.Reading) {
	if n.standing(n.epoch.Load()) == leaseDoubt {
		n.sure.Store(int64(n.r.clock.Elapsed()))
	}
	n.until.Store(int64(from.Elapsed + n.servedFor()))
	n.wall.Store(from.Now.Add(n.servedFor()).UnixMilli())
	n.wakeWaiting()
}

func (n *nodes) wakeWaiting() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.renewed)
	n.renewed = make(chan struct{})
}

func (n *nodes) acquire() {
	begin := n.r.clock.Read()
	call := n.hostCall("session: no lease", HookLeases, n.r.cfg.HookTimeout)
	l, err := callHost(n.r.ctx, n.r, call, func(ctx context.Context) (store.Lease, error) {
		return n.leases.Acquire(ctx, n.r.cfg.Node, n.life)
	})
	if err != nil { // one that comes after the time-out is not used, and expires
		return
	}
	n.hold(begin)
	n.epoch.Store(l.Epoch)
}

// hostCall is a call that concerns this node.
func (n *nodes) hostCall(text string, hook Hook, limit time.Duration) hostCall {
	return hostCall{text: text, hook: hook, about: slog.String("node", string(n.r.cfg.Node)), limit: limit}
}

// servedFor is how long the node goes on after the beginning of its last renewal that succeeded.
func (n *nodes) servedFor() time.Duration { return n.life / renewsInLife * (renewsInLife - 1) }

// loop keeps the lease. When it is lost, all connections are closed, and a new one is tried for.
func (n *nodes) loop() {
	for {
		wait := reacquire
		if n.epoch.Load() != 0 {
			left := time.Duration(n.until.Load()) - n.r.clock.Elapsed()
			wait = max(min(n.life/renewsInLife-(n.servedFor()-left), left), 0)
			again := min(n.life/renewsInLife/5, max(left, 0))
			if wait == 0 || wait > again && n.standing(n.epoch.Load()) == leaseDoubt { // a renewal is due, or failed
				wait = again
			}
		}
		if !n.rest(wait) {
			return
		}
		switch e := n.epoch.Load(); {
		case e == 0:
			n.acquire()
		case n.standing(e) == leaseOver:
			n.lose(errors.New("it was not renewed in time"))
		default:
			n.renew(e)
		}
	}
}

// sleep waits for a while, and reports whether the registry is still open.
func (n *nodes) sleep(d time.Duration) bool { return pause(n.r.ctx, d) == nil }

// rest is sleep that ends when the lease has to be renewed before its time.
func (n *nodes) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-n.soon:
		return true
	case <-t.C:
		return true
	case <-n.r.ctx.Done():
		return false
	}
}

func (n *nodes) renew(e uint64) {
	begin := n.r.clock.Read()
	call := n.hostCall("session: lease not renewed", HookLeases, time.Duration(n.until.Load())-begin.Elapsed)
	call.quiet = store.ErrLeaseLost
	_, err := callHost(n.r.ctx, n.r, call, func(ctx context.Context) (none, error) {
		return none{}, n.leases.Renew(ctx, store.Lease{Node: n.r.cfg.Node, Epoch: e})
	})
	switch {
	case err == nil:
		n.hold(begin)
	case errors.Is(err, store.ErrLeaseLost):
		n.lose(err)
	}
}

// lose fences and closes all connections: other nodes may take their logins over from now on.
func (n *nodes) lose(err error) {
	n.epoch.Store(0)
	n.wakeWaiting()
	n.r.stats.leasesLost.Add(1)
	all := n.r.connections()
	for _, c := range all {
		c.Close(event.LeaseLost.Closed(0))
	}
	n.r.log.Warn("session: lease lost", "node", string(n.r.cfg.Node), "connections", len(all), trace.Err(err))
}
