package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

// device is one installed client: its state machine, and what it holds. It is safe for concurrent use, but what opens and
// ends connections is for one goroutine.
type device struct {
	account  event.Account
	id       event.DeviceID
	platform event.Platform
	name     string
	// watch, if set, is told of every step, in order, without a lock held. It must not wait for an answer.
	watch func(*device, client.Step)

	mu      sync.Mutex
	w       *wire
	begun   bool // the open connection was told to attach
	machine *client.Machine
	applied []*event.Sealed // what the app has stored, in order
	lives   []*event.Sealed
	resets  int
	closed  *event.Closed // how the last connection ended
	caught  bool          // the connection has caught up
	fault   error         // a rule of the protocol was broken
	changed chan struct{} // closed at every change
}

func newDevice(account event.Account, id event.DeviceID, platform event.Platform, name string) *device {
	return &device{
		account: account, id: id, platform: platform, name: name,
		machine: client.New(client.State{}, client.Config{}), changed: make(chan struct{}),
	}
}

// String names the device for people.
func (d *device) String() string { return string(d.account) + "'s " + d.name }

// connect opens a connection and authenticates.
func (d *device) connect(ctx context.Context, addr string) error {
	d.drop()
	w, err := dial(ctx, addr, d.receive)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.w, d.begun, d.closed = w, false, nil
	d.mu.Unlock()
	return d.call(ctx, "auth", &authRequest{Account: d.account, Password: passwordOf(d.account)}, nil)
}

// logIn asks for a new login on the open connection.
func (d *device) logIn(ctx context.Context) (loginAnswer, error) {
	var a loginAnswer
	err := d.call(ctx, "login", &loginRequest{Device: d.id, Platform: d.platform, Name: d.String()}, &a)
	if err == nil {
		d.mu.Lock()
		d.machine.LoggedIn(a.Login, a.Token)
		d.mu.Unlock()
	}
	return a, err
}

// attach binds the open connection to the login that the device has.
func (d *device) attach(ctx context.Context) error {
	d.mu.Lock()
	d.begun, d.caught, d.closed = true, false, nil
	q := &attachRequest{Position: d.machine.Attach(), Login: d.machine.Login(), Token: d.machine.Token()}
	d.mu.Unlock()
	return d.call(ctx, "attach", q, nil)
}

// call makes a request on the open connection; see [wire.call].
func (d *device) call(ctx context.Context, t string, q, out any) error {
	d.mu.Lock()
	w := d.w
	d.mu.Unlock()
	if w == nil {
		return errOver
	}
	return w.call(ctx, t, q, out)
}

// enter is connect, login and attach.
func (d *device) enter(ctx context.Context, addr string) (loginAnswer, error) {
	if err := d.connect(ctx, addr); err != nil {
		return loginAnswer{}, err
	}
	a, err := d.logIn(ctx)
	if err != nil {
		return a, err
	}
	return a, d.attach(ctx)
}

// resume is connect and attach.
func (d *device) resume(ctx context.Context, addr string) error {
	if err := d.connect(ctx, addr); err != nil {
		return err
	}
	return d.attach(ctx)
}

// markRead reports how far a conversation was read. The answer is recorded, since the engine does not tell a login what
// it has done itself.
func (d *device) markRead(ctx context.Context, conv event.ConversationID, seq uint64) (readAnswer, error) {
	var a readAnswer
	err := d.call(ctx, "read", &readRequest{Conversation: conv, Seq: seq}, &a)
	if err != nil {
		return a, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range a.States {
		s, err := r.state()
		if err != nil {
			return a, err
		}
		d.machine.Record(s)
	}
	return a, nil
}

// ping gives a sign of life, if there is a connection to give it on.
func (d *device) ping() {
	d.mu.Lock()
	w, attached := d.w, d.begun && d.closed == nil
	d.mu.Unlock()
	if attached {
		_ = w.send(&event.Ping{}) // an error ends the connection, which its reader finds out too
	}
}

// drop ends the connection without a word, as a network does.
func (d *device) drop() {
	d.mu.Lock()
	w := d.w
	d.mu.Unlock()
	if w != nil {
		w.close() // waits for receive, which locks
	}
}

// restart is what the end of the app's process does: only what was saved is left.
func (d *device) restart() error {
	d.drop()
	d.mu.Lock()
	defer d.mu.Unlock()
	file, err := json.Marshal(d.machine.Snapshot())
	if err != nil {
		return err
	}
	var saved client.State
	if err := json.Unmarshal(file, &saved); err != nil {
		return err
	}
	d.machine = client.New(saved, client.Config{})
	return nil
}

// receive handles a frame. It stores what is new together with the machine's state, which here means to keep both, and
// acknowledges only then.
func (d *device) receive(f event.Frame) {
	d.mu.Lock()
	step, replies := d.takeLocked(f)
	w := d.w
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	if w.send(replies...) == nil && d.watch != nil { // else the connection is over, which its reader finds out too
		d.watch(d, step)
	}
}

func (d *device) takeLocked(f event.Frame) (client.Step, []event.ClientFrame) {
	if c, ok := f.(*event.Closed); ok && !d.begun {
		d.closed = c // the server ends a connection that was not attached
		return client.Step{Closed: c}, nil
	}
	step, err := d.machine.Receive(f)
	d.applied = append(d.applied, step.Apply...)
	if step.Live != nil {
		d.lives = append(d.lives, step.Live)
	}
	if step.Reset != nil {
		d.resets++
	}
	if step.Closed != nil {
		d.closed = step.Closed
	}
	d.caught = d.caught || step.CaughtUp
	if err == nil && step.Reattach {
		err = errors.New("frames are missing")
	}
	if d.fault == nil && err != nil {
		d.fault = fmt.Errorf("%s: %w", d, err)
	}
	return step, d.machine.Replies()
}

// await waits until ready, which is called with the device locked, is true.
func (d *device) await(ctx context.Context, ready func() bool) error {
	for {
		d.mu.Lock()
		done, fault, changed := ready(), d.fault, d.changed
		d.mu.Unlock()
		if fault != nil {
			return fault
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s waits in vain: %w", d, ctx.Err())
		}
	}
}

// awaitEntry waits for the first entry that match accepts and returns it.
func (d *device) awaitEntry(ctx context.Context, match func(*event.Sealed) bool) (*event.Sealed, error) {
	var found *event.Sealed
	err := d.await(ctx, func() bool {
		if i := slices.IndexFunc(d.applied, match); i >= 0 {
			found = d.applied[i]
		}
		return found != nil
	})
	return found, err
}

// awaitClosed waits for the closing frame.
func (d *device) awaitClosed(ctx context.Context) (event.Closed, error) {
	var c event.Closed
	err := d.await(ctx, func() bool {
		if d.closed != nil {
			c = *d.closed
		}
		return d.closed != nil
	})
	return c, err
}

// awaitCaughtUp waits until the connection has brought everything that there was when it began.
func (d *device) awaitCaughtUp(ctx context.Context) error {
	return d.await(ctx, func() bool { return d.caught })
}

// count returns how many entries match accepts.
func (d *device) count(match func(*event.Sealed) bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, e := range d.applied {
		if match(e) {
			n++
		}
	}
	return n
}

// login returns the login that the device has.
func (d *device) login() event.LoginID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machine.Login()
}

// sound returns an error unless everything was applied once and in order.
func (d *device) sound() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault != nil {
		return d.fault
	}
	seen := make(map[event.MessageID]bool, len(d.applied))
	var last uint64
	for _, e := range d.applied {
		if e.Seq <= last || seen[e.ID] {
			return fmt.Errorf("%s applied entry %d (%s) out of order or twice", d, e.Seq, e.ID)
		}
		last, seen[e.ID] = e.Seq, true
	}
	if d.resets > 0 {
		return fmt.Errorf("%s was reset %d times", d, d.resets)
	}
	return nil
}
