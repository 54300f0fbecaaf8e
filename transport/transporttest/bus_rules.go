package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

func checkManyRequests(b *busRun) error {
	for _, node := range []event.NodeID{"one", "other"} {
		stop, err := b.Subscribe(node, func(msg []byte) []byte { return append([]byte(node+" "), msg...) })
		if err != nil {
			return err
		}
		defer stop()
	}
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 64 {
		wg.Go(func() {
			node := []event.NodeID{"one", "other"}[i%2]
			want := fmt.Sprintf("%s %d", node, i)
			if got, err := b.ask(node, fmt.Sprint(i)); err != nil || got != want {
				errs <- fmt.Errorf("got %q, want %q: %w", got, want, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func checkPublishInside(b *busRun) error {
	came := make(chan string, 1000)
	stop, err := b.Subscribe("n", func(msg []byte) []byte {
		if string(msg) == "inner" {
			came <- "inner"
			return nil
		}
		ctx, cancel := b.bounded()
		defer cancel()
		if err := b.Publish(ctx, "n", []byte("inner")); err != nil { // to itself
			came <- err.Error()
		}
		return nil
	})
	if err != nil {
		return err
	}
	got, err := publishUntil(b, "n", "outer", came)
	if err != nil {
		return err // stop could hang as well
	}
	if got != "inner" {
		return fmt.Errorf("publish from a handler: %s", got)
	}
	return b.stop(stop)
}

func checkRequestInside(b *busRun) error {
	stopB, err := b.Subscribe("b", func(msg []byte) []byte { return append(msg, 'b') })
	if err != nil {
		return err
	}
	defer stopB()
	stopA, err := b.Subscribe("a", func(msg []byte) []byte {
		reply, err := b.ask("b", string(msg)+"a")
		if err != nil {
			return []byte(err.Error())
		}
		return []byte(reply)
	})
	if err != nil {
		return err
	}
	defer stopA()
	if got, err := b.ask("a", "x"); err != nil || got != "xab" {
		return fmt.Errorf("got %q, want %q: %w", got, "xab", err)
	}
	return nil
}

// checkRequestSelf: since a node handles one message at a time, a handler that asks its own node gets no answer. It must
// not hang beyond its context, and the node must go on.
func checkRequestSelf(b *busRun) error {
	inner := make(chan error, 1000)
	stop, err := b.Subscribe("n", func(msg []byte) []byte {
		if string(msg) != "outer" {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), short)
		defer cancel()
		_, err := b.Request(ctx, "n", []byte("inner"))
		inner <- err
		return []byte("done")
	})
	if err != nil {
		return err
	}
	got, err := b.ask("n", "outer")
	if err != nil || got != "done" {
		return fmt.Errorf("the outer request got %q: %w", got, err)
	}
	if err := <-inner; !errors.Is(err, transport.ErrUnknown) {
		return fmt.Errorf("the inner request got %w, want ErrUnknown", err)
	}
	return b.stop(stop)
}

func checkCross(b *busRun) error {
	busy := map[event.NodeID]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
	var stops []func()
	for node, peer := range map[event.NodeID]event.NodeID{"a": "b", "b": "a"} {
		enter := sync.OnceFunc(func() { close(busy[node]) })
		stop, err := b.Subscribe(node, func(msg []byte) []byte {
			if string(msg) != "outer" {
				return nil
			}
			enter()
			select { // ask only when the other one is busy, too
			case <-busy[peer]:
			case <-time.After(b.timeout):
			}
			ctx, cancel := context.WithTimeout(context.Background(), short)
			defer cancel()
			_, err := b.Request(ctx, peer, []byte("inner"))
			if err != nil && !errors.Is(err, transport.ErrUnknown) {
				return []byte(err.Error())
			}
			return []byte("done")
		})
		if err != nil {
			return err
		}
		stops = append(stops, stop)
	}
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for _, node := range []event.NodeID{"a", "b"} {
		wg.Go(func() {
			if got, err := b.ask(node, "outer"); err != nil || got != "done" {
				errs <- fmt.Errorf("%s answers %q: %w", node, got, err)
			}
		})
	}
	wg.Wait()
	for _, stop := range stops {
		if err := b.stop(stop); err != nil {
			return err
		}
	}
	close(errs)
	return <-errs
}

func checkStopWaits(b *busRun) error {
	entered, release := make(chan struct{}, 1000), make(chan struct{})
	var running atomic.Bool
	stop, err := b.Subscribe("n", func([]byte) []byte {
		running.Store(true)
		defer running.Store(false)
		entered <- struct{}{}
		<-release
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := publishUntil(b, "n", "x", entered); err != nil {
		close(release)
		return err
	}
	stopped := make(chan bool, 1)
	go func() {
		stop()
		stopped <- running.Load()
	}()
	select {
	case <-stopped:
		close(release)
		return errors.New("stop returned while the handler ran")
	case <-time.After(short):
	}
	close(release)
	still, hung := within(b.timeout, func() bool { return <-stopped })
	if hung != nil {
		return fmt.Errorf("stop: %w", hung)
	}
	if still {
		return errors.New("stop returned while the handler ran")
	}
	n := len(entered)
	ctx, cancel := context.WithTimeout(context.Background(), short)
	defer cancel()
	_, _ = b.Request(ctx, "n", nil)
	if len(entered) > n {
		return errors.New("the handler is called after stop")
	}
	return nil
}

func checkStopTwice(b *busRun) error {
	stop, err := b.Subscribe("n", func([]byte) []byte { return nil })
	if err != nil {
		return err
	}
	if err := b.stop(stop); err != nil {
		return err
	}
	again, err := b.Subscribe("n", func([]byte) []byte { return []byte("second") })
	if err != nil {
		return err
	}
	if err := b.stop(stop); err != nil { // must not end the new one
		return err
	}
	if got, err := b.ask("n", ""); err != nil || got != "second" {
		return fmt.Errorf("a late second stop ended the next subscriber, which answers %q: %w", got, err)
	}
	return b.stop(again)
}
