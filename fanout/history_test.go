package fanout_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/transporttest"
)

var (
	historySteps = flag.Int("fanout.steps", 6_000, "steps of the random histories over memory; over a file a tenth")
	historySeed  = flag.Uint64("fanout.seed", 0, "seed of the random histories; 0: another one each time")
)

const (
	historyRound = 800 // steps that one world lives through
	historyQuiet = 100 // steps from one moment of rest to the next
)

// history plays random steps on 4 accounts with 8 devices each, and holds what comes of it against a model.
type history struct {
	w        *world
	rnd      *rand.Rand
	accounts map[event.Account]*modelAccount
	members  []*member
	sent     []accepted
	faults   []func() // each ends one
	notes    []string
	steps    int
}

// member is a device of the history.
type member struct {
	*device
	h     *history
	in    bool // logged in, as far as is known
	sick  bool // its connection is slow or swallows frames
	saved transporttest.Saved
	gone  map[event.MessageID]bool // what it recalled or hid itself
	first bool                     // it has been there since the account began, and lost nothing
}

// accepted is a send that may be repeated.
type accepted struct {
	q   fanout.SendRequest
	res fanout.SendResult
	age int // of the account that sent it
	by  *member
}

var historyNames = []event.Account{"ann", "ben", "cid", "dot"}

var errDown = errors.New("the store is down")

func historyRules() policy.Rules {
	return policy.Rules{Platforms: map[event.Platform]int{"ios": 2, "android": 3, "web": 1, "linux": 8}}
}

func playHistory(w *world, seed uint64, steps int) {
	h := &history{w: w, rnd: rand.New(rand.NewPCG(seed, 1)), accounts: map[event.Account]*modelAccount{"fence": newModelAccount("fence")}}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("seed %d (-fanout.seed), after %d steps:\n%s", seed, h.steps, strings.Join(h.notes, "\n"))
		}
	})
	p, err := policy.New(historyRules())
	require.NoError(w.t, err)
	w.scfg.Policy = p
	w.restart()
	for _, a := range historyNames {
		h.accounts[a] = newModelAccount(a)
		for i := range 8 {
			m := &member{h: h, gone: map[event.MessageID]bool{}, device: &device{w: w, account: a, id: event.DeviceID(fmt.Sprint("d", i)), platform: []event.Platform{"ios", "android", "web"}[i%3]}}
			m.Device = transporttest.NewDevice(w.t, transporttest.DeviceConfig{Attach: m.attach, Nack: poison})
			h.members = append(h.members, m)
			w.devices = append(w.devices, m.device)
		}
	}
	for h.steps = range steps {
		h.step()
		if h.steps%historyQuiet == historyQuiet-1 {
			h.quiet()
		}
	}
	h.quiet()
}

// poison has a device refuse some entries.
func poison(e *event.Entry) string {
	if strings.HasPrefix(string(e.Payload), "poison") {
		return "poison"
	}
	return ""
}

// note keeps the steps, for the report of a failure.
func (h *history) note(format string, args ...any) {
	h.notes = append(h.notes, fmt.Sprintf("%5d ", h.steps)+fmt.Sprintf(format, args...))
}

func (h *history) account() *modelAccount {
	return h.accounts[historyNames[h.rnd.IntN(len(historyNames))]]
}

func (h *history) member() *member { return h.members[h.rnd.IntN(len(h.members))] }

func (h *history) one(n int) bool { return h.rnd.IntN(n) == 0 }

// must repeats an operation until it succeeds: faults of the store end by themselves.
func (h *history) must(op func() error) error {
	for range 50 {
		err := op()
		switch {
		case errors.Is(err, store.ErrUnknownOutcome):
			h.note("  outcome unknown")
			if h.one(8) {
				h.note("  crash")
				h.w.crash()
			}
		case errors.Is(err, errDown):
			h.note("  store is down")
		default:
			return err
		}
	}
	h.w.t.Fatal("the store does not come back")
	return nil
}

// step plays one of all kinds of steps.
func (h *history) step() {
	kinds := []struct {
		weight int
		play   func()
	}{
		{220, h.sendMessage}, {60, h.sendOperation}, {50, h.sendRegister}, {40, h.sendTargets}, {40, h.sendNarrow}, {70, h.sendChange},
		{20, h.repeat}, {20, h.publish}, {80, h.markRead}, {20, h.clearUnread},
		{120, h.connect}, {50, h.loginOne}, {30, h.leave}, {20, h.cut}, {20, h.hinder}, {20, h.holdAcks}, {15, h.save}, {15, h.lose},
		{10, h.odd}, {15, h.kick}, {5, h.removeDevice}, {2, h.deleteAccount}, {2, h.policy}, {20, h.trim}, {40, h.pass}, {10, h.flush},
		{25, h.fault}, {3, h.crash}, {3, h.restart},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	pick := h.rnd.IntN(total)
	for _, k := range kinds {
		if pick -= k.weight; pick < 0 {
			k.play()
			return
		}
	}
}

func (h *history) fault() {
	kinds := []storetest.Fault{
		{Method: storetest.Commit, Err: errDown}, {Method: storetest.Commit, Err: store.ErrUnknownOutcome}, storetest.LostAnswer(),
		{Method: storetest.Read, Err: errDown}, {Method: storetest.States, Err: errDown}, {Method: storetest.Cursors, Err: errDown},
		{Method: storetest.SaveCursors, Err: errDown}, {Method: storetest.SaveCursors, Err: errDown, After: true},
		{Method: storetest.Message, Err: errDown}, {Method: storetest.Conversations, Err: errDown}, {Method: storetest.Load, Err: errDown},
		{Method: storetest.Trim, Err: errDown, After: true},
	}
	f := kinds[h.rnd.IntN(len(kinds))]
	f.Times, f.Skip = 1+h.rnd.IntN(3), h.rnd.IntN(3)
	h.note("fault: %s %v after=%t", f.Method, f.Err, f.After)
	h.faults = append(h.faults, h.w.st.Inject(f))
}

func (h *history) heal() {
	for _, end := range h.faults {
		end()
	}
	h.faults = nil
}

// TestI10_RandomHistories plays histories in memory, where time costs nothing, and on a file.
func TestI10_RandomHistories(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	cfg := fanout.Config{
		Window: 7, PageEntries: 5, AckWait: 10 * time.Second, FrameWrite: 4 * time.Second, MaxEntries: 60, KeepMinimum: -1, TrimInterval: -1,
	}
	rounds := func(name string, steps int, round func(t *testing.T, cfg fanout.Config, seed uint64, steps int)) {
		t.Run(name, func(t *testing.T) {
			for i := uint64(0); steps > 0; i++ {
				n := min(steps, historyRound)
				steps -= n
				cfg := cfg
				if i%2 == 1 {
					cfg.MaxEntries, cfg.KeepMinimum, cfg.TailCache = 30, time.Hour, -1
				}
				t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) {
					t.Parallel()
					round(t, cfg, seed+i, n)
				})
			}
		})
	}
	rounds("memory", *historySteps, func(t *testing.T, cfg fanout.Config, seed uint64, steps int) {
		synctest.Test(t, func(t *testing.T) { playHistory(newWorld(t, "", cfg), seed, steps) })
	})
	rounds("file", *historySteps/10, func(t *testing.T, cfg fanout.Config, seed uint64, steps int) {
		playHistory(newWorld(t, filepath.Join(t.TempDir(), "store.db"), cfg), seed, steps)
	})
}
