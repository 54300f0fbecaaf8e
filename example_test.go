package manydevice_test

import (
	"context"
	"fmt"
	"log"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// Ann is logged in and away while Ben writes to her; then she reads it. The program examples/embed has connections, too.
func ExampleOpen() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{}) // or boltstore.Open
	engine, err := manydevice.Open(st, manydevice.Config{})
	if err != nil {
		log.Fatal(err)
	}
	phone, err := engine.Sessions.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
	if err != nil {
		log.Fatal(err)
	}
	sent, err := engine.Router.Send(ctx, fanout.SendRequest{
		From: "ben", To: []event.Account{"ann"}, Conversation: "ann:ben", Payload: []byte("hello"), ClientID: "c-1",
	})
	if err != nil {
		log.Fatal(err)
	}
	unread := func() uint64 {
		u, err := engine.Router.Unread(ctx, "ann", "ann:ben")
		if err != nil {
			log.Fatal(err)
		}
		return u.Total
	}
	fmt.Println("unread:", unread())
	if _, err := engine.Router.MarkRead(ctx, fanout.MarkReadRequest{
		Account: "ann", Origin: phone.Session.Login, Conversation: "ann:ben", Message: sent.ID,
	}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("unread:", unread())
	for _, end := range []func(context.Context) error{engine.Close, st.Close} { // the engine first
		if err := end(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// unread: 1
	// unread: 0
}
