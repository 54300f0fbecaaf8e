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
	// {Position:{Epoch:1 Seq:118}} <nil>
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
