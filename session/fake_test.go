package session_test

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

var errDown = errors.New("the store is down")

// wire is the host's connection. It notes what the engine does with it. The hooks are set before it is attached.
type wire struct {
	onSend  func(ctx context.Context) error
	onClose func(event.Closed) error

	mu     sync.Mutex
	frames []event.Frame
	closed []event.Closed
	bound  []*session.Connection // that it was attached as
	log    *journal              // nil: none
}

// attached notes what the wire was attached as.
func (w *wire) attached(c *session.Connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c != nil {
		w.bound = append(w.bound, c)
	}
}

func (w *wire) Send(ctx context.Context, frames []event.Frame) error {
	w.mu.Lock()
	w.frames = append(w.frames, frames...)
	w.mu.Unlock()
	if w.onSend != nil {
		return w.onSend(ctx)
	}
	return nil
}

func (w *wire) Close(why event.Closed) error {
	w.mu.Lock()
	w.closed = append(w.closed, why)
	w.mu.Unlock()
	w.log.add("close " + string(why.Reason))
	if w.onClose != nil {
		return w.onClose(why)
	}
	return nil
}

// ends returns every Close that there was. Close has its own time: what was fenced is waited for.
func (w *wire) ends() []event.Closed {
	w.mu.Lock()
	bound := slices.Clone(w.bound)
	w.mu.Unlock()
	for _, c := range bound {
		c.AwaitClose(context.Background())
	}
	return w.called()
}

// called is ends that does not wait.
func (w *wire) called() []event.Closed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.closed)
}

// reasons returns the reasons of every Close that there was.
func (w *wire) reasons() []event.Reason {
	var all []event.Reason
	for _, c := range w.ends() {
		all = append(all, c.Reason)
	}
	return all
}

func (w *wire) sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.frames)
}

// journal notes things in the order in which they happen. A nil one notes nothing.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// take returns the lines and begins anew.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.lines
	j.lines = nil
	return lines
}

// faults is a store that fails on demand.
type faults struct {
	store.Store
	failed chan struct{} // closed by break
	hidden bool          // capability Shared is not declared, so that the registry trusts its cache
	crowd  bool          // several registries without leases are let in, which real stores refuse

	mu     sync.Mutex
	before func(store.Batch) error        // an error: Commit does nothing and returns it
	after  func(store.Batch, error) error // what Commit returns in place of what it got
	load   func() error                   // an error: Load returns it
	stall  func(context.Context) error    // the same for Load and Read, which wait as long as it does
	read   func() error                   // an error: Read returns it
	erase  func() error                   // an error: Delete does nothing and returns it
	states func() error                   // an error: States returns it
	beat   func() error                   // an error: Commit of a heartbeat does nothing and returns it
	saves  int                            // calls of Commit that were tried
	claims []func()                       // give the claims back
}

func withFaults(st store.Store) *faults { return &faults{Store: st, failed: make(chan struct{})} }

// set changes the hooks while calls may run.
func (f *faults) set(change func(f *faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// heal takes all hooks out.
func (f *faults) heal() {
	f.set(func(f *faults) {
		f.before, f.after, f.load, f.stall, f.read, f.erase, f.states, f.beat = nil, nil, nil, nil, nil, nil, nil, nil
	})
}

func (f *faults) commits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.saves
}

func (f *faults) Info() store.Info {
	i := f.Store.Info()
	if f.hidden {
		i.Capabilities.Shared = false
	}
	return i
}

// engine is whose register holds the heartbeat, which has faults of its own.
const engine event.Account = "_engine"

func (f *faults) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if b.Account == engine {
		f.mu.Lock()
		hook := f.beat
		f.mu.Unlock()
		if hook != nil {
			if err := hook(); err != nil {
				return store.Result{}, err
			}
		}
		return f.Store.Commit(ctx, b)
	}
	f.mu.Lock()
	f.saves++
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(b); err != nil {
			return store.Result{}, err
		}
	}
	res, err := f.Store.Commit(ctx, b)
	if after != nil {
		if lost := after(b, err); lost != nil {
			return store.Result{}, lost
		}
	}
	return res, err
}

func (f *faults) Load(ctx context.Context, a event.Account) (store.Record, error) {
	f.mu.Lock()
	hook, stall := f.load, f.stall
	f.mu.Unlock()
	if stall != nil {
		if err := stall(ctx); err != nil {
			return store.Record{}, err
		}
	}
	if hook != nil {
		if err := hook(); err != nil {
			return store.Record{}, err
		}
	}
	return f.Store.Load(ctx, a)
}

func (f *faults) Read(ctx context.Context, a event.Account, o store.ReadOptions) (store.Page, error) {
	f.mu.Lock()
	hook, stall := f.read, f.stall
	f.mu.Unlock()
	if stall != nil {
		if err := stall(ctx); err != nil {
			return store.Page{}, err
		}
	}
	if hook != nil {
		if err := hook(); err != nil {
			return store.Page{}, err
		}
	}
	return f.Store.Read(ctx, a, o)
}

func (f *faults) Delete(ctx context.Context, a event.Account, expect store.Revision) error {
	f.mu.Lock()
	hook := f.erase
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	return f.Store.Delete(ctx, a, expect)
}

func (f *faults) States(ctx context.Context, a event.Account, o store.StateOptions) (store.StatePage, error) {
	f.mu.Lock()
	hook := f.states
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return store.StatePage{}, err
		}
	}
	return f.Store.States(ctx, a, o)
}

func (f *faults) Failed() <-chan struct{} { return f.failed }

func (f *faults) Claim(shared bool) (func(), error) {
	if f.crowd {
		return func() {}, nil
	}
	release, err := f.Store.Claim(shared)
	if err == nil {
		f.set(func(f *faults) { f.claims = append(f.claims, release) })
	}
	return release, err
}

// abandon takes the claims of all registries away, as the end of their process would. They are left alone otherwise.
func (f *faults) abandon() {
	f.set(func(f *faults) {
		for _, release := range f.claims {
			release()
		}
		f.claims = nil
	})
}

// once returns a hook that fails the first call with err.
func once(err error) func() error {
	var o sync.Once
	return func() (out error) {
		o.Do(func() { out = err })
		return out
	}
}
