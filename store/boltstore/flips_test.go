package boltstore_test

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore"
)

var (
	flipCount = flag.Int("boltstore.flips", 60, "bits that TestFlips turns, for each state of the files")
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
// asks for what is damaged. A model in memory gets all that the store did not refuse. -boltstore.flips=2000 is a campaign.
func TestFlips_K13_I38(t *testing.T) {
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

func flipConfig() boltstore.Config { return boltstore.Config{MaxSize: 16 << 20, Memory: 2 << 20} }

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
