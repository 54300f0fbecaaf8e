package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	heads Table = iota
	rows
	bodies
)

func options(path string) Options {
	return Options{
		Path: path, Tables: []TableSpec{{"head", 0.6}, {"account", 0.6}, {"message", 1}},
		Memory: 1 << 20, MaxSize: 1 << 30, Reserve: 16 << 20, LockTimeout: 1,
		Logger: slog.New(slog.DiscardHandler),
		Meta:   func(m map[string][]byte) error { m["schema"] = []byte{0, 0, 0, 5}; return nil },
	}
}

func open(t testing.TB, o Options) *DB {
	t.Helper()
	db, err := Open(o)
	require.NoError(t, err)
	return db
}

func shut(t testing.TB, db *DB) {
	t.Helper()
	require.NoError(t, db.Close(context.Background()))
}

// model is what a DB should hold: table and part, a separator, row → value.
type model map[string]string

func name(t Table, part, row string) string { return string(rune('0'+t)) + part + "\x00" + row }

// check compares all that a DB holds of some parts with the model.
func (m model) check(t *testing.T, db *DB, parts []string) {
	t.Helper()
	require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
		for table := heads; table <= bodies; table++ {
			var want []string
			for _, p := range parts {
				part := Of(table, []byte(p+"\x00"))
				prefix := name(table, p, "")
				for _, k := range slices.Sorted(maps.Keys(m)) {
					if row, ok := strings.CutPrefix(k, prefix); ok {
						want = append(want, p+row)
						got, err := s.Get(&part, []byte(row))
						require.NoError(t, err)
						require.Equal(t, m[k], string(got), k)
					}
				}
				got, err := s.Get(&part, []byte("nothing"))
				require.NoError(t, err)
				require.Nil(t, got)
			}
			var got []string
			for _, p := range parts {
				part := Of(table, []byte(p+"\x00"))
				require.NoError(t, s.Scan(&part, nil, nil, func(row, value []byte) (bool, error) {
					got = append(got, p+string(row))
					require.Equal(t, m[name(table, p, string(row))], string(value))
					return true, nil
				}))
			}
			require.Equal(t, want, got)
		}
		return nil
	}))
}

func TestDB_IsAMapOverFlushesAndReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	rng := rand.New(rand.NewPCG(1, 2))
	parts := []string{"a", "b", "ba", "c", "long"}
	m := model{}
	db := open(t, options(path))
	for round := range 60 {
		for range 200 {
			p := parts[rng.IntN(len(parts))]
			table := Table(rng.IntN(3))
			fails := rng.IntN(10) == 0
			changes := model{}
			gone := []string{}
			err := db.Update(context.Background(), 100, func(w *Writer) error {
				part := Of(table, []byte(p+"\x00"))
				for range rng.IntN(4) {
					row := fmt.Sprintf("%02d", rng.IntN(60))
					if rng.IntN(3) == 0 {
						w.Delete(&part, []byte(row))
						delete(changes, name(table, p, row))
						gone = append(gone, name(table, p, row))
						continue
					}
					size := 1 + rng.IntN(200)
					if rng.IntN(20) == 0 {
						size = rng.IntN(20_000) + 1
					}
					value := bytes.Repeat([]byte{byte(rng.IntN(256))}, size)
					w.Put(&part, []byte(row), value)
					changes[name(table, p, row)] = string(value)
					got, err := w.Get(&part, []byte(row))
					require.NoError(t, err)
					require.Equal(t, value, got)
				}
				if fails {
					return errors.New("no")
				}
				return nil
			})
			require.Equal(t, fails, err != nil)
			if !fails {
				for _, k := range gone {
					delete(m, k)
				}
				maps.Copy(m, changes)
			}
		}
		switch round % 6 {
		case 1:
			require.NoError(t, db.Checkpoint(context.Background()))
		case 3:
			shut(t, db)
			require.NoFileExists(t, path+"-wal")
			db = open(t, options(path))
		case 5: // as after a crash
			crash(t, path)
			shut(t, db)
			uncrash(t, path)
			db = open(t, options(path))
		}
		m.check(t, db, parts)
	}
	shut(t, db)
}

func crash(t *testing.T, path string) {
	for _, suffix := range []string{"", walNames[0], walNames[1]} {
		b, err := os.ReadFile(path + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path+".copy"+suffix, b, 0o600))
	}
}

func uncrash(t *testing.T, path string) {
	for _, suffix := range []string{"", walNames[0], walNames[1]} {
		require.NoError(t, os.Rename(path+".copy"+suffix, path+suffix))
	}
}

func TestDB_ReadersSeeWholeGroups(t *testing.T) {
	for _, remap := range []bool{false, true} { // true: the map grows with the file
		t.Run(fmt.Sprint("remap=", remap), func(t *testing.T) { readersSeeWholeGroups(t, remap) })
	}
}

func readersSeeWholeGroups(t *testing.T, remap bool) {
	o := options(filepath.Join(t.TempDir(), "db"))
	o.remap = remap
	db := open(t, o)
	defer shut(t, db)
	// Two rows of different parts are always changed together, beside traffic that has memtables flushed.
	put := func(n uint64) {
		require.NoError(t, db.Update(context.Background(), 100, func(w *Writer) error {
			a, b := Of(heads, []byte("a")), Of(rows, []byte("b"))
			v := binary.BigEndian.AppendUint64(nil, n)
			w.Put(&a, nil, v)
			w.Put(&b, []byte("row"), v)
			w.Put(&b, binary.BigEndian.AppendUint64(nil, n%512), bytes.Repeat(v, 50))
			return nil
		}))
	}
	put(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
					a, b := Of(heads, []byte("a")), Of(rows, []byte("b"))
					x, err := s.Get(&a, nil)
					require.NoError(t, err)
					y, err := s.Get(&b, []byte("row"))
					require.NoError(t, err)
					require.Equal(t, x, y)
					n := binary.BigEndian.Uint64(x)
					require.GreaterOrEqual(t, n, last)
					last = n
					return nil
				}))
			}
		})
	}
	for n := range uint64(5000) {
		put(n + 2)
	}
	close(stop)
	wg.Wait()
	require.Positive(t, db.Stats().Flushes)
	_ = time.Now
}

func TestSnapshot_Prefixes(t *testing.T) {
	db := open(t, options(filepath.Join(t.TempDir(), "db")))
	defer shut(t, db)
	set := func(names ...string) {
		require.NoError(t, db.Update(context.Background(), 100, func(w *Writer) error {
			for _, n := range names {
				p := Of(heads, []byte(strings.TrimPrefix(n, "-")))
				if n[0] == '-' {
					w.Delete(&p, nil)
				} else {
					w.Put(&p, nil, []byte(n))
				}
			}
			return nil
		}))
	}
	list := func(after string, n int) (out []string) {
		require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
			found, err := s.Prefixes(heads, []byte(after), n)
			for _, f := range found {
				out = append(out, string(f))
			}
			return err
		}))
		return out
	}
	set("b", "d", "f", "h")
	require.NoError(t, db.Checkpoint(context.Background()))
	set("a", "d", "-f", "i")
	require.Equal(t, []string{"a", "b", "d", "h", "i"}, list("", 9))
	require.Equal(t, []string{"b", "d"}, list("a", 2))
	require.Equal(t, []string{"h", "i"}, list("e", 9))
	set("g", "f", "-h")
	require.Equal(t, []string{"f", "g", "i"}, list("d", 9))
	require.NoError(t, db.Checkpoint(context.Background()))
	require.Equal(t, []string{"f", "g", "i"}, list("d", 9))
}
