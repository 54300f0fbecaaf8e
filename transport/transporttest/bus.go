package transporttest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/transport"
)

// BusHarness describes a transport.Bus to [TestBus]. Open is required.
type BusHarness struct {
	// Open returns a bus that loses nothing in the ordinary course. It uses t.Cleanup for what it has to free, and is a fresh one
	// as far as the names of nodes go.
	Open func(t testing.TB) transport.Bus
	// Timeout bounds every single wait for something that is due. Zero means 5 s; from 1 ms to 1 h.
	Timeout time.Duration
}

// TestBus checks that a bus keeps the contract of transport.Bus. Rules are subtests. A bus may lose messages: a rule that
// waits for one publishes it again until it comes.
func TestBus(t *testing.T, h BusHarness) {
	for _, r := range busRules {
		t.Run(r.name, func(t *testing.T) {
			if err := r.run(t, h); err != nil {
				t.Error(err)
			}
		})
	}
}

type busRule struct {
	name  string
	check func(b *busRun) error
}

type busRun struct {
	transport.Bus
	timeout time.Duration
}

func (r busRule) run(t testing.TB, h BusHarness) error {
	if err := bounds.Duration("BusHarness.Timeout", h.Timeout, time.Millisecond, time.Hour, bounds.Zero); err != nil {
		return err
	}
	h.Timeout = cmp.Or(h.Timeout, 5*time.Second)
	b := &busRun{Bus: h.Open(t), timeout: h.Timeout}
	err, hung := within(10*h.Timeout, func() error { return r.check(b) })
	return errors.Join(err, hung)
}

// again is how often a rule repeats what a bus may lose, and short what a rule waits for nothing to happen.
const (
	again = 50 * time.Millisecond
	short = 100 * time.Millisecond
)

var busRules = []busRule{
	{"a message reaches its node and no other", checkPublish},
	{"a request gets its answer", checkRequest},
	{"nobody listens", checkGone},
	{"a name is taken once", checkTaken},
	{"no answer in time", checkNoAnswer},
	{"one message at a time", checkOneAtATime},
	{"the message is the sender's again after the call", checkBytes},
	{"every request gets its own answer", checkManyRequests},
	{"publish from a handler", checkPublishInside},
	{"request from a handler", checkRequestInside},
	{"a handler that asks itself", checkRequestSelf},
	{"two nodes that ask each other", checkCross},
	{"stop waits for a running handler", checkStopWaits},
	{"stop may come twice", checkStopTwice},
}

// bounded returns a context for something that is due.
func (b *busRun) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), b.timeout)
}

// publishUntil publishes again and again until something comes through the channel.
func publishUntil[T any](b *busRun, node event.NodeID, msg string, came <-chan T) (T, error) {
	ctx, cancel := b.bounded()
	defer cancel()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		if err := b.Publish(ctx, node, []byte(msg)); err != nil {
			var zero T
			return zero, fmt.Errorf("publish: %w", err)
		}
		select {
		case v := <-came:
			return v, nil
		case <-tick.C:
		case <-ctx.Done():
			var zero T
			return zero, errors.New("the message does not arrive")
		}
	}
}

// ask requests until the answer comes, as long as the bus says that it does not know.
func (b *busRun) ask(node event.NodeID, msg string) (string, error) {
	ctx, cancel := b.bounded()
	defer cancel()
	for {
		reply, err := b.Request(ctx, node, []byte(msg))
		if err == nil {
			return string(reply), nil
		}
		if ctx.Err() != nil || !errors.Is(err, transport.ErrUnknown) {
			return "", fmt.Errorf("request: %w", err)
		}
	}
}

func (b *busRun) stop(stop func()) error {
	_, hung := within(b.timeout, func() error { stop(); return nil })
	if hung != nil {
		return fmt.Errorf("stop: %w", hung)
	}
	return nil
}

func checkPublish(b *busRun) error {
	one, other := make(chan string, 1000), make(chan string, 1000)
	for node, ch := range map[event.NodeID]chan string{"one": one, "other": other} {
		stop, err := b.Subscribe(node, func(msg []byte) []byte {
			ch <- string(msg)
			return []byte("dropped")
		})
		if err != nil {
			return err
		}
		defer stop()
	}
	for _, want := range []string{"hello", "", "x\x00\xff"} {
		got, err := publishUntil(b, "one", want, one)
		for err == nil && got != want && len(one) > 0 {
			got = <-one // an earlier one, repeated
		}
		if err != nil || got != want {
			return fmt.Errorf("got %q, want %q: %w", got, want, err)
		}
	}
	wait := time.NewTimer(again) // a copy for somebody else may be a little later
	defer wait.Stop()
	select {
	case msg := <-other:
		return fmt.Errorf("another node got %q", msg)
	case <-wait.C:
		return nil
	}
}

func checkRequest(b *busRun) error {
	stop, err := b.Subscribe("n", func(msg []byte) []byte {
		if len(msg) == 0 {
			return nil
		}
		return append([]byte("re: "), msg...)
	})
	if err != nil {
		return err
	}
	defer stop()
	for msg, want := range map[string]string{"hello": "re: hello", "": ""} {
		if got, err := b.ask("n", msg); err != nil || got != want {
			return fmt.Errorf("got %q, want %q: %w", got, want, err)
		}
	}
	return nil
}

func checkGone(b *busRun) error {
	gone := func(when string) error {
		ctx, cancel := b.bounded()
		defer cancel()
		start := time.Now()
		_, err := b.Request(ctx, "nobody", []byte("x"))
		if !errors.Is(err, transport.ErrGone) || time.Since(start) >= b.timeout {
			return fmt.Errorf("%s: got %w, want ErrGone before the context ends", when, err)
		}
		_, hung := within(b.timeout, func() error { return b.Publish(ctx, "nobody", []byte("x")) })
		return hung
	}
	if err := gone("never subscribed"); err != nil {
		return err
	}
	stop, err := b.Subscribe("nobody", func([]byte) []byte { return []byte("here") })
	if err != nil {
		return err
	}
	if _, err := b.ask("nobody", "x"); err != nil {
		return err
	}
	if err := b.stop(stop); err != nil {
		return err
	}
	return gone("after stop")
}

func checkTaken(b *busRun) error {
	stop, err := b.Subscribe("n", func([]byte) []byte { return []byte("first") })
	if err != nil {
		return err
	}
	if second, err := b.Subscribe("n", func([]byte) []byte { return []byte("second") }); !errors.Is(err, transport.ErrTaken) {
		if err == nil {
			second()
		}
		return fmt.Errorf("got %w, want ErrTaken", err)
	}
	if got, err := b.ask("n", ""); err != nil || got != "first" {
		return fmt.Errorf("the first one answers %q: %w", got, err)
	}
	if err := b.stop(stop); err != nil {
		return err
	}
	stop, err = b.Subscribe("n", func([]byte) []byte { return []byte("second") })
	if err != nil {
		return fmt.Errorf("the name is not free after stop: %w", err)
	}
	defer stop()
	if got, err := b.ask("n", ""); err != nil || got != "second" {
		return fmt.Errorf("the second one answers %q: %w", got, err)
	}
	return nil
}

func checkNoAnswer(b *busRun) error {
	release := make(chan struct{})
	stop, err := b.Subscribe("n", func([]byte) []byte { <-release; return nil })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), short)
	defer cancel()
	err, hung := within(b.timeout, func() error {
		_, err := b.Request(ctx, "n", []byte("x"))
		return err
	})
	close(release)
	if stopped := b.stop(stop); stopped != nil {
		return stopped
	}
	if hung != nil || !errors.Is(err, transport.ErrUnknown) {
		return fmt.Errorf("got %w, want ErrUnknown when the context ends", errors.Join(err, hung))
	}
	return nil
}

func checkOneAtATime(b *busRun) error {
	var running, most, calls atomic.Int64
	stop, err := b.Subscribe("n", func([]byte) []byte {
		most.Store(max(most.Load(), running.Add(1)))
		calls.Add(1)
		timer := time.NewTimer(time.Millisecond)
		<-timer.C
		running.Add(-1)
		return nil
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 4 {
				_, _ = b.ask("n", "x")
			}
		})
	}
	wg.Wait()
	if err := b.stop(stop); err != nil {
		return err
	}
	if most.Load() != 1 || calls.Load() == 0 {
		return fmt.Errorf("%d handlers at once in %d calls, want 1", most.Load(), calls.Load())
	}
	return nil
}

func checkBytes(b *busRun) error {
	release, got := make(chan struct{}), make(chan string, 1000)
	stop, err := b.Subscribe("n", func(msg []byte) []byte {
		<-release
		got <- string(msg)
		return nil
	})
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := b.bounded()
	defer cancel()
	msg := []byte("before")
	for range 3 {
		if err := b.Publish(ctx, "n", msg); err != nil {
			close(release)
			return err
		}
	}
	copy(msg, "after!")
	close(release)
	select {
	case s := <-got:
		if !bytes.Equal([]byte(s), []byte("before")) {
			return fmt.Errorf("the node got %q", s)
		}
	case <-ctx.Done():
		return errors.New("none of three messages arrived")
	}
	return nil
}
