package main

import (
	"context"
	"fmt"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/manydevice/manydevice/event"
)

// clientsConfig is how the process with the clients is started. Two clients each are devices of one account.
type clientsConfig struct {
	Addr    string
	Clients int
	Every   time.Duration // between two messages of a client
}

// crowd is all clients, and what they are to get of each other.
type crowd struct {
	*clientsConfig
	all  []*client
	stop chan struct{} // closed: no more new messages

	mu   sync.Mutex
	sent map[string]int // clients that have sent a message, by its text; answered ones
}

// live logs all clients in, lets them talk, and reports after the stop of the server.
func (c *clientsConfig) live() error {
	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer end()
	w := &crowd{clientsConfig: c, stop: make(chan struct{}), sent: make(map[string]int)}
	var running sync.WaitGroup
	slots := make(chan struct{}, 64) // logins at once: they are not what is measured
	var logins sync.WaitGroup
	errs := make(chan error, c.Clients)
	for i := range c.Clients {
		cl := newClient(w, i)
		w.all = append(w.all, cl)
		logins.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := cl.login(ctx); err != nil {
				errs <- fmt.Errorf("login: %w", err)
			}
		})
	}
	logins.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	for _, cl := range w.all {
		running.Go(func() { cl.run(ctx) })
		running.Go(func() { cl.talk(ctx) })
	}
	if !w.until(ctx, time.Minute, func(cl *client) bool { return cl.attached() }) {
		return fmt.Errorf("not all clients could attach: %d", w.count(func(cl *client) bool { return cl.attached() }))
	}
	go func() {
		defer end() // the supervisor is gone
		answers(func(question string) any {
			if question == "stopping" {
				for _, cl := range w.all {
					cl.watch()
				}
				return "watching"
			}
			return w.report(ctx)
		})
	}()
	<-ctx.Done()
	running.Wait()
	return nil
}

// until waits until all clients are like that.
func (w *crowd) until(ctx context.Context, limit time.Duration, is func(*client) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for w.count(is) < len(w.all) {
		if pause(ctx, 20*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

func (w *crowd) count(is func(*client) bool) (n int) {
	for _, cl := range w.all {
		if is(cl) {
			n++
		}
	}
	return n
}

// report waits until everyone is back and all messages are where they belong, then says how it was.
func (w *crowd) report(ctx context.Context) *outcome {
	isBack := func(cl *client) bool { return cl.outage() > 0 && cl.attached() }
	w.until(ctx, 2*time.Minute, isBack)
	res := &outcome{Gone: len(w.all) - w.count(isBack)} // which makes the run fail
	_ = pause(ctx, 2*time.Second)                       // what was sent after the start
	close(w.stop)
	w.until(ctx, time.Minute, func(cl *client) bool { return cl.quiet() })
	w.until(ctx, 30*time.Second, func(cl *client) bool { return w.missing(cl) == 0 })
	_ = pause(ctx, 500*time.Millisecond) // a second copy of something
	var outages []float64
	for _, cl := range w.all {
		outages = append(outages, cl.outage().Seconds())
		cl.mu.Lock()
		res.Early, res.NoServer, res.Slow = res.Early+cl.early, res.NoServer+cl.noServer, res.Slow+cl.late
		for _, n := range cl.applied {
			res.Doubled += n - 1
		}
		cl.mu.Unlock()
		res.Lost += w.missing(cl)
	}
	slices.Sort(outages)
	res.P50, res.Max = outages[len(outages)/2], outages[len(outages)-1]
	return res
}

// accepted notes a message that the server has answered for.
func (w *crowd) accepted(text string, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[text] = by
}

// missing returns how many messages a client should have and has not: those to its account, and those of its account's other
// device.
func (w *crowd) missing(cl *client) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for text, by := range w.sent {
		if by != cl.number && (by/2 == cl.number/2 || w.target(by) == cl.number/2) && cl.applied[text] == 0 {
			n++
		}
	}
	return n
}

// target is the account that a client writes to.
func (w *crowd) target(number int) int { return (number/2 + 1 + number%2) % (w.Clients / 2) }

func account(number int) event.Account { return event.Account(fmt.Sprint("account-", number)) }
