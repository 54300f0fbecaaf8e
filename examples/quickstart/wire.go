package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
)

// wire is a client's connection: requests and their answers, and frames of the engine in between. It is safe for
// concurrent use.
type wire struct {
	nc      net.Conn
	onFrame func(event.Frame) // called in order by one goroutine
	done    chan struct{}     // closed when that goroutine ends

	mu      sync.Mutex
	next    uint64
	pending map[string]chan []byte
	err     error // why the connection is over; nil: it is not
}

// errOver: the connection ended before the answer came, so the request may or may not have had its effect.
var errOver = errors.New("connection is over")

// requestError is an error that the server answered.
type requestError struct {
	errorAnswer
	closed *event.Closed // with code ended: how the login ended
}

func (e *requestError) Error() string { return e.Code + ": " + e.Message }

// dial connects. onFrame is called on the goroutine that reads, and must not wait for an answer.
func dial(ctx context.Context, addr string, onFrame func(event.Frame)) (*wire, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	w := &wire{nc: nc, onFrame: onFrame, done: make(chan struct{}), pending: make(map[string]chan []byte)}
	go func() { // close waits for it
		defer close(w.done)
		w.fail(w.read())
	}()
	return w, nil
}

// close ends the connection and waits until no more frames come.
func (w *wire) close() {
	w.fail(errOver)
	<-w.done
}

// fail ends the connection, once, and everything that waits for an answer.
func (w *wire) fail(why error) {
	w.mu.Lock()
	first := w.err == nil
	if first {
		w.err = why
		for _, answer := range w.pending {
			close(answer)
		}
		w.pending = nil
	}
	w.mu.Unlock()
	if first {
		w.nc.Close()
	}
}

// read handles lines until there are no more.
func (w *wire) read() error {
	sc := lines(w.nc, event.MaxFrameBytes+1)
	for sc.Scan() {
		var head envelope
		if err := json.Unmarshal(sc.Bytes(), &head); err != nil {
			return fmt.Errorf("%w: line of the server: %w", errOver, err)
		}
		if head.T == "ok" || head.T == "error" {
			w.answered(head.Ref, sc.Bytes())
			continue
		}
		f, err := event.DecodeFrame(sc.Bytes())
		if err != nil {
			if e, ok := errors.AsType[*event.FrameError](err); ok && e.Fault == event.FaultType {
				continue // of a newer server
			}
			return fmt.Errorf("%w: %w", errOver, err)
		}
		w.onFrame(f)
	}
	return errors.Join(errOver, sc.Err())
}

func (w *wire) answered(ref string, line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if answer, ok := w.pending[ref]; ok {
		answer <- bytes.Clone(line) // there is room: an answer comes once
		delete(w.pending, ref)
	}
}

// call makes a request and waits for its answer. q is a request type of the server or nil, out is filled from the answer
// unless it is nil. An error that the server answered is a *requestError; errOver means that no answer came.
func (w *wire) call(ctx context.Context, t string, q, out any) error {
	answer := make(chan []byte, 1)
	w.mu.Lock()
	if w.err != nil {
		defer w.mu.Unlock()
		return w.err
	}
	w.next++
	ref := strconv.FormatUint(w.next, 10)
	w.pending[ref] = answer
	w.mu.Unlock()
	line, err := requestLine(t, ref, q)
	if err != nil {
		return err
	}
	if err := w.write(line); err != nil {
		return err
	}
	select {
	case line, ok := <-answer:
		if !ok {
			return errOver
		}
		return decodeAnswer(line, out)
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.pending, ref)
		return ctx.Err()
	}
}

// requestLine encodes a request: its fields after type and reference, which q leaves empty.
func requestLine(t, ref string, q any) ([]byte, error) {
	head, err := json.Marshal(envelope{T: t, Ref: ref})
	if err != nil || q == nil {
		return append(head, '\n'), err
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	body = bytes.TrimPrefix(body, []byte(`{"t":""`))
	return append(append(bytes.TrimSuffix(head, []byte{'}'}), body...), '\n'), nil
}

func decodeAnswer(line []byte, out any) error {
	var head envelope
	if err := json.Unmarshal(line, &head); err != nil {
		return err
	}
	if head.T == "ok" {
		if out == nil {
			return nil
		}
		return json.Unmarshal(line, out)
	}
	e := &requestError{}
	if err := json.Unmarshal(line, &e.errorAnswer); err != nil {
		return err
	}
	if e.Closed != nil {
		f, err := event.DecodeFrame(e.Closed)
		if err != nil {
			return err
		}
		e.closed, _ = f.(*event.Closed)
	}
	return e
}

// send sends frames to the engine.
func (w *wire) send(frames ...event.ClientFrame) error {
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = event.AppendClientFrame(b, f); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	return w.write(b)
}

// write writes whole lines. Concurrent calls do not mix: net.Conn writes one at a time.
func (w *wire) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	err := w.nc.SetWriteDeadline(time.Now().Add(writeTime))
	if err == nil {
		_, err = w.nc.Write(b)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errOver, err)
		w.giveUp()
	}
	return err
}

// giveUp ends a connection that cannot be written to, but has what has arrived read first: it may say why.
func (w *wire) giveUp() {
	if err := w.nc.SetReadDeadline(time.Now().Add(drainTime)); err != nil {
		w.fail(errOver)
	}
}
