package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

var flipsN = flag.Int("flips", 100, "bits that TestFlips changes, each in a copy of the file")

// ram is a folder on a file system in memory, if there is one: what is tested syncs often.
func ram(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "kv-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// image is a file with its log, if it has one.
type image [3][]byte

func imageOf(t testing.TB, path string) (im image) {
	for i, suffix := range []string{"", walNames[0], walNames[1]} {
		b, err := os.ReadFile(path + suffix)
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		im[i] = b
	}
	return im
}

func (im *image) put(t testing.TB, path string) {
	for i, suffix := range []string{"", walNames[0], walNames[1]} {
		require.NoError(t, os.RemoveAll(path+suffix))
		if im[i] != nil {
			require.NoError(t, os.WriteFile(path+suffix, im[i], 0o600))
		}
	}
}

// flipParts are the parts of the file that flips are tried on. One key begins with another one, and keys differ in bits.
var flipParts = []string{"a", "b", "c", "ca", "d", "long", "q"}

// flipFile makes a file with rows of all kinds, free pages, and, if it is open, rows in both files of the log.
func flipFile(t testing.TB, path string, closed bool) (image, model) {
	rng := rand.New(rand.NewPCG(7, 7))
	m := model{}
	o := options(path)
	o.Memory = 256 << 10
	db := open(t, o)
	change := func(ops int) {
		for range ops {
			require.NoError(t, db.Update(context.Background(), 100, func(w *Writer) error {
				for range 3 {
					table, p := Table(rng.IntN(3)), flipParts[rng.IntN(len(flipParts))]
					part, row := Of(table, []byte(p+"\x00")), fmt.Sprintf("%02d", rng.IntN(40))
					if rng.IntN(4) == 0 {
						w.Delete(&part, []byte(row))
						delete(m, name(table, p, row))
						continue
					}
					value := binary.BigEndian.AppendUint64(nil, rng.Uint64())
					value = append(value, make([]byte, rng.IntN(120))...)
					if p == "long" && rng.IntN(4) == 0 {
						value = bytes.Repeat(value, 60)
					}
					w.Put(&part, []byte(row), value)
					m[name(table, p, row)] = string(value)
				}
				return nil
			}))
		}
	}
	for range 4 {
		change(100)
		require.NoError(t, db.Checkpoint(context.Background()))
	}
	if closed {
		shut(t, db)
		return imageOf(t, path), m
	}
	db.SetCommit(func(*bolt.Tx) error { return syscall.ENOSPC })
	db.running.Lock()
	db.rotate()
	db.running.Unlock()
	change(30)
	im := imageOf(t, path)
	db.Crash()
	return im, m
}

// flipResult is what became of a flip.
type flipResult struct {
	refused  error // by Open
	damaged  int   // rows that cannot be read
	doubtful int   // rows that were never there, and cannot be told to be missing
	wrong    string
}

// tryFlip opens a damaged file, reads all of it, writes to all parts, flushes, closes, opens and reads again.
func tryFlip(t *testing.T, path string, m model) (out flipResult) {
	o := options(path)
	o.Memory = 64 << 10
	db, err := Open(o)
	if err != nil {
		out.refused = err
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotStore) && !errors.Is(err, ErrOtherLog) {
			out.wrong = "refused: " + err.Error()
		}
		return out
	}
	defer func() {
		if db != nil {
			db.Crash()
		}
	}()
	out.read(db, m)
	if out.wrong != "" {
		return out
	}
	m = maps.Clone(m)
	write := func() {
		for round := range 3 {
			for table := heads; table <= bodies; table++ {
				for _, p := range flipParts {
					err := db.Update(context.Background(), 100, func(w *Writer) error {
						part := Of(table, []byte(p+"\x00"))
						for _, row := range []string{"new" + fmt.Sprint(round), fmt.Sprintf("%02d", round*7)} {
							value := bytes.Repeat([]byte(row), 1+round*300)
							w.Put(&part, []byte(row), value)
							m[name(table, p, row)] = string(value)
						}
						row := fmt.Sprintf("%02d", 1+round*9)
						w.Delete(&part, []byte(row))
						delete(m, name(table, p, row))
						return nil
					})
					if err != nil {
						out.wrong = "write: " + err.Error()
						return
					}
				}
			}
			if err := db.Checkpoint(context.Background()); err != nil {
				out.wrong = "flush: " + err.Error()
				return
			}
		}
	}
	if write(); out.wrong != "" {
		return out
	}
	out.read(db, m)
	if db.Stats().Failed != nil {
		out.wrong = "failed: " + db.Stats().Failed.Error()
	}
	if out.wrong != "" {
		return out
	}
	err = db.Close(context.Background())
	db = nil
	if err != nil {
		out.wrong = "close: " + err.Error()
		return out
	}
	if db, err = Open(o); err != nil {
		out.wrong = "open again: " + err.Error()
		return out
	}
	out.read(db, m)
	return out
}

// read compares all that a DB says with the model.
func (out *flipResult) read(db *DB, m model) {
	out.damaged, out.doubtful = 0, 0
	err := db.View(context.Background(), func(s *Snapshot) error {
		for table := heads; table <= bodies; table++ {
			for _, p := range flipParts {
				part, prefix := Of(table, []byte(p+"\x00")), name(table, p, "")
				for i := range 44 {
					row := fmt.Sprintf("%02d", i)
					want, there := m[prefix+row]
					switch got, err := s.Get(&part, []byte(row)); {
					case errors.Is(err, ErrCorrupt) && there:
						out.damaged++
					case errors.Is(err, ErrCorrupt):
						out.doubtful++
					case err != nil || string(got) != want || there != (got != nil):
						out.wrong = fmt.Sprintf("get %q: %q, %v; want %q", prefix+row, got, err, want)
					}
				}
				var want []string
				for _, k := range slices.Sorted(maps.Keys(m)) {
					if row, ok := strings.CutPrefix(k, prefix); ok {
						want = append(want, row)
					}
				}
				for _, from := range []int{0, len(want) / 2} {
					left := want[min(from, len(want)):]
					start := ""
					if from > 0 {
						start = left[0]
					}
					err := s.Scan(&part, nil, []byte(start), func(row, value []byte) (bool, error) {
						if len(left) == 0 || string(row) != left[0] || string(value) != m[prefix+string(row)] {
							out.wrong = fmt.Sprintf("scan %q: %q %q", prefix, row, value)
							return false, nil
						}
						left = left[1:]
						return true, nil
					})
					if err == nil && len(left) != 0 || err != nil && !errors.Is(err, ErrCorrupt) {
						out.wrong = fmt.Sprintf("scan %q: %v, without %q", prefix, err, left)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		out.wrong = "view: " + err.Error()
	}
}

// inUse returns the bytes of an image that mean something, as file and offset.
func (im *image) inUse() (list [][2]int) {
	for i, b := range im {
		for at := 0; at < len(b); at += 16 {
			if !bytes.Equal(b[at:min(at+16, len(b))], make([]byte, min(16, len(b)-at))) {
				for j := at; j < min(at+16, len(b)); j++ {
					list = append(list, [2]int{i, j})
				}
			}
		}
	}
	return list
}

func TestFlips(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%t", closed), func(t *testing.T) {
			dir := ram(t)
			im, m := flipFile(t, filepath.Join(dir, "base"), closed)
			path := filepath.Join(dir, "db")
			im.put(t, path)
			out := tryFlip(t, path, m)
			require.Equal(t, flipResult{}, out, "without a flip")
			bytesInUse := im.inUse()
			rng := rand.New(rand.NewPCG(uint64(*flipsN), 1))
			tally := map[string]int{}
			for range *flipsN {
				at, bit := bytesInUse[rng.IntN(len(bytesInUse))], rng.IntN(8)
				flipOne(t, im, m, path, at, bit, tally)
			}
			t.Logf("%d bytes in use: %v", len(bytesInUse), tally)
			require.LessOrEqual(t, tally["refused"], max(1, *flipsN/100))
			require.Equal(t, closed, tally["refused for the log"] == 0)
			require.NotZero(t, tally["damaged rows"])
		})
	}
}

// flipOne tries one bit.
func flipOne(t *testing.T, im image, m model, path string, at [2]int, bit int, tally map[string]int) {
	t.Helper()
	b := im[at[0]]
	b[at[1]] ^= 1 << bit
	im.put(t, path)
	b[at[1]] ^= 1 << bit
	out := tryFlip(t, path, m)
	if out.wrong != "" {
		t.Errorf("file %d, byte %d (page %d), bit %d: %s", at[0], at[1], at[1]/4096, bit, out.wrong)
		if page := at[1] / 4096 * 4096; at[0] == 0 {
			list, leaf, used, err := parse(b[page:min(len(b), page+4096)], nil)
			t.Logf("a leaf: %t, %d bytes used, %v; at %d: %q", leaf, used, err, at[1]-page, b[max(page, at[1]-32):at[1]+16])
			for i := range list {
				t.Logf("%q: %d bytes", list[i].key, len(list[i].value))
			}
		}
		tally["wrong"]++
	}
	switch {
	case out.refused != nil && at[0] != 0:
		tally["refused for the log"]++
	case out.refused != nil:
		t.Logf("page %d, byte %d, bit %d: %v", at[1]/4096, at[1]%4096, bit, out.refused)
		tally["refused"]++
	case out.damaged > 0:
		tally["damaged rows"]++
	default:
		tally["no effect"]++
	}
	if out.doubtful > 0 {
		tally["doubtful"]++
	}
}
