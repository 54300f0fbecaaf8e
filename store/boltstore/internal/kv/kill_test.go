package kv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// killEnv makes the test binary a process that writes until it is killed.
const killEnv = "KV_KILL_CHILD"

const killWriters = 4

func TestMain(m *testing.M) {
	if path := os.Getenv(killEnv); path != "" {
		fmt.Fprintln(os.Stderr, killChild(path, os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// killChild opens, writes, takes backups, closes and opens again until it is killed, and says what was acknowledged. It returns only
// if something fails. args: the seed, early or not, the next operation of each writer.
func killChild(path string, args []string) error {
	seed, _ := strconv.ParseUint(args[0], 10, 64)
	h := newHistory(seed, killWriters)
	for w := range h.writers {
		n, _ := strconv.Atoi(args[2+w])
		h.writers[w].ops = make([]told, n)
	}
	var mu sync.Mutex
	say := func(w, n int) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(w, n)
	}
	for {
		db, err := Open(tiny(path, nil))
		if err != nil {
			return err
		}
		stop := make(chan struct{})
		var wg, backups sync.WaitGroup
		failures := make(chan error, killWriters+1)
		backups.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := db.Backup(context.Background(), func(*bolt.Tx) error { return nil }); err != nil {
					failures <- err
					return
				}
			}
		})
		for w := range killWriters {
			wg.Go(func() {
				for range rand.IntN(400) {
					n := len(h.writers[w].ops)
					if args[1] == "early" {
						say(w, n)
					}
					if err := h.do(context.Background(), db, w); err != nil {
						failures <- err
						return
					}
					if args[1] != "early" {
						say(w, n)
					}
				}
			})
		}
		wg.Wait()
		close(stop)
		backups.Wait()
		if err := db.Close(context.Background()); err != nil {
			return err
		}
		select {
		case err := <-failures:
			return err
		default:
		}
	}
}

// killRounds has children killed and checks what they leave. spoil is done to the files before they are opened again.
func killRounds(t *testing.T, rounds int, mode string, spoil func(path string)) (answered int, err error) {
	seed, rnd := seeded(t)
	path := filepath.Join(fast(t), "db")
	h := newHistory(seed, killWriters)
	unclean := 0
	for round := range rounds {
		args := []string{fmt.Sprint(seed), mode}
		for _, w := range h.writers {
			args = append(args, fmt.Sprint(len(w.ops)))
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), killEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		first := bufio.NewReader(out)
		if round%3 != 0 { // the others may be killed while they open
			_, err = first.Peek(1)
			require.NoError(t, err)
		}
		kill := time.AfterFunc(time.Duration(rnd.IntN(100_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		for lines := bufio.NewScanner(first); lines.Scan(); {
			var w, n int
			if k, _ := fmt.Sscan(lines.Text(), &w, &n); k == 2 {
				for len(h.writers[w].ops) <= n {
					h.writers[w].ops = append(h.writers[w].ops, told{as: unknown})
				}
				h.writers[w].ops[n].as = acked
				answered++
			}
		}
		kill.Stop()
		require.ErrorContains(t, cmd.Wait(), "killed")
		if _, err := os.Stat(path + walNames[0]); err == nil {
			unclean++
		}
		for _, w := range h.writers { // it may have done one more
			w.ops = append(w.ops, told{as: unknown})
		}
		if spoil != nil {
			spoil(path)
		}
		if err := h.afterKill(path); err != nil {
			return answered, fmt.Errorf("round %d: %w", round, err)
		}
	}
	t.Logf("%d kills, %d of them of an open file, %d operations acknowledged", rounds, unclean, answered)
	return answered, nil
}

// afterKill checks a file, and notes what has become of the operations whose outcome was not known.
func (h *history) afterKill(path string) error {
	db, err := Open(tiny(path, nil))
	if err != nil {
		return err
	}
	err = h.check(db, 0)
	for _, who := range h.writers {
		for n := range who.ops {
			if who.ops[n].as != unknown {
				continue
			}
			p, has := Of(rows, []byte(who.name+"\x00")), false
			err = errors.Join(err, db.View(context.Background(), func(s *Snapshot) error {
				v, err := s.Get(&p, fmt.Appendf(nil, "op/%06d", n))
				has = v != nil
				return err
			}))
			if who.ops[n].as = refused; has {
				who.ops[n].as = acked
			}
		}
	}
	return errors.Join(err, db.Close(context.Background()))
}

func TestKill_AtAnyMoment(t *testing.T) {
	for range rounds(1, 12) { // of 25 each, as checks take longer the more there is
		n, err := killRounds(t, 25, "", nil)
		require.NoError(t, err)
		require.Greater(t, n, 100)
	}
}

// Controls: the same harness must find what is lost if the log is not read again, and if operations are acknowledged too early.
func TestKill_Controls(t *testing.T) {
	for _, tt := range []struct {
		name, mode string
		spoil      func(path string)
	}{
		{"log not read again", "", func(path string) {
			for _, suffix := range walNames {
				if f, err := os.OpenFile(path+suffix, os.O_RDWR, 0); err == nil {
					_, _ = f.WriteAt(make([]byte, 1<<20), walPage)
					_ = f.Close()
				}
			}
		}},
		{"acknowledged before it is durable", "early", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := killRounds(t, 60, tt.mode, tt.spoil)
			require.ErrorContains(t, err, "was acknowledged")
			t.Log(err)
		})
	}
}

// rounds is a number of rounds, and that for a long run.
func rounds(short, long int) int {
	if os.Getenv("KV_FULL") != "" {
		return long
	}
	return short
}
