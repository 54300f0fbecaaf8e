package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// greeter is a connection that prints when delivery begins.
type greeter struct{ *printer }

func (c greeter) Send(ctx context.Context, frames []event.Frame) error {
	if _, ok := frames[0].(*event.Welcome); ok {
		fmt.Println("welcome")
	}
	return c.printer.Send(ctx, frames)
}

// annsPlace makes a registry and a router over it.
func annsPlace(ctx context.Context) (*session.Registry, *fanout.Router, func()) {
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	router, err := fanout.New(reg, st, fanout.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return reg, router, func() {
		for _, end := range []func(context.Context) error{reg.Close, router.Close, st.Close} {
			if err := end(ctx); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// A server whose clients show who they are at each connection, as those of MQTT do, and know nothing of resume tokens.
func ExampleRouter_Connect() {
	ctx := context.Background()
	reg, router, end := annsPlace(ctx)
	defer end()
	phone := session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"}
	for range 2 {
		att, login, err := router.Connect(ctx, phone, fanout.AttachRequest{}, &printer{done: make(chan struct{})})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("logged in:", login != nil)
		att.Detach()
	}
	if _, err := reg.Kick(ctx, session.KickRequest{Account: "ann", All: true}); err != nil {
		log.Fatal(err)
	}
	_, _, err := router.Connect(ctx, phone, fanout.AttachRequest{}, &printer{done: make(chan struct{})})
	fmt.Println(errors.Is(err, session.ErrEnded), event.ClosedOf(err).Reason)
	// Output:
	// logged in: true
	// logged in: false
	// true kicked_host
}

// A server that answers its client's connect first, in its own protocol.
func ExampleAttachment_Start() {
	ctx := context.Background()
	reg, router, end := annsPlace(ctx)
	defer end()
	login, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
	if err != nil {
		log.Fatal(err)
	}
	conn := greeter{&printer{done: make(chan struct{})}}
	att, err := router.Attach(ctx, fanout.AttachRequest{
		Account: "ann", Login: login.Session.Login, Token: login.Token, Hold: true,
	}, conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the server's own answer") // it knows that the client is in
	att.Start()
	<-conn.done
	// Output:
	// the server's own answer
	// welcome
}
