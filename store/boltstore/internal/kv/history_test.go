package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/manydevice/manydevice/store"
)

// history is what writers did to a DB, one operation after the other each, and what they were told. Operation n of a writer does
// the same whenever it is done, so that what a DB must hold follows from which of them it has.
type history struct {
	seed    uint64
	now     func() int // place on the tape
	writers []*historian
}

type historian struct {
	name string
	mu   sync.Mutex
	ops  []told
}

// told is what was told of an operation.
type told struct {
	begun, ended int // places on the tape; ended -1: not yet
	as           outcome
}

type outcome int

const (
	acked outcome = iota
	refused
	unknown
)

func newHistory(seed uint64, writers int) *history {
	h := &history{seed: seed, now: func() int { return 0 }}
	for w := range writers {
		h.writers = append(h.writers, &historian{name: fmt.Sprint("writer", w)})
	}
	return h
}

// effects calls put with what an operation changes; a nil value is a removal.
func (h *history) effects(writer string, n int, put func(t Table, part, row string, value []byte)) {
	rnd := rand.New(rand.NewPCG(h.seed, uint64(n)<<8|uint64(writer[len(writer)-1])))
	text := func(size int) []byte {
		b := fmt.Appendf(nil, "%s:%d:", writer, n)
		return append(b, bytes.Repeat([]byte{byte(n)}, size)...)
	}
	put(heads, writer, "", text(0))
	put(rows, writer, fmt.Sprintf("op/%06d", n), text(0))
	for range rnd.IntN(4) {
		row := fmt.Sprintf("row/%02d", rnd.IntN(40))
		if rnd.IntN(4) == 0 {
			put(rows, writer, row, nil)
			continue
		}
		size := rnd.IntN(400)
		if rnd.IntN(25) == 0 {
			size = rnd.IntN(9000)
		}
		put(rows, writer, row, text(size))
	}
	put(bodies, fmt.Sprint(writer, "#", n%5), "m", text(rnd.IntN(700)))
}

// do does a writer's next operation. Both it and its outcome are noted.
func (h *history) do(ctx context.Context, db *DB, w int) error {
	who := h.writers[w]
	who.mu.Lock()
	n := len(who.ops)
	who.ops = append(who.ops, told{begun: h.now(), ended: -1, as: unknown})
	who.mu.Unlock()
	err := db.Update(ctx, 1000, func(w *Writer) error { return h.apply(w, who.name, n) })
	who.mu.Lock()
	defer who.mu.Unlock()
	who.ops[n].ended = h.now()
	switch {
	case err == nil:
		who.ops[n].as = acked
	case !errors.Is(err, store.ErrUnknownOutcome):
		who.ops[n].as = refused
	}
	return err
}

func (h *history) apply(w *Writer, name string, n int) error {
	if err := w.Take(500, false); err != nil {
		return err
	}
	h.effects(name, n, func(t Table, part, row string, value []byte) {
		p := Of(t, []byte(part+"\x00"))
		if value == nil {
			w.Delete(&p, []byte(row))
		} else {
			w.Put(&p, []byte(row), value)
		}
	})
	return nil
}

// check returns what is wrong with a DB that was reopened after a crash at a place of the tape.
func (h *history) check(db *DB, at int) error {
	return db.View(context.Background(), func(s *Snapshot) error {
		for _, who := range h.writers {
			who.mu.Lock()
			err := h.checkOne(s, who, at)
			who.mu.Unlock()
			if err != nil {
				return fmt.Errorf("%s: %w", who.name, err)
			}
		}
		return nil
	})
}

func (h *history) checkOne(s *Snapshot, who *historian, at int) error {
	own := Of(rows, []byte(who.name+"\x00"))
	got := map[string]string{}
	if err := s.Scan(&own, nil, nil, func(row, value []byte) (bool, error) {
		got[string(row)] = string(value)
		return true, nil
	}); err != nil {
		return err
	}
	has := map[int]bool{}
	for row := range got {
		if n, ok := strings.CutPrefix(row, "op/"); ok {
			i, _ := strconv.Atoi(n)
			has[i] = true
		}
	}
	want, last := map[string]string{}, ""
	others := map[string]string{}
	for n, op := range who.ops {
		switch {
		case !has[n] && op.as == acked && op.ended <= at:
			return fmt.Errorf("operation %d was acknowledged at %d and is not there at %d", n, op.ended, at)
		case has[n] && op.as == refused && op.ended <= at:
			return fmt.Errorf("operation %d was refused and is there", n)
		case has[n] && op.begun > at:
			return fmt.Errorf("operation %d is there before it was begun", n)
		}
		if !has[n] {
			continue
		}
		delete(has, n)
		h.effects(who.name, n, func(t Table, part, row string, value []byte) {
			switch {
			case t == heads:
				last = string(value)
			case t == bodies:
				others[part] = string(value)
			case value == nil:
				delete(want, row)
			default:
				want[row] = string(value)
			}
		})
	}
	if len(has) > 0 {
		return fmt.Errorf("%d operations are there that nobody has done", len(has))
	}
	return h.compare(s, who, want, got, others, last)
}

func (h *history) compare(s *Snapshot, who *historian, want, got, others map[string]string, last string) error {
	for row, value := range want {
		if got[row] != value {
			return fmt.Errorf("row %s is %.20q, want %.20q", row, got[row], value)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d rows, want %d", len(got), len(want))
	}
	head := Of(heads, []byte(who.name+"\x00"))
	if v, err := s.Get(&head, nil); err != nil || string(v) != last {
		return fmt.Errorf("head is %q, want %q, %w", v, last, err)
	}
	for i := range 5 {
		name := fmt.Sprint(who.name, "#", i)
		p := Of(bodies, []byte(name+"\x00"))
		if v, err := s.Get(&p, []byte("m")); err != nil || string(v) != others[name] {
			return fmt.Errorf("body %s is %.20q, want %.20q, %w", name, v, others[name], err)
		}
	}
	return nil
}

// run has all writers do a number of operations each, or until one of them fails in a way that stop says.
func (h *history) run(db *DB, n int, stop func(error) bool) {
	var wg sync.WaitGroup
	for w := range h.writers {
		wg.Go(func() {
			for range n {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				err := h.do(ctx, db, w)
				cancel()
				if err != nil && stop(err) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// outcomes counts what was told.
func (h *history) outcomes() (n [3]int) {
	for _, w := range h.writers {
		for _, op := range w.ops {
			n[op.as]++
		}
	}
	return n
}

func always(error) bool { return true }

// tiny has memtables of some dozens of operations.
func tiny(path string, d disk) Options {
	o := options(path)
	o.Memory, o.Reserve, o.MaxSize = 512<<10, 1<<20, 64<<20
	o.LockTimeout = time.Second
	o.disk = d
	return o
}

// imagesOf opens some of the images that a tape may leave, and checks them. It returns how many there were.
func imagesOf(t *testing.T, h *history, p *tape, rnd *rand.Rand, share float64, o Options, each func(db *DB, files map[string][]byte, at int) error) (n int, first error) {
	d := p.drive(rnd)
	for at := range len(p.steps) + 1 {
		var next *step
		if at < len(p.steps) {
			next = &p.steps[at]
		}
		many := 0
		if rnd.Float64() < share {
			many = 1
		}
		if next != nil && next.kind == "commit" {
			many = 1 + int(10*share)
		}
		for range many {
			files := d.image(next)
			putImage(t, o.Path, p.path, files)
			db, err := Open(o)
			n++
			if err == nil {
				// What was told at this place was so before it.
				err = h.check(db, at)
				if err == nil && each != nil {
					err = each(db, files, at)
				}
				err = errors.Join(err, db.Close(context.Background()))
			}
			if err != nil {
				kind := "end"
				if next != nil {
					kind = next.kind
				}
				return n, fmt.Errorf("at step %d (%s) of %d: %w", at, kind, len(p.steps), err)
			}
		}
		if next != nil {
			d.play(at, *next)
		}
	}
	return n, nil
}

// kinds counts the steps of a tape, for the log.
func (p *tape) kinds() string {
	n := map[string]int{}
	for _, s := range p.steps {
		n[s.kind]++
	}
	var list []string
	for k, c := range n {
		list = append(list, fmt.Sprint(k, " ", c))
	}
	sort.Strings(list)
	return strings.Join(list, ", ")
}

func newFile(t testing.TB, path string) {
	shut(t, open(t, tiny(path, nil)))
}

func seeded(t testing.TB) (uint64, *rand.Rand) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return seed, rand.New(rand.NewPCG(seed, 7))
}
