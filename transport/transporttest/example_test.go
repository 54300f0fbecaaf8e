package transporttest_test

import (
	"context"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// A device whose network takes nothing any more.
func ExamplePair() {
	p := transporttest.NewPair(transporttest.PairConfig{})
	err := p.Conn().Send(context.Background(), []event.Frame{&event.Pong{Nonce: "first"}})
	fmt.Println("sent:", err)

	p.Block()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err = p.Conn().Send(ctx, []event.Frame{&event.Pong{Nonce: "second"}})
	fmt.Println("blocked:", err)

	err = p.Conn().Close(event.Slow.Closed(0))
	fmt.Println("closed:", err)
	for {
		f, err := p.Receive(context.Background())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%T\n", f)
	}
	// Output:
	// sent: <nil>
	// blocked: transporttest: send: context deadline exceeded
	// closed: <nil>
	// *event.Pong
	// *event.Closed
	// EOF
}
