package fanout_test

import (
	"context"
	"fmt"
	"log"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// printer is a connection that prints the messages it is given, as a host's own would write them to a socket.
type printer struct {
	name string
	done chan struct{} // closed at the first CaughtUp
}

func (p *printer) Send(_ context.Context, frames []event.Frame) error {
	for _, f := range frames {
		switch f := f.(type) {
		case *event.Data:
			for _, e := range f.Entries {
				if e.Kind == event.KindMessage {
					fmt.Printf("%s: %s from %s\n", p.name, e.Payload, e.From)
				}
			}
		case *event.CaughtUp:
			close(p.done)
		}
	}
	return nil
}

func (p *printer) Close(why event.Closed) error { return nil }

func ExampleNew() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	router, err := fanout.New(reg, st, fanout.Config{Window: 32})
	if err != nil {
		log.Fatal(err)
	}
	// Closed in this order, so that every connection is told before delivery ends.
	for _, end := range []func(context.Context) error{reg.Close, router.Close, st.Close} {
		if err := end(ctx); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("closed")
	// Output: closed
}

func ExampleRouter_Send() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	router, err := fanout.New(reg, st, fanout.Config{})
	if err != nil {
		log.Fatal(err)
	}
	phone, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
	if err != nil {
		log.Fatal(err)
	}
	q := fanout.SendRequest{
		From: "ann", Origin: phone.Session.Login, ClientID: "1", Conversation: "ann+bob",
		To: []event.Account{"bob"}, Payload: []byte("hello"),
	}
	first, err := router.Send(ctx, q)
	if err != nil {
		log.Fatal(err)
	}
	again, err := router.Send(ctx, q) // as if the answer had got lost
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(again.ID == first.ID, again.Duplicate)
	fmt.Println(reg.Close(ctx), router.Close(ctx))
	// Output:
	// true true
	// <nil> <nil>
}

func ExampleRouter_Attach() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	router, err := fanout.New(reg, st, fanout.Config{})
	if err != nil {
		log.Fatal(err)
	}
	login, err := reg.Login(ctx, session.LoginRequest{Account: "bob", Device: "laptop", Platform: "linux"})
	if err != nil {
		log.Fatal(err)
	}
	for _, text := range []string{"hello", "are you there?"} { // while the laptop is away
		if _, err := router.Send(ctx, fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Payload: []byte(text)}); err != nil {
			log.Fatal(err)
		}
	}
	conn := &printer{name: "laptop", done: make(chan struct{})}
	att, err := router.Attach(ctx, fanout.AttachRequest{Account: "bob", Login: login.Session.Login, Token: login.Token}, conn)
	if err != nil {
		log.Fatal(err)
	}
	<-conn.done
	// What the client sends goes to the attachment; here, that it has stored all of it.
	if err := att.Handle(ctx, &event.Ack{Position: event.Position{Epoch: login.Position.Epoch, Seq: login.Position.Seq + 2}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(reg.Close(ctx), router.Close(ctx))
	// Output:
	// laptop: hello from ann
	// laptop: are you there? from ann
	// <nil> <nil>
}

func ExampleRouter_Claim() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	router, err := fanout.New(reg, st, fanout.Config{})
	if err != nil {
		log.Fatal(err)
	}
	// A call rings on both devices of Ann.
	for _, device := range []event.DeviceID{"phone", "laptop"} {
		login, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: device, Platform: "ios"})
		if err != nil {
			log.Fatal(err)
		}
		res, err := router.Claim(ctx, fanout.ClaimRequest{Account: "ann", Origin: login.Session.Login, Key: "call-7"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(device, "answers:", res.Won, "- it is on the", res.Winner.Device)
	}
	for _, end := range []func(context.Context) error{reg.Close, router.Close, st.Close} {
		if err := end(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// phone answers: true - it is on the phone
	// laptop answers: false - it is on the phone
}
