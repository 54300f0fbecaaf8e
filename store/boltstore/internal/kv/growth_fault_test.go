package kv

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
)

// writeback is a disk on which pages of a file cannot be written back, as Linux has it: of each time that the file was opened, one sync
// is told so, and those after it are not.
type writeback struct {
	*fault
	mu   sync.Mutex
	lost string // file
	told map[*os.File]bool
	held chan struct{} // a sync of the log that was begun waits for it
	in   chan struct{} // gets a value when one does
}

func newWriteback() *writeback {
	return &writeback{fault: newFault(nil), told: map[*os.File]bool{}, held: make(chan struct{}), in: make(chan struct{})}
}

func (d *writeback) lose(file string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost = file
}

func (d *writeback) tell(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.Name() != d.lost || d.told[f] {
		return nil
	}
	d.told[f] = true
	return syscall.EIO
}

func (d *writeback) tellers() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.told)
}

func (d *writeback) sync(f *os.File) error {
	select {
	case d.in <- struct{}{}:
		<-d.held
	default:
	}
	if err := d.fault.sync(f); err != nil {
		return err
	}
	return d.tell(f)
}

// The log is made longer while a group is written. What that sync is told must not be taken from the group's.
func TestDB_AGroupHearsOfItsLostPagesWhileTheLogGrows(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	d := newWriteback()
	db := open(t, tiny(path, d))
	require.NoError(t, put(context.Background(), db, "1", 10))
	lost, later := make(chan error, 1), make(chan error, 1)
	go func() { lost <- put(context.Background(), db, "2", 10) }()
	<-d.in
	d.lose(path + walNames[1])
	go func() { later <- put(context.Background(), db, "3", 400_000) }()
	require.Eventually(t, func() bool { return d.tellers() > 0 }, 10*time.Second, time.Millisecond)
	close(d.held)
	require.ErrorIs(t, <-lost, store.ErrUnknownOutcome)
	require.Error(t, <-later)
	require.ErrorIs(t, db.failure(), syscall.EIO)
	_ = db.Close(context.Background())
}

// Likewise for the file, which is made longer while a slice of the flush is committed. The slice is written again.
func TestDB_AFlushHearsOfItsLostPagesWhileTheFileGrows(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	d := newWriteback()
	db := open(t, tiny(path, d))
	require.NoError(t, put(context.Background(), db, "1", 10))
	committing, again := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(committing); <-again })
	db.SetCommit(func(tx *bolt.Tx) error {
		first()
		if err := d.tell(db.fd); err != nil { // as bbolt's own sync would
			return err
		}
		return tx.Commit()
	})
	checkpoint := make(chan error, 1)
	go func() { checkpoint <- db.Checkpoint(context.Background()) }()
	<-committing
	d.lose(path)
	require.ErrorIs(t, db.Update(context.Background(), 1, func(w *Writer) error { return w.Take(20<<20, false) }), store.ErrFull)
	require.Positive(t, d.tellers())
	close(again)
	if err := <-checkpoint; err != nil { // the slice is tried again, and may be done before the checkpoint hears of it
		require.ErrorIs(t, err, syscall.EIO)
	}
	require.Positive(t, db.Stats().FlushFailures)
	require.NoError(t, db.Close(context.Background()))
}
