package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// smallDisk returns the folder of a file system that has few bytes.
func smallDisk(t *testing.T, bytes int) string {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", bytes)); err != nil {
		t.Skipf("this process may not mount a small disk: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

// ballast is a file of another program, which takes all that a disk has left.
func ballast(t *testing.T, name string) {
	f, err := os.Create(name)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for _, part := range []int{1 << 20, 4096, 1} {
		for b := make([]byte, part); err == nil; {
			_, err = f.Write(b)
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		err = nil
	}
}

// fullWork is what goes on with a store that is full, in phases, and a table of how it went.
type fullWork struct {
	*filler
	t      *testing.T
	have   map[event.Account]map[event.MessageID]bool // sends that were answered and not removed since
	unsure map[event.Account]bool                     // a removal ended with an error: some of it may be done
	reopen func() error                               // closes the store and opens it again
	table  strings.Builder
	failed bool
}

// phase does something n times, and notes how it ended. must: it may not even be refused with ErrFull. A store that failed is
// opened again before the next phase.
func (w *fullWork) phase(name string, n int, must bool, f func(i int) error) {
	done, full, failed, other := 0, 0, 0, 0
	var first error
	for i := 0; i < n && failed == 0; i++ {
		err := f(i)
		switch {
		case err == nil:
			done++
			continue
		case errors.Is(err, store.ErrFailed):
			failed++
		case errors.Is(err, store.ErrFull):
			full++
		default:
			other++
		}
		if first == nil {
			first = err
		}
	}
	fmt.Fprintf(&w.table, "\n%-44s done %4d  ErrFull %4d  FAILED %4d  OTHER %4d", name, done, full, failed, other)
	if failed+other > 0 || must && full > 0 {
		w.failed = true
		fmt.Fprintf(&w.table, "  %v", first)
	}
	if failed > 0 {
		if err := w.reopen(); err != nil {
			fmt.Fprintf(&w.table, "\n%-44s %v", "reopened after the failure", err)
		}
	}
}

// send is one message that may be refused.
func (w *fullWork) send(int) error {
	b := w.batch(w.size(w.rnd))
	_, err := w.s.Commit(w.t.Context(), b)
	if err == nil {
		w.note(&b)
	}
	return err
}

func (w *fullWork) note(b *store.Batch) {
	for _, to := range b.Messages[0].To {
		if w.have[to.Account] == nil {
			w.have[to.Account] = map[event.MessageID]bool{}
		}
		w.have[to.Account][b.Messages[0].ID] = true
	}
}

// fill sends until the store is full.
func (w *fullWork) fill() {
	n := 0
	w.phase("filled by the store", 1, false, func(int) error {
		for refused := 0; refused < 5; n++ {
			if err := w.send(0); errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrFailed) {
				refused++
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	fmt.Fprintf(&w.table, "  %d messages", n)
}

// small are the writes that a full store takes: cursors, marks, ends of logins.
func (w *fullWork) small(when string, n int) {
	ctx := w.t.Context()
	w.phase(when+"cursors", n, true, func(i int) error {
		return w.s.SaveCursors(ctx, []store.Cursor{{Account: w.accounts[i%16], Incarnation: 1, Seq: uint64(i), Sent: uint64(i)}})
	})
	w.phase(when+"marks of a register", n, true, func(i int) error {
		_, err := w.s.Commit(ctx, store.Batch{Account: w.accounts[i%16], Now: start, Reserve: true, States: []store.StateUpdate{
			{Conversation: "talk", Name: "read", Merge: store.MergeLast, Number: uint64(w.rnd.Uint32())},
		}})
		return err
	})
	w.phase(when+"marks of new registers", n, true, func(i int) error {
		_, err := w.s.Commit(ctx, store.Batch{Account: w.accounts[i%16], Now: start, Reserve: true, States: []store.StateUpdate{
			{Conversation: event.ConversationID(fmt.Sprint(when, i)), Name: "read", Number: 1},
		}})
		return err
	})
	w.phase(when+"ends of logins (records)", n/4, true, func(i int) error {
		a := w.accounts[i%16]
		r, err := w.s.Load(ctx, a)
		if err != nil {
			return err
		}
		_, err = w.s.Commit(ctx, store.Batch{
			Account: a, Now: start, Reserve: true, Record: &store.RecordUpdate{Expect: r.Revision, Data: make([]byte, 1500)},
			Forget: []event.Incarnation{2},
		})
		return err
	})
}

// removals are trims, voids and deletions. from is the first of five accounts that they are about.
func (w *fullWork) removals(when string, from int) {
	ctx := w.t.Context()
	w.phase(when+"void", 20, true, func(i int) error {
		a := w.accounts[from]
		p, err := w.s.Read(ctx, a, store.ReadOptions{After: uint64(5 * i), Limit: 1, NoBodies: true})
		if err != nil || len(p.Entries) == 0 {
			return err
		}
		if _, err := w.s.Void(ctx, a, []uint64{p.Entries[0].Seq}); err != nil {
			return err
		}
		delete(w.have[a], p.Entries[0].ID)
		return nil
	})
	w.phase(when+"trim", 3, true, func(i int) error {
		a := w.accounts[from+1+i]
		_, err := w.s.Trim(ctx, a, 1<<60, 1<<30)
		w.have[a], w.unsure[a] = nil, err != nil
		return err
	})
	w.phase(when+"delete", 1, true, func(int) error {
		a := w.accounts[from+4]
		r, err := w.s.Load(ctx, a)
		if err == nil {
			err = w.s.Delete(ctx, a, r.Revision)
		}
		w.have[a], w.unsure[a] = nil, err != nil
		return err
	})
}

// check reads all inboxes.
func (w *fullWork) check(when string) {
	w.phase(when+"all inboxes are read, and have all", len(w.accounts), true, func(i int) error {
		a := w.accounts[i]
		list, _, err := readAll(w.t.Context(), w.s, a)
		if err != nil || w.unsure[a] {
			return err
		}
		for _, e := range list {
			if !w.have[a][e.ID] {
				return fmt.Errorf("%s has %s, which was removed or refused", a, e.ID)
			}
		}
		if len(list) != len(w.have[a]) {
			return fmt.Errorf("%s has %d entries, want %d", a, len(list), len(w.have[a]))
		}
		return nil
	})
}

// compact makes the store do what waits. On a full disk it may be refused.
func (w *fullWork) compact(when string) {
	w.phase(when+"Compact", 2, false, func(int) error { return w.s.(*boltstore.Store).Compact(w.t.Context()) })
}

// again closes the store and opens it again. It is opened whatever Close says.
func (w *fullWork) again(when string) {
	w.phase(when+"Close", 1, true, func(int) error { return w.s.Close(context.Background()) })
	w.phase(when+"Open", 1, true, func(int) error { return w.reopen() })
}

// TestFull_K13_I39 fills a disk, together with another program, or a file up to MaxSize, and then does all that must go on.
func TestFull_K13_I39(t *testing.T) {
	for _, tt := range []struct {
		name    string
		disk    int // bytes; 0: there is enough
		max     int64
		aside   bool // another program takes what is left of the disk
		flushed bool // what was in memory is written to the file first
	}{
		{name: "disk", disk: 48 << 20, max: 64 << 20, aside: true},
		{name: "disk, all flushed", disk: 48 << 20, max: 64 << 20, aside: true, flushed: true},
		{name: "disk, filled by the store alone", disk: 48 << 20, max: 1 << 30},
		{name: "disk, no bound", disk: 64 << 20, max: -1, aside: true},
		{name: "MaxSize", max: 24 << 20},
	} {
		for i, size := range fillSizes {
			if i == 1 && !*allRooms {
				continue
			}
			t.Run(tt.name+"/"+size.name, func(t *testing.T) {
				dir := memoryDir(t)
				if tt.disk != 0 {
					dir = smallDisk(t, tt.disk)
				}
				w := newFullWork(t, filepath.Join(dir, "store.db"), boltstore.Config{MaxSize: tt.max, Memory: 4 << 20}, size.size)
				w.scene(filepath.Join(dir, "other"), tt.aside, tt.flushed)
				t.Log(w.table.String())
				require.True(t, !w.failed, "see the table")
			})
		}
	}
}

func newFullWork(t *testing.T, path string, cfg boltstore.Config, size func(*rand.Rand) int) *fullWork {
	s, err := boltstore.Open(path, cfg)
	require.NoError(t, err)
	w := &fullWork{
		filler: newFiller(s, size), t: t, have: map[event.Account]map[event.MessageID]bool{}, unsure: map[event.Account]bool{},
	}
	t.Cleanup(func() { _ = w.s.Close(context.Background()) }) // what it says is in the table
	w.reopen = w.opener(path, cfg)
	for _, a := range w.accounts {
		_, err := s.Commit(t.Context(), store.Batch{
			Account: a, Now: start, Record: &store.RecordUpdate{Data: make([]byte, 1000)},
			Begin: []store.Begin{{Incarnation: 1}, {Incarnation: 2}},
		})
		require.NoError(t, err)
	}
	return w
}

// opener returns what closes the store, as far as it is open, and opens it again.
func (w *fullWork) opener(path string, cfg boltstore.Config) func() error {
	return func() error {
		closing := w.s.Close(context.Background())
		s, err := boltstore.Open(path, cfg)
		if err != nil {
			return errors.Join(err, closing)
		}
		w.s = s
		return nil
	}
}

func (w *fullWork) scene(beside string, aside, flushed bool) {
	w.fill()
	if flushed {
		w.compact("filled: ")
	}
	if aside {
		ballast(w.t, beside)
	}
	w.phase("full: sends", 20, false, w.send)
	w.small("full: ", 200)
	w.compact("full: ")
	w.check("full: ")
	w.removals("full: ", 0)
	w.small("after removals: ", 100)
	w.compact("after removals: ")
	w.phase("after removals: sends", 20, false, w.send)
	w.again("full: ")
	w.check("reopened, full: ")
	w.removals("reopened, full: ", 5)
	w.small("reopened, full: ", 100)
	w.compact("reopened, full: ")
	if aside {
		require.NoError(w.t, os.Remove(beside))
	} else {
		w.removals("more room: ", 10)
	}
	w.phase("there is room: sends go on by themselves", 1, true, func(int) error { return w.eventually() })
	w.phase("there is room: 20 small sends", 20, true, w.sendSmall)
	w.again("there is room: ")
	w.check("in the end: ")
}

func (w *fullWork) sendSmall(int) error {
	b := w.batch(100)
	_, err := w.s.Commit(w.t.Context(), b)
	if err == nil {
		w.note(&b)
	}
	return err
}

// eventually sends until that is taken, for some seconds.
func (w *fullWork) eventually() (err error) {
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(50 * time.Millisecond) {
		if err = w.sendSmall(0); err == nil {
			return nil
		}
	}
	return err
}

// TestFull_K13_I39_KilledOnAFullDisk opens files as a kill left them, on a disk that has room for nothing else.
func TestFull_K13_I39_KilledOnAFullDisk(t *testing.T) {
	path := filepath.Join(memoryDir(t), "store.db")
	cfg := boltstore.Config{MaxSize: 32 << 20, Memory: 4 << 20}
	w := newFullWork(t, path, cfg, fillSizes[2].size)
	for range 200 {
		require.NoError(t, w.send(0))
	}
	names, err := storeFiles(path)
	require.NoError(t, err)
	need := 1 // page, for the folder
	for _, name := range names {
		st, err := os.Stat(name)
		require.NoError(t, err)
		need += int(st.Size()/4096) + 1
	}
	dir := smallDisk(t, need*4096)
	t.Cleanup(func() { _ = w.s.Close(context.Background()) }) // before the disk goes
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o600))
	}
	ballast(t, filepath.Join(dir, "other"))
	closeStore(t, w.s.(*boltstore.Store))
	w.reopen = w.opener(filepath.Join(dir, "store.db"), cfg)
	w.again("killed, full: ")
	w.check("killed, full: ")
	w.small("killed, full: ", 50)
	w.compact("killed, full: ")
	w.removals("killed, full: ", 0)
	w.again("full: ")
	w.check("reopened, full: ")
	t.Log(w.table.String())
	require.True(t, !w.failed, "see the table")
}
