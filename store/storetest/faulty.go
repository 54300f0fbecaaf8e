package storetest

import (
	"context"
	"slices"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Method names a method of [store.Store].
type Method string

// The methods that faults can be injected into.
const (
	Load          Method = "Load"
	Commit        Method = "Commit"
	Message       Method = "Message"
	Read          Method = "Read"
	States        Method = "States"
	Conversations Method = "Conversations"
	Cursors       Method = "Cursors"
	SaveCursors   Method = "SaveCursors"
	Trim          Method = "Trim"
	Void          Method = "Void"
	Delete        Method = "Delete"
	Accounts      Method = "Accounts"
)

// Fault is what happens to calls of one method.
type Fault struct {
	// Method is the method that is hit. Required.
	Method Method
	// Account, if not empty, spares calls for other accounts. Accounts are those of the method's own argument:
	// Batch.Account for Commit, "after" for Accounts. Message and SaveCursors have none and are never hit by such a fault.
	Account event.Account
	// Skip is how many calls that match are spared first.
	Skip int
	// Times is how many calls are hit then. Zero means one, negative all.
	Times int
	// After lets the call take effect first; what the wrapped store returned is dropped if Err is set. Otherwise the fault
	// comes before any effect.
	After bool
	// Reached, if set, is called when a call is hit, before Wait. Calls of it may overlap.
	Reached func()
	// Wait, if set, holds the call until the channel is closed or the call's context ends; then the call returns the
	// context's error, with or without effect as After says.
	Wait <-chan struct{}
	// Err is what the call returns. Nil: the call goes on as if there were no fault, so that Wait and Reached alone make
	// it slow.
	Err error
}

// LostAnswer is the fault of one call of Commit that takes effect although its caller is told [store.ErrUnknownOutcome].
func LostAnswer() Fault { return Fault{Method: Commit, After: true, Err: store.ErrUnknownOutcome} }

// Faulty is a store that passes everything to another one, but for the faults injected. Its methods are safe for
// concurrent use. It passes on the optional interface [store.Observed].
type Faulty struct {
	inner  store.Store
	failed chan struct{}
	stop   chan struct{} // closed by Close: ends the goroutine of WithFaults
	relay  sync.WaitGroup
	once   sync.Once
	end    func() // closes failed

	mu     sync.Mutex
	faults []*injected
	calls  map[Method]int
	broken bool
}

type injected struct {
	Fault
	skipped, hits int
}

var (
	_ store.Store    = (*Faulty)(nil)
	_ store.Observed = (*Faulty)(nil)
)

// WithFaults wraps a store. It runs one goroutine, which watches the wrapped store's Failed and ends with Close.
func WithFaults(s store.Store) *Faulty {
	f := &Faulty{inner: s, failed: make(chan struct{}), stop: make(chan struct{}), calls: make(map[Method]int)}
	f.end = sync.OnceFunc(func() { close(f.failed) })
	f.relay.Go(func() {
		select {
		case <-s.Failed(): // the wrapped store says why
			f.end()
		case <-f.stop:
		}
	})
	return f
}

// Inject adds a fault. Of several that match a call the first injected is used. Call remove to end it early; calls that
// it holds stay held until their Wait ends.
func (f *Faulty) Inject(fault Fault) (remove func()) {
	i := &injected{Fault: fault}
	if i.Times == 0 {
		i.Times = 1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, i)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults = slices.DeleteFunc(f.faults, func(other *injected) bool { return other == i })
	}
}

// Calls returns how often the method was called so far, whether or not a fault hit it.
func (f *Faulty) Calls(m Method) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[m]
}

// Break makes the store fail for good: Failed is closed, and every method returns [store.ErrFailed]. It may be called
// again.
func (f *Faulty) Break() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = true
	f.end()
}

// hit counts a call and returns the fault that hits it, if any.
func (f *Faulty) hit(m Method, account event.Account) (*Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[m]++
	if f.broken {
		return nil, store.ErrFailed
	}
	for _, i := range f.faults {
		if i.Method != m || i.Account != "" && i.Account != account || i.Times > 0 && i.hits >= i.Times {
			continue
		}
		if i.skipped < i.Skip {
			i.skipped++
			continue
		}
		i.hits++
		return &i.Fault, nil
	}
	return nil, nil
}

// suffer is the part of a fault that its caller waits for.
func (f *Fault) suffer(ctx context.Context) error {
	if f.Reached != nil {
		f.Reached()
	}
	if f.Wait != nil {
		select {
		case <-f.Wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.Err
}

// through makes a call, with the fault that hits it, if any.
func through[T any](ctx context.Context, f *Faulty, m Method, a event.Account, call func() (T, error)) (T, error) {
	var none T
	fault, err := f.hit(m, a)
	if err != nil {
		return none, err
	}
	if fault == nil {
		return call()
	}
	if !fault.After {
		if err := fault.suffer(ctx); err != nil {
			return none, err
		}
		return call()
	}
	result, err := call()
	if err := fault.suffer(ctx); err != nil {
		return none, err
	}
	return result, err
}

// nothing is the result of methods that return an error alone.
type nothing struct{}

// Info implements [store.Store].
func (f *Faulty) Info() store.Info { return f.inner.Info() }

// Claim implements [store.Store]. Faults have no effect on it.
func (f *Faulty) Claim(shared bool) (release func(), err error) { return f.inner.Claim(shared) }

// Stats implements [store.Observed]: it returns those of the wrapped store, or nothing if that has none.
func (f *Faulty) Stats() store.Stats {
	if o, ok := f.inner.(store.Observed); ok {
		return o.Stats()
	}
	return store.Stats{}
}

// Failed implements [store.Store].
func (f *Faulty) Failed() <-chan struct{} { return f.failed }

// Close closes the wrapped store. Faults have no effect on it.
func (f *Faulty) Close(ctx context.Context) error {
	f.once.Do(func() { close(f.stop) })
	f.relay.Wait()
	f.end()
	return f.inner.Close(ctx)
}

// Load implements [store.Store].
func (f *Faulty) Load(ctx context.Context, account event.Account) (store.Record, error) {
	return through(ctx, f, Load, account, func() (store.Record, error) { return f.inner.Load(ctx, account) })
}

// Commit implements [store.Store].
func (f *Faulty) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	return through(ctx, f, Commit, b.Account, func() (store.Result, error) { return f.inner.Commit(ctx, b) })
}

// Message implements [store.Store].
func (f *Faulty) Message(ctx context.Context, id event.MessageID) (store.MessageInfo, error) {
	return through(ctx, f, Message, "", func() (store.MessageInfo, error) { return f.inner.Message(ctx, id) })
}

// Read implements [store.Store].
func (f *Faulty) Read(ctx context.Context, account event.Account, o store.ReadOptions) (store.Page, error) {
	return through(ctx, f, Read, account, func() (store.Page, error) { return f.inner.Read(ctx, account, o) })
}

// States implements [store.Store].
func (f *Faulty) States(ctx context.Context, account event.Account, o store.StateOptions) (store.StatePage, error) {
	return through(ctx, f, States, account, func() (store.StatePage, error) { return f.inner.States(ctx, account, o) })
}

// Conversations implements [store.Store].
func (f *Faulty) Conversations(ctx context.Context, account event.Account, o store.ConversationOptions) (store.ConversationPage, error) {
	return through(ctx, f, Conversations, account, func() (store.ConversationPage, error) {
		return f.inner.Conversations(ctx, account, o)
	})
}

// Cursors implements [store.Store].
func (f *Faulty) Cursors(ctx context.Context, account event.Account) ([]store.Cursor, error) {
	return through(ctx, f, Cursors, account, func() ([]store.Cursor, error) { return f.inner.Cursors(ctx, account) })
}

// SaveCursors implements [store.Store].
func (f *Faulty) SaveCursors(ctx context.Context, cursors []store.Cursor) error {
	_, err := through(ctx, f, SaveCursors, "", func() (nothing, error) {
		return nothing{}, f.inner.SaveCursors(ctx, cursors)
	})
	return err
}

// Trim implements [store.Store].
func (f *Faulty) Trim(ctx context.Context, account event.Account, seq uint64, limit int) (store.Head, error) {
	return through(ctx, f, Trim, account, func() (store.Head, error) { return f.inner.Trim(ctx, account, seq, limit) })
}

// Void implements [store.Store].
func (f *Faulty) Void(ctx context.Context, account event.Account, seqs []uint64) (store.Head, error) {
	return through(ctx, f, Void, account, func() (store.Head, error) { return f.inner.Void(ctx, account, seqs) })
}

// Delete implements [store.Store].
func (f *Faulty) Delete(ctx context.Context, account event.Account, expect store.Revision) error {
	_, err := through(ctx, f, Delete, account, func() (nothing, error) {
		return nothing{}, f.inner.Delete(ctx, account, expect)
	})
	return err
}

// Accounts implements [store.Store].
func (f *Faulty) Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error) {
	return through(ctx, f, Accounts, after, func() ([]event.Account, error) {
		return f.inner.Accounts(ctx, after, limit)
	})
}
