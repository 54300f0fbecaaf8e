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

func ExampleStore_Backup() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	s, err := boltstore.Open(filepath.Join(dir, "chat.db"), boltstore.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close(ctx)
	_, err = s.Commit(ctx, store.Batch{Account: "ann", Now: time.Now(), Messages: []store.Message{{
		ID: "m1", Kind: event.KindMessage, From: "ann", Payload: []byte("hello"), To: []store.Inbox{{Account: "bob"}},
	}}})
	fmt.Println("sent:", err)

	// While the store goes on working.
	out, err := os.Create(filepath.Join(dir, "monday.backup"))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = s.Backup(ctx, out)
	fmt.Println("backup:", err, out.Sync(), out.Close())

	// After a disaster, or beside, to look what was in it.
	in, err := os.Open(filepath.Join(dir, "monday.backup"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer in.Close()
	path := filepath.Join(dir, "restored.db")
	fmt.Println("restore:", boltstore.Restore(ctx, path, in))
	restored, err := boltstore.Open(path, boltstore.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer restored.Close(ctx)
	before, _ := s.Read(ctx, "bob", store.ReadOptions{Limit: 10})
	after, err := restored.Read(ctx, "bob", store.ReadOptions{Limit: 10})
	fmt.Println(string(after.Entries[0].Payload), err, "same epoch:", after.Head.Epoch == before.Head.Epoch)
	// Output:
	// sent: <nil>
	// backup: <nil> <nil> <nil>
	// restore: <nil>
	// hello <nil> same epoch: false
}
