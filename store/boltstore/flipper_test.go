package boltstore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// flipper turns bits in copies of a store.
type flipper struct {
	dir, work string // where the store is, and where copies go
	seed      uint64
	none      bool // turn no bit

	flipWork
	files []flipFile
}

type flipFile struct {
	name   string
	data   []byte
	blocks []int // of flipBlock bytes, that are not all zero
}

const flipBlock = 512

func (f *flipper) load() error {
	b, err := os.ReadFile(filepath.Join(f.dir, "deeds"))
	if err != nil {
		return err
	}
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&f.flipWork); err != nil {
		return err
	}
	names, err := storeFiles(filepath.Join(f.dir, "store.db"))
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		one := flipFile{name: filepath.Base(name), data: data}
		for i := 0; i*flipBlock < len(data); i++ {
			if !zero(data[i*flipBlock : min((i+1)*flipBlock, len(data))]) {
				one.blocks = append(one.blocks, i)
			}
		}
		f.files = append(f.files, one)
	}
	return nil
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// place chooses a bit: nine of ten times where there is something.
func (f *flipper) place(n int) (file, at int, bit byte) {
	rnd := rand.New(rand.NewPCG(f.seed, uint64(n)))
	if rnd.IntN(10) == 0 {
		total := 0
		for _, one := range f.files {
			total += len(one.data)
		}
		at = rnd.IntN(total)
		for file = 0; at >= len(f.files[file].data); file++ {
			at -= len(f.files[file].data)
		}
	} else {
		total := 0
		for _, one := range f.files {
			total += len(one.blocks)
		}
		at = rnd.IntN(total)
		for file = 0; at >= len(f.files[file].blocks); file++ {
			at -= len(f.files[file].blocks)
		}
		one := f.files[file]
		at = min(one.blocks[at]*flipBlock+rnd.IntN(flipBlock), len(one.data)-1)
	}
	return file, at, 1 << rnd.IntN(8)
}

// copy makes a copy of the store with one bit turned, and says where.
func (f *flipper) copy(n int) (where string, err error) {
	old, err := storeFiles(filepath.Join(f.work, "store.db"))
	if err != nil {
		return "", err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return "", err
		}
	}
	file, at, bit := f.place(n)
	for i, one := range f.files {
		if i == file && !f.none {
			kind := pageKind(one.data, at)
			one.data[at] ^= bit
			defer func() { one.data[at] ^= bit }()
			where = fmt.Sprintf("%s byte %d (page %d + %d) bit %d: ", one.name, at, at/4096, at%4096, bit)
			if one.name == "store.db" {
				where += kind + ": "
			}
		}
		if err := writeSparse(filepath.Join(f.work, one.name), one.data); err != nil {
			return "", err
		}
	}
	return where, nil
}

// writeSparse writes a file, and leaves holes where it has nothing.
func writeSparse(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	const part = 64 << 10
	errs := []error{f.Truncate(int64(len(data)))}
	for at := 0; at < len(data); at += part {
		if b := data[at:min(at+part, len(data))]; !zero(b) {
			_, err := f.WriteAt(b, int64(at))
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, f.Close())...)
}

// runFlip turns one bit and returns the worst that came of it.
func runFlip(f *flipper, n int) flipReport {
	if f.files == nil {
		if err := f.load(); err != nil {
			return flipReport{n: n, outcome: outUntyped, detail: err.Error()}
		}
	}
	r := &flipRun{flipper: f, report: flipReport{n: n, outcome: outUnnoticed}, known: map[string]string{}}
	where, err := f.copy(n)
	if err != nil {
		r.worse(outUntyped, err.Error())
		return r.report
	}
	r.run()
	if r.report.outcome == outWrong && strings.HasPrefix(where, "store.db-") {
		if _, err := f.copy(n); err != nil {
			return r.report
		}
		short := *f
		short.Deeds = f.Deeds[:len(f.Deeds)-1]
		again := &flipRun{flipper: &short, report: flipReport{n: n, outcome: outUnnoticed}, known: map[string]string{}}
		if again.run(); again.report.outcome == outUnnoticed {
			again.report.outcome = outTorn
			return again.report
		}
	}
	r.report.detail = where + r.report.detail
	return r.report
}

// flipRun is what is done to one copy, and to a model.
type flipRun struct {
	*flipper
	report flipReport
	model  store.Store
	author *author
	known  map[string]string // what the model knew of messages once
}

// worse notes an outcome, unless there was a worse one.
func (r *flipRun) worse(outcome, detail string) {
	if slices.Index(flipOutcomes, outcome) > slices.Index(flipOutcomes, r.report.outcome) {
		r.report.outcome, r.report.detail = outcome, detail[:min(len(detail), 1500)]
	}
}

func (r *flipRun) run() {
	ctx := context.Background()
	r.model = memstore.New(memstore.Config{})
	for i := range r.Deeds {
		if _, err := r.Deeds[i].do(ctx, r.model); err != nil {
			r.worse(outUntyped, "model: "+err.Error())
			return
		}
	}
	r.author = &author{accounts: r.Accounts}
	asks := questions(append(slices.Clone(r.Accounts), "account-of-nobody"), r.IDs)
	path := filepath.Join(r.work, "store.db")
	for again := range 2 {
		s, err := boltstore.Open(path, flipConfig())
		if err != nil {
			r.refused(again, err)
			return
		}
		told := r.compare(ctx, s, asks)
		if again == 0 {
			r.report.accounts = len(told)
			for _, d := range slices.Concat(repeats(r.Deeds, 40), r.After) {
				r.do(ctx, s, &d)
			}
			r.background(ctx, s)
			r.compare(ctx, s, asks)
		}
		select {
		case <-s.Failed():
			r.worse(outFailed, fmt.Sprint("Failed is closed: ", s.Stats().Failed))
		default:
		}
		if err := s.Close(ctx); err != nil && !typed(err) {
			r.worse(outUntyped, "close: "+err.Error())
		}
	}
}

func (r *flipRun) refused(again int, err error) {
	switch {
	case !openError(err):
		r.worse(outUntyped, "open: "+err.Error())
	case again == 0:
		r.worse(outRefused, err.Error())
	default:
		r.worse(outLater, err.Error())
	}
}

// openError reports whether an error of Open is one of its own.
func openError(err error) bool {
	for _, e := range []error{boltstore.ErrCorrupt, boltstore.ErrNotStore, boltstore.ErrOldSchema, store.ErrSchema} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.HasPrefix(err.Error(), "boltstore: open: boltstore: ") // a sentinel that only one layout has
}

// compare asks store and model the same, and returns the accounts that were told of damage.
func (r *flipRun) compare(ctx context.Context, s store.Store, asks []question) map[event.Account]bool {
	told := map[event.Account]bool{}
	for _, q := range asks {
		have, err := q.ask(ctx, s)
		what := fmt.Sprint(q.name, " of ", q.account)
		if err != nil {
			if r.bad(what, err) {
				told[q.account] = true
			}
			continue
		}
		want, err := q.ask(ctx, r.model)
		if err != nil {
			r.worse(outUntyped, "model: "+err.Error())
		}
		if want != "none" {
			r.known[q.name] = want
		}
		if have == want {
			continue
		}
		outcome := outWrong
		if want == "none" && have == r.known[q.name] {
			outcome = outKept
		}
		if q.account != "" && r.author.foreign(q.account, have) {
			outcome = outForeign
		}
		r.worse(outcome, fmt.Sprintf("%s\nhave %s\nwant %s", what, difference(have, want), difference(want, have)))
	}
	return told
}

// difference is the first line of have that want has not.
func difference(have, want string) string {
	lines := strings.Split(want, "\n")
	for l := range strings.SplitSeq(have, "\n") {
		if !slices.Contains(lines, l) {
			return l[:min(len(l), 500)]
		}
	}
	return fmt.Sprint("nothing else, of ", len(lines), " lines")
}

// bad notes an error, and reports whether it is one that says that the file is damaged.
func (r *flipRun) bad(what string, err error) bool {
	switch {
	case errors.Is(err, store.ErrFailed):
		r.worse(outFailed, what+": "+err.Error())
	case typed(err):
		r.worse(outTold, what+": "+err.Error())
		return true
	default:
		r.worse(outUntyped, what+": "+err.Error())
	}
	return false
}

// do does a deed to the store, and to the model if it was not refused.
func (r *flipRun) do(ctx context.Context, s store.Store, d *deed) {
	what := d.String()
	have, err := d.do(ctx, s)
	if err != nil {
		if !typed(err) && !errors.Is(err, store.ErrFailed) {
			r.worse(outWrong, what+": "+err.Error()) // refused because of what is not so
			return
		}
		r.bad(what, err)
		return
	}
	want, err := d.do(ctx, r.model)
	if err != nil {
		r.worse(outWrong, what+": only the model says: "+err.Error())
	} else if have != want {
		r.worse(outWrong, fmt.Sprintf("%s\nhave %s\nwant %s", what, have, want))
	}
}

// String says what a deed is, for reports.
func (d *deed) String() string {
	switch {
	case d.Batch != nil:
		return fmt.Sprintf("batch of %s with %d messages", d.Batch.Account, len(d.Batch.Messages))
	case d.Cursors != nil:
		return fmt.Sprint("cursor of ", d.Cursors[0].Account)
	case d.Trim != nil:
		return fmt.Sprint("trim of ", d.Trim.Account)
	case d.Void != nil:
		return fmt.Sprint("void of ", d.Void.Account)
	}
	return fmt.Sprint("deletion of ", d.Delete)
}

// background makes the store do what it would do in its own time.
func (r *flipRun) background(ctx context.Context, s *boltstore.Store) {
	for range 2 {
		if err := s.Compact(ctx); err != nil {
			r.bad("Compact", err)
		}
	}
	if _, err := s.Backup(ctx, io.Discard); err != nil {
		r.bad("Backup", err)
	}
}
