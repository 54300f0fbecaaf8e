package boltstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

var (
	flipCount = flag.Int("boltstore.flips", 0, "bits that TestFlips turns, for each state of the files; 0: it is left out")
	flipSeed  = flag.Uint64("boltstore.seed", 1, "what TestFlips begins with")
	flipOnly  = flag.Int("boltstore.flip", -1, "the only bit that TestFlips turns; negative: all")
)

// What a flipped bit may do. The first five are what a store promises; none of the others may happen. That a message stays known
// is no harm: what refers to it cannot be read, and may well be there. A damaged last group of a log cannot be told from one that
// was being written when power went.
const (
	outUnnoticed = "not noticed, all is right"
	outKept      = "a message is known longer than it should be"
	outTorn      = "the last group of a log is taken for a torn one"
	outTold      = "ErrCorrupt for who asks, all else is right"
	outRefused   = "refused at Open"
	outLater     = "refused at the second Open"
	outUntyped   = "AN ERROR THAT DOES NOT SAY ErrCorrupt"
	outWrong     = "WRONG DATA"
	outForeign   = "ANOTHER ACCOUNT'S DATA"
	outFailed    = "THE STORE FAILED"
	outHung      = "THE STORE HUNG"
	outDied      = "THE PROCESS DIED"
)

var flipOutcomes = []string{
	outUnnoticed, outKept, outTorn, outTold, outRefused, outLater, outUntyped, outWrong, outForeign, outFailed, outHung, outDied,
}

// flipDeeds are how many deeds fill the store, besides the accounts' beginnings.
const (
	flipAccounts = 20
	flipDeeds    = 700
	flipHang     = 10 * time.Second
)

// TestFlips_K13_I38 fills a store, closes it (or copies its files while it is open, as a kill would leave them), and then turns
// one bit after another, each in a fresh copy: what is read and written then must be right, or refused with ErrCorrupt to who
// asks for what is damaged. A model in memory gets all that the store did not refuse. Use it with -boltstore.flips=2000.
func TestFlips_K13_I38(t *testing.T) {
	if *flipCount == 0 {
		t.Skip("the layout that this tree has does not pass it; run it with -boltstore.flips=200")
	}
	closed, left := flipMasters(t)
	for _, state := range []struct{ name, dir string }{{"closed", closed}, {"killed", left}} {
		t.Run(state.name, func(t *testing.T) {
			names, err := storeFiles(filepath.Join(state.dir, "store.db"))
			require.NoError(t, err)
			for _, name := range names {
				st, err := os.Stat(name)
				require.NoError(t, err)
				t.Logf("%s: %d bytes", filepath.Base(name), st.Size())
			}
			control := runFlip(&flipper{dir: state.dir, work: memoryDir(t), none: true}, 0)
			require.Equal(t, outUnnoticed, control.outcome, "no bit turned: %s", control.detail)
			reports := flipAll(t, state.dir)
			by := map[string][]flipReport{}
			for _, r := range reports {
				by[r.outcome] = append(by[r.outcome], r)
			}
			for _, o := range flipOutcomes {
				t.Logf("%6d  %s", len(by[o]), o)
			}
			asked := map[int]int{}
			for _, r := range by[outTold] {
				asked[r.accounts]++
			}
			t.Logf("accounts that were told of one bit → bits: %v", asked)
			logs := 0
			for i, r := range by[outRefused] {
				if i < 5 {
					t.Logf("%s: bit %d: %s", outRefused, r.n, r.detail)
				}
				if strings.HasPrefix(r.detail, "store.db-") {
					logs++
				}
			}
			t.Logf("%d of %d refused at Open: a bit of a log", logs, len(by[outRefused]))
			bad := 0
			for _, o := range flipOutcomes[5:] {
				bad += len(by[o])
				for _, r := range by[o][:min(len(by[o]), 12)] {
					t.Logf("%s: bit %d: %s", o, r.n, r.detail)
				}
			}
			require.Zero(t, bad, "outcomes that may not be")
		})
	}
}

// flipMasters makes two folders with a filled store: as Close leaves it, and as the end of the process does.
func flipMasters(t *testing.T) (closed, left string) {
	closed, left = memoryDir(t), memoryDir(t)
	path := filepath.Join(memoryDir(t), "store.db")
	cfg := flipConfig()
	s := open(t, path, cfg)
	w := newAuthor(*flipSeed, s.Info().IDKey, flipAccounts)
	deeds := w.beginnings()
	deeds = append(deeds, w.some(flipDeeds)...)
	for i := range deeds {
		_, err := deeds[i].do(t.Context(), s)
		require.NoError(t, err, "%+v", deeds[i])
		if i == len(deeds)*6/10 {
			require.NoError(t, s.Compact(t.Context()))
		}
	}
	time.Sleep(200 * time.Millisecond) // what runs in the background
	copyStore(t, path, left)
	after := w.afterwards()
	closeStore(t, s)
	copyStore(t, path, closed)
	for _, dir := range []string{closed, left} {
		var b bytes.Buffer
		require.NoError(t, gob.NewEncoder(&b).Encode(flipWork{deeds, after, w.ids, w.accounts}))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "deeds"), b.Bytes(), 0o600))
	}
	return closed, left
}

func flipConfig() boltstore.Config { return withMemory(boltstore.Config{MaxSize: 16 << 20}, 2<<20) }

// flipWork is what was done to a store, and what will be.
type flipWork struct {
	Deeds, After []deed
	IDs          []event.MessageID // all that the deeds use, also those afterwards
	Accounts     []event.Account
}

func copyStore(t *testing.T, path, dir string) {
	names, err := storeFiles(path)
	require.NoError(t, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, writeSparse(filepath.Join(dir, filepath.Base(name)), b))
	}
}

// flipReport is what a bit did.
type flipReport struct {
	n        int
	outcome  string
	accounts int // that got ErrCorrupt when all was read at first
	detail   string
}

// flipAll turns all bits, in as many children at a time as there are processors. A child that ends is followed by another one.
func flipAll(t *testing.T, dir string) []flipReport {
	var mu sync.Mutex
	var all []flipReport
	var wg sync.WaitGroup
	workers := max(runtime.NumCPU(), 2)
	from, to := 0, *flipCount
	if *flipOnly >= 0 {
		from, to, workers = *flipOnly, *flipOnly+1, 1
	}
	for w := range workers {
		work := memoryDir(t)
		wg.Go(func() {
			for next := from + w; next < to; {
				done, last, err := flipRange(t, dir, work, next, to, workers)
				mu.Lock()
				all = append(all, done...)
				if err != nil {
					what := outDied
					if strings.Contains(err.Error(), flipHung) {
						what = outHung
					}
					all = append(all, flipReport{n: last, outcome: what, detail: err.Error()})
				}
				mu.Unlock()
				next = last + workers
			}
		})
	}
	wg.Wait()
	return all
}

const flipHung = "nothing happened for too long"

// flipRange has one child turn bits until it is done or ends otherwise, and returns the last one that it began.
func flipRange(t *testing.T, dir, work string, from, to, step int) (done []flipReport, last int, err error) {
	cmd := child(t.Context(), "flips", dir, work, *flipSeed, from, to, step)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	last = from
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		var r flipReport
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 4)
		r.n, _ = strconv.Atoi(f[0])
		last = r.n
		if len(f) == 4 {
			r.outcome = f[1]
			r.accounts, _ = strconv.Atoi(f[2])
			r.detail, _ = strconv.Unquote(f[3])
			done = append(done, r)
		}
	}
	if err := cmd.Wait(); err != nil {
		text := stderr.String()
		return done, last, fmt.Errorf("%w: %s", err, text[:min(len(text), 8000)])
	}
	return done, to, nil
}

// flipsChild turns bits, and says what each of them does.
func flipsChild(args []string) error {
	f := &flipper{dir: args[0], work: args[1]}
	var err error
	if f.seed, err = strconv.ParseUint(args[2], 10, 64); err != nil {
		return err
	}
	var at [3]int
	for i := range at {
		if at[i], err = strconv.Atoi(args[3+i]); err != nil {
			return err
		}
	}
	for n := at[0]; n < at[1]; n += at[2] {
		fmt.Println(n)
		timer := time.AfterFunc(flipHang, func() {
			stacks := make([]byte, 1<<20)
			fmt.Fprintln(os.Stderr, flipHung, string(stacks[:runtime.Stack(stacks, true)]))
			os.Exit(3)
		})
		r := runFlip(f, n)
		timer.Stop()
		fmt.Printf("%d\t%s\t%d\t%s\n", n, r.outcome, r.accounts, strconv.Quote(r.detail))
	}
	return nil
}

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
	for _, l := range strings.Split(have, "\n") {
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
