package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

var killRounds = flag.Int("boltstore.kills", 3, "how often TestKill kills a process at each kind of work")

const killWriters = 8

// What a process is killed at.
const (
	killLoad    = "load"     // sends, and an account that is deleted again and again
	killWork    = "work"     // the same, while everything that waits is written to the file all the time
	killBackup  = "backup"   // the same, amid backups
	killRestore = "restore"  // restoring the last backup, again and again
	killOpen    = "open"     // opening and closing what the kill before left
	killControl = "too soon" // load that is answered before it is done: it must be found out
)

var killInboxes = []event.Account{"ann", "bob", "cat"}

// killPayload belongs to a message: short, long, or none.
func killPayload(id string) []byte {
	return []byte(strings.Repeat(id+" ", []int{0, 1, 30, 700}[len(id)%2*2+int(id[len(id)-1])%2]))
}

// killBatch appends one message to all inboxes, counts in the record of its own account, and is known by its ID.
func killBatch(id string, record store.Record, self event.Account) store.Batch {
	b := message(id, killPayload(id), append([]event.Account{self}, killInboxes...)...)
	b.Idempotency = &store.Idempotency{ClientID: event.ClientMessageID(id), Window: time.Hour, Max: 1 << 20}
	b.Record = &store.RecordUpdate{Expect: record.Revision, Data: append(record.Data, '.')}
	b.States = []store.StateUpdate{{Conversation: "talk", Name: "count", Number: uint64(len(record.Data) + 1)}}
	return b
}

func killConfig() boltstore.Config { return boltstore.Config{MaxSize: 1 << 30, Memory: 1 << 20} }

// killer is a process that works until it is killed, and says what is done after it is done.
type killer struct {
	path, round string
	early       bool // say so before
	failed      chan error
	mu          sync.Mutex // a line at a time
}

// killChild works until it is killed. It returns only if something fails.
func killChild(args []string) error {
	k := &killer{path: args[0], round: args[2], early: args[1] == killControl, failed: make(chan error)}
	switch args[1] {
	case killRestore:
		return k.restoring()
	case killOpen:
		return k.opening()
	}
	s, err := boltstore.Open(k.path, killConfig())
	if err != nil {
		return err
	}
	for w := range killWriters {
		go func() { k.failed <- k.write(s, w) }()
	}
	go func() { k.failed <- k.comeAndGo(s) }()
	switch args[1] {
	case killWork:
		go func() {
			for {
				if err := s.Compact(context.Background()); err != nil {
					k.failed <- err
				}
			}
		}()
	case killBackup:
		go func() { k.failed <- k.backups(s) }()
	}
	return <-k.failed
}

func (k *killer) say(args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Println(args...)
}

func (k *killer) write(s store.Store, w int) error {
	ctx := context.Background()
	self := event.Account(fmt.Sprint("writer", w))
	for n := 0; ; n++ {
		record, err := s.Load(ctx, self)
		if err != nil {
			return err
		}
		id := fmt.Sprint(k.round, "-", w, "-", n)
		if k.early {
			k.say("sent", id, self, len(record.Data)+1, 0)
		}
		r, err := s.Commit(ctx, killBatch(id, record, self))
		if err != nil {
			return err
		}
		if !k.early {
			k.say("sent", id, self, r.Messages[0].To[0].Seq, r.Messages[0].To[1].Seq)
		}
	}
}

// comeAndGo fills an account and deletes it, again and again.
func (k *killer) comeAndGo(s store.Store) error {
	ctx := context.Background()
	for n := 0; ; n++ {
		_, err := s.Commit(ctx, message(fmt.Sprint(k.round, "-temp-", n), make([]byte, 3000), "temp"))
		failures := errors.Join(err, s.SaveCursors(ctx, []store.Cursor{{Account: "temp", Incarnation: 1, Seq: 1}}),
			s.Delete(ctx, "temp", 0))
		p, err := s.Read(ctx, "temp", store.ReadOptions{})
		if err := errors.Join(failures, err); err != nil {
			return err
		}
		k.say("deleted", uint64(p.Head.Epoch))
	}
}

func (k *killer) backupPath() string { return filepath.Join(filepath.Dir(k.path), "backup") }

func (k *killer) restoredPath() string { return filepath.Join(filepath.Dir(k.path), "restored") }

// backups makes one backup after another. Each takes the place of the one before when it is whole.
func (k *killer) backups(s *boltstore.Store) error {
	for n := 0; ; n++ {
		k.say("backup", n)
		f, err := os.Create(k.backupPath() + ".part")
		if err != nil {
			return err
		}
		_, err = s.Backup(context.Background(), f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		k.mu.Lock() // so that the line is there if the file is, unless a kill comes between them
		err = os.Rename(f.Name(), k.backupPath())
		fmt.Println("whole", n)
		k.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// restoring restores the backup again and again.
func (k *killer) restoring() error {
	for {
		if err := removeStore(k.restoredPath()); err != nil {
			return err
		}
		f, err := os.Open(k.backupPath())
		if err != nil {
			return err
		}
		fmt.Println("restoring")
		if err := errors.Join(boltstore.Restore(context.Background(), k.restoredPath(), f), f.Close()); err != nil {
			return err
		}
	}
}

func removeStore(path string) error {
	names, err := storeFiles(path)
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

func (k *killer) opening() error {
	for {
		fmt.Println("opening")
		s, err := boltstore.Open(k.path, killConfig())
		if err != nil {
			return err
		}
		if err := s.Close(context.Background()); err != nil {
			return err
		}
	}
}

// answered is what children said was done.
type answered struct {
	sent   map[string]answer
	epoch  uint64
	began  int // sends that were answered when the backup that runs began
	backup int // and when the last whole backup began; -1: there is none yet
}

type answer struct {
	self     event.Account
	own, ann uint64
	n        int // how many were answered before
}

func (a *answered) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var id, self string
		var own, ann, n uint64
		text := lines.Text()
		if got, _ := fmt.Sscanf(text, "sent %s %s %d %d", &id, &self, &own, &ann); got == 4 {
			a.sent[id] = answer{event.Account(self), own, ann, len(a.sent)}
		} else if got, _ := fmt.Sscanf(text, "deleted %d", &n); got == 1 {
			a.epoch = max(a.epoch, n)
		} else if got, _ := fmt.Sscanf(text, "backup %d", &n); got == 1 {
			a.began = len(a.sent)
		} else if got, _ := fmt.Sscanf(text, "whole %d", &n); got == 1 {
			a.backup = a.began
		}
	}
}

// TestKill_I1_I2_I3_S69_AtAnyMoment kills a process at all kinds of work, again and again on the same file, and checks that all
// is there that was answered, and nothing by halves. Use it with -boltstore.kills=30.
func TestKill_I1_I2_I3_S69_AtAnyMoment(t *testing.T) {
	path := filepath.Join(memoryDir(t), "store.db")
	rnd := killSeed(t)
	done := answered{sent: map[string]answer{}, backup: -1}
	for round := range *killRounds {
		for _, what := range []string{killLoad, killOpen, killWork, killOpen, killBackup, killOpen, killRestore} {
			if what == killRestore && done.backup < 0 {
				continue
			}
			before := len(done.sent)
			killOnce(t, rnd, path, what, fmt.Sprint("r", round, what), &done, round == 0 && what == killLoad)
			require.NoError(t, tried(func(r require.TestingT) { checkAfterKill(r, path, &done) }), "round %d, killed at %s", round, what)
			if what == killBackup || what == killRestore {
				require.NoError(t, tried(func(r require.TestingT) { checkBackup(r, path, &done) }), "round %d, killed at %s", round, what)
			}
			t.Logf("round %d, %s: %d sends were answered", round, what, len(done.sent)-before)
		}
	}
	require.Greater(t, len(done.sent), 12**killRounds)
	require.GreaterOrEqual(t, done.backup, 0)
}

// TestKill_Control shows that the check can fail: a process that answers before it has written is found out.
func TestKill_Control(t *testing.T) {
	rnd := killSeed(t)
	for range 20 {
		path := filepath.Join(memoryDir(t), "store.db")
		done := answered{sent: map[string]answer{}, backup: -1}
		killOnce(t, rnd, path, killControl, "r", &done, false)
		if err := tried(func(r require.TestingT) { checkAfterKill(r, path, &done) }); err != nil {
			t.Logf("found out: %.300s", err.Error())
			return
		}
	}
	t.Fatal("answers before the commit were not found out")
}

func killSeed(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// killOnce starts a child and kills it after a random time from its first line on; with atOnce from its start.
func killOnce(t *testing.T, rnd *rand.Rand, path, what, round string, done *answered, atOnce bool) {
	cmd := child(t.Context(), "kill", path, what, strings.ReplaceAll(round, " ", "-"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	first := bufio.NewReader(out)
	if !atOnce {
		_, err = first.Peek(1)
		require.NoError(t, err)
	}
	longest := 120
	switch what {
	case killOpen, killRestore:
		longest = 30
	case killBackup:
		longest = 250
	}
	kill := time.AfterFunc(time.Duration(rnd.IntN(longest))*time.Millisecond, func() { _ = cmd.Process.Kill() })
	done.read(first)
	kill.Stop()
	require.ErrorContains(t, cmd.Wait(), "killed")
}
