package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// connRules are in the order in which a host is likely to get them right.
var connRules = []connRule{
	{"every kind of frame arrives as it was sent", checkKinds},
	{"frames arrive in order over Sends and batches", checkOrder},
	{"an empty batch is no error", func(c *connRun) error { return c.send() }},
	{"frames are the engine's again after Send", checkReuse},
	{"big frames arrive whole", checkBig},
	{"Send with an ended context returns an error", checkEndedContext},
	{"Send returns when its context ends", checkDeadline},
	{"Send returns when its context is cancelled", checkCancel},
	{"Close makes a running Send return", checkCloseReleases},
	{"Close ends the connection for the device", checkClose},
	{"Send after Close returns an error", checkSendAfterClose},
	{"Send after the device is gone returns an error", checkSendAfterHangup},
	{"Close after the device is gone returns", checkCloseAfterHangup},
	{"Close and Send at the same moment", checkCloseAndSend},
	{"optional powers", checkPowers},
	{"an entry that the client cannot take is skipped", checkSkip},
	{"a queue holds a whole batch", checkBatch},
	{"a full queue takes nothing of a batch and says when it has room", checkFull},
}

func sum(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

func testData(prev uint64, payload []byte) *event.Data {
	return &event.Data{Epoch: 1, Prev: prev, Seq: prev + 1, Entries: []*event.Sealed{testEntry(prev+1, payload)}}
}

func testEntry(seq uint64, payload []byte) *event.Sealed {
	return event.Seal(event.Entry{
		Seq: seq, Kind: event.KindMessage, Conversation: "conversation", ID: event.MessageID(fmt.Sprintf("m%025d", seq)),
		From: "ann", Time: time.UnixMilli(1_700_000_000_000).UTC(), Payload: payload,
	})
}

func checkKinds(c *connRun) error {
	pos := event.Position{Epoch: 1<<63 + 1, Seq: 1<<63 + 7} // numbers that a float64 cannot hold
	login, token := event.LoginID(strings.Repeat("a", 32)), event.ResumeTokenOf(strings.Repeat("b", 52))
	frames := []event.Frame{
		&event.Welcome{Login: login, Position: pos, Head: pos.Seq, Token: token},
		&event.Welcome{Login: login, Position: pos, Head: pos.Seq},
		&event.Reset{Reason: event.ResetTrimmed, From: pos, To: pos},
		&event.StatePage{Epoch: pos.Epoch, More: true, States: []event.State{
			{Conversation: "c", Name: event.StateRead, Number: 1<<63 + 3, Seq: 1<<63 + 5},
			{Conversation: "d é", Name: "x", Value: []byte{0, 0xff, '"'}, Seq: 2},
		}},
		&event.StatePage{Epoch: pos.Epoch},
		&event.Data{Epoch: pos.Epoch, Prev: pos.Seq, Seq: pos.Seq + 9, Redelivered: true, Entries: []*event.Sealed{
			testEntry(pos.Seq+1, []byte("text")), testEntry(pos.Seq+3, []byte{0, 0xff, '\n'}), testEntry(pos.Seq+8, nil),
		}},
		&event.Data{Epoch: pos.Epoch, Prev: pos.Seq + 9, Seq: pos.Seq + 10},
		&event.CaughtUp{Position: pos},
		&event.Live{Event: event.Seal(event.Entry{Kind: event.KindTyping, Conversation: "c", From: "bob", Time: time.UnixMilli(1_700_000_000_000).UTC()})},
		&event.Pong{Nonce: "nonce"},
	}
	return c.deliver(frames...)
}

func checkOrder(c *connRun) error {
	const n = 300
	var frames []event.Frame
	for i := range uint64(n) {
		frames = append(frames, testData(i, fmt.Appendf(nil, "message %d", i)))
	}
	sent := make(chan error, 1)
	go func() {
		for i, size := 0, 1; i < n; i, size = i+size, size%64+7 {
			if err := c.send(frames[i:min(n, i+size)]...); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	err := c.expect(frames...)
	if err != nil {
		return err
	}
	return <-sent
}

func checkReuse(c *connRun) error {
	state := event.State{Conversation: "c", Name: "x", Value: []byte("before"), Seq: 1}
	welcome := &event.Welcome{Login: event.LoginID(strings.Repeat("a", 32)), Head: 1}
	data := testData(0, []byte("before"))
	page := &event.StatePage{Epoch: 1, States: []event.State{state}}
	batch := []event.Frame{welcome, page, data}
	want := []event.Frame{Copy(welcome), Copy(page), Copy(data)}
	got := make(chan []event.Frame, 1)
	read := sync.OnceFunc(func() {
		go func() { got <- c.receiveSome(len(want)) }()
	})
	lazy := time.AfterFunc(stall, read) // only if there is no buffer: a frame in one may still be the engine's own
	err := c.send(batch...)
	lazy.Stop()
	if err != nil {
		return err
	}
	welcome.Head = 99
	page.Epoch, page.States[0].Name = 99, "after"
	copy(page.States[0].Value, "after!")
	data.Prev, data.Seq, data.Epoch = 98, 99, 99
	data.Entries[0] = testEntry(99, []byte("after"))
	clear(batch)
	read()
	frames := <-got // those that came before were not looked at yet
	if len(frames) < len(want) {
		return fmt.Errorf("%d of %d frames arrive", len(frames), len(want))
	}
	for i, f := range frames {
		if describe(f) != describe(want[i]) {
			return fmt.Errorf("got %s, want %s", describe(f), describe(want[i]))
		}
	}
	return nil
}

func checkBig(c *connRun) error {
	big := make([]byte, 64<<10) // the largest message by default
	for i := range big {
		big[i] = byte(i * 31)
	}
	var entries []*event.Sealed
	for i := range uint64(16) { // a full window of them
		entries = append(entries, testEntry(i+1, big))
	}
	frames := []event.Frame{
		&event.Data{Epoch: 1, Prev: 0, Seq: 16, Entries: entries}, testData(16, bytes.Repeat([]byte("x"), 64<<10)),
	}
	return c.deliver(frames...)
}

func checkEndedContext(c *connRun) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := c.sendContext(ctx, testData(0, nil))
	switch {
	case errors.Is(err, errHung):
		return err
	case err == nil:
		return errors.New("no error")
	}
	return nil
}

// enough is how much a device that does not read may leave under way before Send has to wait, and stall how long a Send
// takes that counts as waiting.
const (
	enough = 64 << 20
	stall  = 200 * time.Millisecond
)

func checkDeadline(c *connRun) error {
	if c.h.NoBackpressure {
		return nil
	}
	payload := make([]byte, 64<<10)
	ended := false // a context has: of this Send, or of one that was done at that very moment
	for i := range uint64(enough / len(payload)) {
		ctx, cancel := context.WithTimeout(context.Background(), stall)
		err := c.sendContext(ctx, testData(i, payload))
		ended = ended || ctx.Err() != nil
		cancel()
		switch {
		case errors.Is(err, errHung):
			return err
		case err != nil && !ended:
			return fmt.Errorf("before the context ended: %w", err)
		case err != nil:
			return nil
		}
	}
	return fmt.Errorf("Send did not wait for a device that reads nothing, after %d bytes; declare NoBackpressure if that is meant", enough)
}

// checkCancel is about what the engine does: its contexts have no deadlines, and are cancelled.
func checkCancel(c *connRun) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return c.blockedSendReturns(ctx, func() error { cancel(); return nil })
}

func checkCloseReleases(c *connRun) error {
	return c.blockedSendReturns(context.Background(), func() error { return c.close(event.Slow.Closed(0)) })
}

// blockedSendReturns sends to a device that reads nothing until a Send waits, and then calls end, which makes that Send return
// with an error.
func (c *connRun) blockedSendReturns(ctx context.Context, end func() error) error {
	if c.h.NoBackpressure {
		return nil
	}
	var sends atomic.Int64
	ended := make(chan error, 1)
	payload := make([]byte, 64<<10)
	go func() {
		for i := range uint64(enough / len(payload)) {
			if err := c.conn.Send(ctx, []event.Frame{testData(i, payload)}); err != nil {
				ended <- err
				return
			}
			sends.Add(1)
		}
		ended <- nil
	}()
	tick := time.NewTicker(stall)
	defer tick.Stop()
	for last := int64(-1); last != sends.Load(); <-tick.C {
		last = sends.Load()
	}
	select {
	case err := <-ended:
		return fmt.Errorf("Send did not wait for a device that reads nothing, and ended with %v", err)
	default:
	}
	if err := end(); err != nil {
		return err
	}
	err, hung := within(c.h.Timeout, func() error { return <-ended })
	switch {
	case hung != nil:
		return fmt.Errorf("send: %w", hung)
	case err == nil:
		return errors.New("Send returned no error")
	}
	return nil
}

func checkClose(c *connRun) error {
	why := event.EvictedQuota.Closed(0)
	why.Note, why.Cause = "a word", &event.Cause{Login: event.LoginID(strings.Repeat("a", 32)), Device: "d", Platform: "ios", Name: "Phone é"}
	if err := c.deliver(&event.Pong{Nonce: "first"}); err != nil {
		return err
	}
	var last event.Frame
	ended := make(chan error, 1)
	go func() { // at the same time: a connection may have no buffer at all
		var err error
		last, err = c.end()
		ended <- err
	}()
	if err := c.close(why); err != nil {
		return err
	}
	if err := <-ended; err != nil || c.h.NoReason {
		return err
	}
	if last == nil || describe(last) != describe(&why) {
		return fmt.Errorf("the last frame is %s, want %s; declare NoReason if the device is not told", describe(last), describe(&why))
	}
	return nil
}

func checkSendAfterClose(c *connRun) error {
	if err := c.close(event.Shutdown.Closed(time.Second)); err != nil {
		return err
	}
	err := c.send(&event.Pong{Nonce: "late"})
	switch {
	case errors.Is(err, errHung):
		return err
	case err == nil:
		return errors.New("no error")
	}
	return nil
}

// checkSendAfterHangup allows for a network that takes a while to notice.
func checkSendAfterHangup(c *connRun) error {
	c.peer.Hangup()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(c.h.Timeout); time.Now().Before(end); <-tick.C {
		err := c.send(testData(0, make([]byte, 64<<10)))
		switch {
		case errors.Is(err, errHung):
			return err
		case err != nil:
			return nil
		}
	}
	return errors.New("no error")
}

func checkCloseAfterHangup(c *connRun) error {
	c.peer.Hangup()
	return c.close(event.Lost.Closed(0))
}

func checkCloseAndSend(c *connRun) error {
	var wg sync.WaitGroup
	begun := make(chan struct{})
	ended := make(chan error, 1)
	wg.Go(func() { // the device reads all the time
		for {
			if _, err := c.receive(); err != nil {
				return
			}
		}
	})
	wg.Go(func() {
		for i := range uint64(1 << 20) {
			if i == 10 {
				close(begun)
			}
			if err := c.send(testData(i, []byte("x"))); err != nil {
				if i < 10 {
					close(begun)
				}
				ended <- err
				return
			}
		}
		ended <- nil
	})
	<-begun
	if err := c.close(event.Replaced.Closed(0)); err != nil {
		return err
	}
	err, hung := within(c.h.Timeout, func() error { return <-ended })
	switch {
	case hung != nil || errors.Is(err, errHung):
		return fmt.Errorf("send: %w", errHung)
	case err == nil:
		return errors.New("Send goes on after Close")
	}
	_, hung = within(2*c.h.Timeout, func() error { wg.Wait(); return nil })
	return hung
}

func checkPowers(c *connRun) error {
	if a, ok := c.conn.(transport.RemoteAddresser); ok {
		if one, other := a.RemoteAddr(), a.RemoteAddr(); one != other {
			return fmt.Errorf("RemoteAddr is %q, then %q", one, other)
		}
	}
	n, ok := c.conn.(transport.NonBlocker)
	if !ok || !n.NonBlocking() {
		return nil
	}
	start := time.Now()
	for i := range uint64(1000) {
		err := c.send(testData(i, make([]byte, 1<<10)))
		if errors.Is(err, errHung) || time.Since(start) > c.h.Timeout {
			return errors.New("NonBlocking, yet Send waits for a device that reads nothing")
		}
		if err != nil {
			return nil // it is full
		}
	}
	return nil
}
