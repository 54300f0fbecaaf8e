package fanout_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// A host that keeps the push token of each device hands the pushes on, and answers at once.
func ExamplePushConfig() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	reg, err := session.New(st, session.Config{})
	if err != nil {
		log.Fatal(err)
	}
	told := make(chan fanout.Push, 1_000)
	router, err := fanout.New(reg, st, fanout.Config{Push: fanout.PushConfig{
		Delay: 50 * time.Millisecond, // zero: 10 s
		Rules: fanout.PushRules{Preset: fanout.AnyOffline},
		Hook: func(ctx context.Context, p fanout.Push) error {
			select {
			case told <- p:
				return nil
			default:
				return fmt.Errorf("too much to do") // asked again later
			}
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := reg.Login(ctx, session.LoginRequest{Account: "bob", Device: "phone", Platform: "ios"}); err != nil {
		log.Fatal(err)
	}
	_, err = router.Send(ctx, fanout.SendRequest{
		From: "ann", Conversation: "ann+bob", To: []event.Account{"bob"}, Payload: []byte("are you there?"),
	})
	if err != nil {
		log.Fatal(err)
	}
	p := <-told
	unread, err := router.Unread(ctx, p.Account, "") // for the badge
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range p.Devices {
		last := d.Missed[len(d.Missed)-1]
		fmt.Printf("%s (%s): %q from %s, badge %d\n", d.Device, d.Platform, last.Payload, last.From, unread.Total)
	}
	fmt.Println(reg.Close(ctx), router.Close(ctx))
	// Output:
	// phone (ios): "are you there?" from ann, badge 1
	// <nil> <nil>
}

func ExamplePushRules_Choose() {
	now := time.Now()
	devices := []fanout.PushDevice{
		{Session: session.Session{Device: "phone", Platform: "ios", State: session.Offline}},
		{Session: session.Session{Device: "laptop", Platform: "macos", State: session.Online}, Active: now.Add(-time.Minute)},
	}
	for _, preset := range []fanout.PushPreset{fanout.AllOffline, fanout.AnyOffline, fanout.ActiveDesktopMutesPhone} {
		fmt.Println(preset, fanout.PushRules{Preset: preset}.Choose(devices, now))
	}
	devices[1].Active = now.Add(-time.Hour)
	fmt.Println("idle:", fanout.PushRules{Preset: fanout.ActiveDesktopMutesPhone}.Choose(devices, now))
	// Output:
	// allOffline []
	// anyOffline [phone]
	// activeDesktopMutesPhone []
	// idle: [phone]
}
