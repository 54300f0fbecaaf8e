package client_test

import (
	"encoding/json"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

// The loop of a client over two connections, with a crash in between.
func Example() {
	var file []byte // stands for the client's database
	epoch := event.Epoch(1)
	message := func(seq uint64, text string) *event.Sealed {
		return event.Seal(event.Entry{Seq: seq, Kind: event.KindMessage, ID: event.MessageID(text), Payload: []byte(text)})
	}
	connections := [][]event.Frame{
		{
			&event.Welcome{Login: "phone", Position: event.Position{Epoch: epoch}, Head: 2},
			&event.Data{Epoch: epoch, Prev: 0, Seq: 2, Entries: []*event.Sealed{message(1, "hello"), message(2, "there")}},
		},
		{
			&event.Welcome{Login: "phone", Position: event.Position{Epoch: epoch, Seq: 2}, Head: 4},
			&event.Data{Epoch: epoch, Prev: 2, Seq: 4, Entries: []*event.Sealed{message(4, "again")}},
			&event.CaughtUp{Position: event.Position{Epoch: epoch, Seq: 4}},
		},
	}
	for _, frames := range connections {
		var saved client.State
		if file != nil {
			if err := json.Unmarshal(file, &saved); err != nil {
				fmt.Println(err)
				return
			}
		}
		m := client.New(saved, client.Config{})
		if pos := m.Attach(); pos != nil {
			fmt.Println("attach at", pos.Seq)
		} else {
			fmt.Println("attach")
		}
		for _, f := range frames {
			step, err := m.Receive(f)
			if err != nil {
				fmt.Println(err)
				return
			}
			for _, e := range step.Apply {
				fmt.Printf("apply %d %s\n", e.Seq, e.Payload)
			}
			if step.Save {
				if file, err = json.Marshal(m.Snapshot()); err != nil {
					fmt.Println(err)
					return
				}
			}
			for _, r := range m.Replies() {
				fmt.Println("send", event.ClientFrameName(r))
			}
			if step.CaughtUp {
				fmt.Println("caught up")
			}
		}
	}
	// Output:
	// attach
	// apply 1 hello
	// apply 2 there
	// send ack
	// attach at 2
	// apply 4 again
	// send ack
	// caught up
}
