package event_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
)

func ExampleAppendFrame() {
	entry := event.Seal(event.Entry{
		Seq: 118, Kind: event.KindMessage, Conversation: "room-7", From: "ben", Time: time.UnixMilli(1_767_225_600_123), Payload: []byte("hello"),
	})
	line, err := event.AppendFrame(nil, &event.Data{Epoch: 1, Prev: 117, Seq: 118, Entries: []*event.Sealed{entry}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", line)
	// Output:
	// {"t":"data","epoch":"1","prev":"117","seq":"118","entries":[{"kind":"message","seq":"118","conversation":"room-7","from":"ben","time":"1767225600123","text":"hello"}]}
}

func ExampleDecodeClientFrame() {
	f, err := event.DecodeClientFrame([]byte(`{"t":"ack","position":{"epoch":"1","seq":"118"}}`))
	fmt.Printf("%+v %v\n", f, err)

	_, err = event.DecodeClientFrame([]byte(`{"t":"ack","position":{"epoch":"1","seq":"118"},"from":"ben"}`))
	fault, _ := errors.AsType[*event.FrameError](err)
	fmt.Println(fault.Fault, "-", err)
	// Output:
	// &{Position:{Epoch:1 Seq:118}} <nil>
	// field - ack frame: unknown field
}

func ExampleNewRegistry() {
	kinds, err := event.NewRegistry(event.KindInfo{Kind: "acme.poll", Durable: true, Mirrored: true, Unread: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(kinds.Info("acme.poll").Unread, kinds.Info(event.KindTyping).Durable, kinds.Known("acme.vote"))
	// Output: true false false
}

func ExampleNewIssuer() {
	issuer := event.NewIssuer([32]byte{1, 2, 3}) // the store's secret, from its Info
	id := issuer.Issue()
	fmt.Println(len(id), issuer.Issued(id), issuer.Issued("made-up"))
	// Output: 26 true false
}

// suspended is an error of a host's own that says what to tell the client.
type suspended struct{ until time.Duration }

func (e suspended) Error() string { return "suspended" }

func (e suspended) Closed() event.Closed {
	return event.Closed{Reason: event.RateLimited, Retry: event.RetryAfter, After: e.until}
}

// What a server writes to a client before it closes the connection. Errors of the engine say it like those of the host.
func ExampleClosedOf() {
	for _, err := range []error{
		fmt.Errorf("attach: %w", suspended{until: time.Minute}),
		&event.InvalidError{Field: "device", Reason: "empty"},
	} {
		why := event.ClosedOf(err)
		fmt.Println(why.Reason, why.Retry, why.After)
	}
	why := event.ClosedOf(errors.New("the store is away")) // what an error does not say is no fault of the client's
	fmt.Println(why.Reason, why.Retry, why.After >= time.Second)
	// Output:
	// rate_limited after 1m0s
	// protocol_error no 0s
	// unavailable after true
}

// What a client calls itself is made fit to show before it is passed on.
func ExampleCleanName() {
	fmt.Printf("%q\n", event.CleanName("  Ann's\u202e phone\r\n"))
	// Output: "Ann's phone"
}
