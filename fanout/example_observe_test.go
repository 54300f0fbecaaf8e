package fanout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// bobsPlace makes a router over an account with a laptop that was never attached, and two messages for it.
func bobsPlace(ctx context.Context) (*fanout.Router, event.Position, func()) {
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
	for _, text := range []string{"hello", "are you there?"} {
		if _, err := router.Send(ctx, fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Payload: []byte(text)}); err != nil {
			log.Fatal(err)
		}
	}
	first := login.Position
	first.Seq++ // the entry after that of the login itself
	return router, first, func() {
		for _, end := range []func(context.Context) error{reg.Close, router.Close} {
			if err := end(ctx); err != nil {
				log.Fatal(err)
			}
		}
	}
}

func ExampleRouter_Inspect() {
	ctx := context.Background()
	router, _, end := bobsPlace(ctx)
	defer end()
	in, err := router.Inspect(ctx, "bob", fanout.InspectOptions{Limit: 10})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(in.Devices[0].Device, "lags", in.Devices[0].Lag, "entries")
	for _, e := range in.Entries {
		fmt.Println(e.Seq, e.Kind, "from", e.From, e.Bytes > 0, e.Text == "")
	}
	conversations, err := json.Marshal(in.Conversations) // every part marshals
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("conversations:", string(conversations))
	// Output:
	// laptop lags 3 entries
	// 1 device.login from bob true true
	// 2 message from ann true true
	// 3 message from ann true true
	// conversations: []
}

func ExampleRouter_Subscribe() {
	ctx := context.Background()
	router, _, end := bobsPlace(ctx)
	defer end()
	events, err := router.Subscribe(100)
	if err != nil {
		log.Fatal(err)
	}
	_, err = router.Send(ctx, fanout.SendRequest{From: "ann", Origin: event.NewLoginID(), To: []event.Account{"bob"}})
	fmt.Println(err)
	e, err := events.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Kind, e.Call, e.Account, e.Cause, router.Stats().ByCause[e.Cause])
	events.Close()
	// Output:
	// fanout: unknown origin login
	// refused send ann unknown_origin 1
}

func ExampleRouter_Park() {
	ctx := context.Background()
	router, poison, end := bobsPlace(ctx)
	defer end()
	// As Config.OnPoison would do, once it is sure.
	if err := router.Park(ctx, "bob", "laptop", poison); err != nil {
		log.Fatal(err)
	}
	in, err := router.Inspect(ctx, "bob", fanout.InspectOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range in.Devices[0].Parked {
		fmt.Println("the laptop does not get entry", p.Seq)
	}
	// Output: the laptop does not get entry 2
}
