package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	machine "github.com/manydevice/manydevice/transport/client"
)

const (
	firstDelay = 500 * time.Millisecond // the growing, random delay of a client that was told nothing
	lastDelay  = 30 * time.Second
	dialWait   = 5 * time.Second
	answerWait = 10 * time.Second
)

// client is one device. It follows the client rule.
type client struct {
	w      *crowd
	number int
	m      *machine.Machine // of run's goroutine

	mu       sync.Mutex
	link     net.Conn      // attached; nil: not
	changed  chan struct{} // closed when link changes
	applied  map[string]int
	waiting  bool                   // for the answer to a message
	answers  map[string]chan string // by client message ID; empty: it was accepted
	watching bool                   // the server is about to stop
	down     time.Time              // when the connection was closed or lost after that; zero: it was not
	out      time.Duration          // until it was attached again
	early    int                    // attaches that a stopping server has refused
	noServer int                    // attempts that found none
	late     int                    // attaches that were put off
}

func newClient(w *crowd, number int) *client {
	return &client{
		w: w, number: number, m: machine.New(machine.State{}, machine.Config{}), changed: make(chan struct{}),
		applied: make(map[string]int), answers: make(map[string]chan string),
	}
}

func (c *client) account() event.Account { return account(c.number / 2) }

func (c *client) attached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil
}

func (c *client) quiet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.waiting
}

// watch begins to measure: the next end of the connection is that of the server.
func (c *client) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching, c.early, c.noServer, c.late = true, 0, 0, 0
	if c.link == nil {
		c.down = time.Now()
	}
}

func (c *client) outage() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out
}

func (c *client) setLink(link net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case link == nil && c.link != nil && c.watching && c.down.IsZero():
		c.down = time.Now()
	case link != nil && !c.down.IsZero() && c.out == 0:
		c.out = time.Since(c.down)
	}
	c.link = link
	close(c.changed)
	c.changed = make(chan struct{})
}

// login gets a login ID and a token.
func (c *client) login(ctx context.Context) error {
	conn, err := dial(ctx, c.w.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := say(conn, request{Op: "login", Account: c.account(), Device: event.DeviceID(fmt.Sprint("device-", c.number%2))}); err != nil {
		return err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return errors.Join(errors.New("no answer"), lines.Err())
	}
	var r reply
	if err := json.Unmarshal(lines.Bytes(), &r); err != nil || r.Op != "login" {
		return fmt.Errorf("refused: %s", lines.Bytes())
	}
	c.m.LoggedIn(r.Login, event.ResumeTokenOf(r.Token))
	return nil
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialWait}).DialContext(ctx, "tcp", addr)
}

func say(conn net.Conn, what any) error {
	line, err := json.Marshal(what)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(line, '\n'))
	return err
}

// run keeps the client connected, as docs/protocol.md asks of clients.
func (c *client) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		conn, err := dial(ctx, c.w.Addr)
		served, why := false, (*event.Closed)(nil)
		if err == nil {
			served, why = c.serve(ctx, conn)
		} else {
			c.note(&c.noServer)
		}
		if served {
			failures = 0
		}
		delay := rand.N(firstDelay/2) + firstDelay/2
		switch {
		case why != nil && why.Retry == event.RetryAfter:
			if !served {
				c.refused(why.Reason)
			}
			failures = 0
			delay = why.After + rand.N(why.After/10+1)
		case why != nil && why.Retry == event.RetryYes && served:
			delay = 0
		default:
			delay = min(delay<<min(failures, 10), lastDelay)
			failures++
		}
		if pause(ctx, delay) != nil {
			return
		}
	}
}

func (c *client) note(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watching {
		*n++
	}
}

func (c *client) refused(why event.Reason) {
	if why == event.Shutdown {
		c.note(&c.early)
	} else {
		c.note(&c.late)
	}
}

// serve is one connection. It reports whether the client was attached, and what it was told at the end.
func (c *client) serve(ctx context.Context, conn net.Conn) (attached bool, why *event.Closed) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	pos := c.m.Attach()
	if say(conn, request{Op: "attach", Account: c.account(), Login: c.m.Login(), Token: c.m.Token().Reveal(), Position: pos}) != nil {
		return false, nil
	}
	defer func() {
		if attached {
			c.setLink(nil)
		}
	}()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if strings.HasPrefix(string(line), `{"op"`) {
			c.answered(line)
			continue
		}
		frame, err := event.DecodeFrame(line)
		if err != nil {
			return attached, nil
		}
		step, err := c.m.Receive(frame)
		if err != nil {
			fmt.Println(err)
			return attached, nil
		}
		c.apply(step.Apply)
		if _, ok := frame.(*event.Welcome); ok {
			attached = true
			c.setLink(conn)
		}
		for _, reply := range c.m.Replies() {
			out, err := event.AppendClientFrame(nil, reply)
			if err != nil {
				return attached, nil
			}
			_, _ = conn.Write(append(out, '\n')) // what is over shows when it is read
		}
		if step.Closed != nil || step.Reattach {
			return attached, step.Closed
		}
	}
	return attached, nil
}

func (c *client) apply(entries []*event.Sealed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		if e.Kind == event.KindMessage {
			c.applied[string(e.Payload)]++
		}
	}
}

func (c *client) answered(line []byte) {
	var r reply
	if json.Unmarshal(line, &r) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.answers[string(r.ID)]; ch != nil {
		select {
		case ch <- r.Error:
		default:
		}
	}
}

// talk sends a message every now and then, each until it is accepted.
func (c *client) talk(ctx context.Context) {
	if pause(ctx, rand.N(c.w.Every)) != nil {
		return
	}
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-c.w.stop:
			return
		default:
		}
		text := fmt.Sprint("m-", c.number, "-", n)
		if c.post(ctx, text) {
			c.w.accepted(text, c.number)
		}
		if pause(ctx, c.w.Every*3/4+rand.N(c.w.Every/2)) != nil {
			return
		}
	}
}

// post sends one message and repeats it until there is an answer.
func (c *client) post(ctx context.Context, text string) bool {
	answer := make(chan string, 1)
	c.mu.Lock()
	c.waiting, c.answers[text] = true, answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.waiting = false
		delete(c.answers, text)
		c.mu.Unlock()
	}()
	for ctx.Err() == nil {
		c.mu.Lock()
		link, changed := c.link, c.changed
		c.mu.Unlock()
		if link != nil {
			_ = say(link, request{Op: "send", ID: event.ClientMessageID(text), To: account(c.w.target(c.number))})
		}
		select {
		case e := <-answer:
			if e == "" {
				return true
			}
			_ = pause(ctx, 200*time.Millisecond)
		case <-changed:
		case <-time.After(answerWait):
		case <-ctx.Done():
		}
	}
	return false
}
