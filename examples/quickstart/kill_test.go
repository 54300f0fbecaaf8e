package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// child is the server as a process of its own, which can be killed.
type child struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	out  *os.File
	addr string        // once first has returned
	dead chan struct{} // closed just before it is killed

	there chan struct{} // one for each client that is ready
}

func startChild(t *testing.T, db string) *child {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	c := &child{cmd: exec.Command(exe), out: r, dead: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), serveFile+"="+db)
	c.cmd.Stdout, c.cmd.Stderr = w, &c.log
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil { // the test has failed
			c.cmd.Process.Kill()
			c.cmd.Wait()
		}
	})
	require.NoError(t, w.Close())
	return c
}

// first waits for the address, which is the first line.
func (c *child) first(t *testing.T) {
	t.Helper()
	require.NoError(t, c.out.SetReadDeadline(time.Now().Add(20*time.Second)))
	sc := lines(c.out, 1024)
	require.True(t, sc.Scan(), "no address: %v", sc.Err())
	c.addr = sc.Text()
}

// kill kills it as kill -9 does, and checks that it has not ended by itself.
func (c *child) kill(t *testing.T) {
	t.Helper()
	close(c.dead)
	require.NoError(t, c.cmd.Process.Kill())
	err := c.cmd.Wait()
	require.NoError(t, c.out.Close())
	require.EqualError(t, err, "signal: killed", c.log.String())
}

// wait waits until so many clients are ready.
func (c *child) wait(t *testing.T, clients int) {
	t.Helper()
	late := time.After(20 * time.Second)
	for range clients {
		select {
		case <-c.there:
		case <-late:
			require.Fail(t, "clients do not attach")
		}
	}
}

// world is what the test knows of the server's accounts.
type world struct {
	t       *testing.T
	rng     *rand.Rand // for the test's own goroutine
	db      string
	writers []*writer
	churn   *churner

	mu     sync.Mutex
	ledger []acknowledged
	again  int // sends that were repeated because their answer was lost
	known  int // of these: those that had been accepted
}

// acknowledged is a send that the server has accepted.
type acknowledged struct {
	by     *writer
	q      sendRequest
	answer sendAnswer
}

// TestKilledServer kills the server while clients send, mark as read, log in and kick, opens the file again, and so on.
// What was answered must be there afterwards, and what was not answered is asked for again until it is.
func TestKilledServer(t *testing.T) {
	kills := 90
	if testing.Short() {
		kills = 8
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 1)))
	for range kills {
		c := startChild(t, w.db)
		if w.rng.IntN(8) == 0 { // while it opens the file
			pause(t.Context(), time.Duration(w.rng.IntN(20_000))*time.Microsecond)
			c.kill(t)
			continue
		}
		c.first(t)
		var wg sync.WaitGroup
		c.there = make(chan struct{}, len(w.writers)+1)
		for _, a := range w.writers {
			wg.Go(func() { w.turn(c, a.d, a.work) })
		}
		wg.Go(func() { w.turn(c, w.churn.control, w.churn.work) })
		if w.rng.IntN(3) > 0 { // else while they attach
			c.wait(t, len(w.writers)+1)
		}
		most := 75_000
		if w.rng.IntN(4) == 0 {
			most = 250_000
		}
		pause(t.Context(), time.Duration(5_000+w.rng.IntN(most))*time.Microsecond)
		c.kill(t)
		wg.Wait()
		require.False(t, t.Failed())
	}
	t.Logf("%d kills, %d sends, %d of them repeated, of which %d had been accepted, %d ends of logins",
		kills, len(w.ledger), w.again, w.known, len(w.churn.ended))
	require.Greater(t, len(w.ledger), kills, "there was traffic")
	w.settle()
}

func newWorld(t *testing.T, rng *rand.Rand) *world {
	t.Helper()
	w := &world{t: t, rng: rng, db: filepath.Join(t.TempDir(), "chat.db")}
	c := startChild(t, w.db)
	c.first(t)
	for i, to := range []sendRequest{{To: "bob"}, {Group: "weekend"}, {}, {To: "ann"}, {Group: "weekend"}, {To: "ann"}} {
		account := event.Account("ann")
		if i >= 3 {
			account = "bob"
		}
		d := newDevice(account, event.DeviceID("d"+strconv.Itoa(i)), "ios", "device "+strconv.Itoa(i))
		if i == 5 {
			d.platform = "web"
		}
		a := &writer{w: w, d: d, to: to, rng: rand.New(rand.NewPCG(rng.Uint64(), uint64(i))), read: make(map[event.ConversationID]uint64)}
		_, err := d.enter(t.Context(), c.addr)
		require.NoError(t, err)
		w.writers = append(w.writers, a)
	}
	w.writers[2].to.Logins = []event.LoginID{w.writers[0].d.login()} // one device to one other
	w.churn = newChurner(w, rand.New(rand.NewPCG(rng.Uint64(), 99)))
	_, err := w.churn.control.enter(t.Context(), c.addr)
	require.NoError(t, err)
	c.kill(t)
	t.Cleanup(func() {
		for _, a := range w.writers {
			a.d.drop()
		}
		w.churn.control.drop()
	})
	return w
}

// turn lets a client work until the server is dead. Everything but its death is an error.
func (w *world) turn(c *child, d *device, work func(context.Context, *child) error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	err := work(ctx, c)
	_, answered := errors.AsType[*requestError](err)
	if !isClosed(c.dead) || answered || ctx.Err() != nil || errors.Is(err, errWrong) {
		w.t.Errorf("%s: %v", d, err)
	}
	d.drop()
	if err := d.sound(); err != nil {
		w.t.Error(err)
	}
}

// errWrong: the server answered something else than it must.
var errWrong = errors.New("wrong")

// writer is a client that sends, and marks as read.
type writer struct {
	w    *world
	d    *device
	to   sendRequest
	rng  *rand.Rand
	n    int
	open *sendRequest                    // sent, and not yet answered
	read map[event.ConversationID]uint64 // marks that were answered, or are asked for
}

// come attaches again in one of the ways in which clients do.
func (a *writer) come(ctx context.Context, addr string) error {
	if a.rng.IntN(3) == 0 {
		if err := a.d.restart(); err != nil {
			return err
		}
	}
	if a.rng.IntN(3) > 0 {
		return a.d.resume(ctx, addr)
	}
	// Without its position, so that the server's cursor counts, which may be older.
	if err := a.d.connect(ctx, addr); err != nil {
		return err
	}
	a.d.mu.Lock()
	a.d.begun, a.d.caught, a.d.closed = true, false, nil
	a.d.machine.Attach()
	q := &attachRequest{Login: a.d.machine.Login(), Token: a.d.machine.Token().Reveal()}
	a.d.mu.Unlock()
	return a.d.call(ctx, "attach", q, nil)
}

func (a *writer) work(ctx context.Context, c *child) error {
	if err := a.come(ctx, c.addr); err != nil {
		return err
	}
	c.there <- struct{}{}
	for range 18 { // the whole test stays below what an inbox keeps
		var err error
		if a.open == nil && a.rng.IntN(5) == 0 {
			err = a.mark(ctx)
		} else {
			err = a.send(ctx)
		}
		if err != nil {
			return err
		}
		pause(ctx, time.Duration(a.rng.IntN(3_000))*time.Microsecond)
	}
	select {
	case <-a.d.w.done: // enough for this turn
		return errOver
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send makes the open request, which is a new one unless the answer to the last was lost.
func (a *writer) send(ctx context.Context) error {
	again := a.open != nil
	if !again {
		a.n++
		q := a.to
		q.Text = fmt.Sprintf("%s/%d", a.d.id, a.n)
		q.ClientID = event.ClientMessageID(q.Text)
		a.open = &q
	}
	var answer sendAnswer
	if err := a.d.call(ctx, "send", a.open, &answer); err != nil {
		return err
	}
	if answer.Duplicate && !again {
		return fmt.Errorf("%w: %s is taken for a repetition", errWrong, a.open.Text)
	}
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if again {
		a.w.again++
	}
	if answer.Duplicate {
		a.w.known++
	}
	a.w.ledger = append(a.w.ledger, acknowledged{by: a, q: *a.open, answer: answer})
	a.open = nil
	return nil
}

// mark marks the newest message as read, or one that came before: that must not move the mark back.
func (a *writer) mark(ctx context.Context) error {
	messages := slices.DeleteFunc(a.d.entries(), func(e *event.Sealed) bool { return !isMessage(e) })
	if len(messages) == 0 {
		return nil
	}
	e := messages[a.rng.IntN(len(messages))]
	before := a.read[e.Conversation]
	answer, err := a.d.markRead(ctx, e.Conversation, e.Seq)
	if err != nil {
		return err
	}
	if answer.Seq < before || answer.Seq < e.Seq {
		return fmt.Errorf("%w: I1, I16: mark at %d, but %d and %d were answered", errWrong, answer.Seq, before, e.Seq)
	}
	a.read[e.Conversation] = answer.Seq
	return nil
}

func isMessage(e *event.Sealed) bool { return e.Kind == event.KindMessage }
