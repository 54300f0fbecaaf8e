package boltstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx, path := context.Background(), filepath.Join(dir, "chat.db")

	s, err := boltstore.Open(path, boltstore.Config{MaxSize: 1 << 30})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = s.Commit(ctx, store.Batch{
		Account: "ann",
		Now:     time.Now(),
		Messages: []store.Message{{
			ID: "m1", Kind: event.KindMessage, From: "ann", Payload: []byte("hello"),
			To: []store.Inbox{{Account: "bob"}, {Account: "ann"}},
		}},
	})
	fmt.Println("sent:", err)
	fmt.Println("closed:", s.Close(ctx))

	if s, err = boltstore.Open(path, boltstore.Config{}); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close(ctx)
	page, err := s.Read(ctx, "bob", store.ReadOptions{Limit: 10})
	for _, e := range page.Entries {
		fmt.Println(e.Seq, e.From, string(e.Payload), err)
	}
	// Output:
	// sent: <nil>
	// closed: <nil>
	// 1 ann hello <nil>
}
