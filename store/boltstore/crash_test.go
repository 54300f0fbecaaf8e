package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// crashEnv makes the test binary a process that writes until it is killed: path, a space, and the name of the round.
const crashEnv = "BOLTSTORE_CRASH_CHILD"

func TestMain(m *testing.M) {
	if v := os.Getenv(crashEnv); v != "" {
		path, round, _ := strings.Cut(v, " ")
		fmt.Fprintln(os.Stderr, crashChild(path, round))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	crashRounds  = 12
	crashWriters = 8
)

var crashInboxes = []event.Account{"ann", "bob", "cat"}

// crashPayload belongs to a message: short, long, or none.
func crashPayload(id string) []byte {
	return []byte(strings.Repeat(id+" ", []int{0, 1, 30, 700}[len(id)%2*2+int(id[len(id)-1])%2]))
}

// crashBatch appends one message to all inboxes, counts in the record of its own account, and is known by its ID.
func crashBatch(id string, record store.Record, self event.Account) store.Batch {
	b := message(id, crashPayload(id), append([]event.Account{self}, crashInboxes...)...)
	b.Idempotency = &store.Idempotency{ClientID: event.ClientMessageID(id), Window: time.Hour, Max: 1 << 20}
	b.Record = &store.RecordUpdate{Expect: record.Revision, Data: append(record.Data, '.')}
	b.States = []store.StateUpdate{{Conversation: "talk", Name: "count", Number: uint64(len(record.Data) + 1)}}
	return b
}

// crashChild writes until it is killed, and says what is done after it is done. It returns only if something fails.
func crashChild(path, round string) error {
	s, err := boltstore.Open(path, boltstore.Config{})
	if err != nil {
		return err
	}
	ctx := context.Background()
	failed := make(chan error)
	var mu sync.Mutex
	for w := range crashWriters {
		self := event.Account(fmt.Sprint("writer", w))
		go func() {
			for n := 0; ; n++ {
				record, err := s.Load(ctx, self)
				if err != nil {
					failed <- err
					return
				}
				id := fmt.Sprint(round, "-", w, "-", n)
				r, err := s.Commit(ctx, crashBatch(id, record, self))
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				fmt.Println("sent", id, self, r.Messages[0].To[0].Seq, r.Messages[0].To[1].Seq)
				mu.Unlock()
			}
		}()
	}
	go func() { // an account that comes and goes
		for n := 0; ; n++ {
			_, err := s.Commit(ctx, message(fmt.Sprint(round, "-temp-", n), make([]byte, 3000), "temp"))
			failures := errors.Join(err, s.SaveCursors(ctx, []store.Cursor{{Account: "temp", Incarnation: 1, Seq: 1}}),
				s.Delete(ctx, "temp", 0))
			p, err := s.Read(ctx, "temp", store.ReadOptions{})
			if err := errors.Join(failures, err); err != nil {
				failed <- err
				return
			}
			mu.Lock()
			fmt.Println("deleted", uint64(p.Head.Epoch))
			mu.Unlock()
		}
	}()
	return <-failed
}

// acked is what children said was done.
type acked struct {
	sent  map[string]ack
	epoch uint64
}

type ack struct {
	self     event.Account
	own, ann uint64
}

func (a *acked) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var id, self string
		var own, ann, epoch uint64
		if n, _ := fmt.Sscanf(lines.Text(), "sent %s %s %d %d", &id, &self, &own, &ann); n == 4 {
			a.sent[id] = ack{event.Account(self), own, ann}
		} else if n, _ := fmt.Sscanf(lines.Text(), "deleted %d", &epoch); n == 1 {
			a.epoch = max(a.epoch, epoch)
		}
	}
}

func TestI1_I2_I3_S69_KillAtAnyMoment(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := newPath(t)
	done := acked{sent: map[string]ack{}}
	for round := range crashRounds {
		before := len(done.sent)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), crashEnv+"="+path+" "+fmt.Sprint("r", round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		first := bufio.NewReader(out)
		if round > 0 { // the first round may be killed while the file is made
			_, err = first.Peek(1)
			require.NoError(t, err)
		}
		kill := time.AfterFunc(time.Duration(rnd.IntN(120))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		done.read(first)
		kill.Stop()
		require.ErrorContains(t, cmd.Wait(), "killed")
		t.Logf("round %d: %d sends were answered", round, len(done.sent)-before)
		checkAfterKill(t, path, &done)
	}
	require.Greater(t, len(done.sent), crashRounds)
}

// checkAfterKill checks that all is there that was answered, and that nothing is there by halves.
func checkAfterKill(t *testing.T, path string, done *acked) {
	s := open(t, path, boltstore.Config{})
	defer closeStore(t, s)
	ctx := t.Context()
	inboxes := map[event.Account][]event.Entry{}
	ids := map[event.MessageID]bool{}
	count := map[event.Account]uint64{}
	for w := range crashWriters {
		inboxes[event.Account(fmt.Sprint("writer", w))] = nil
	}
	for _, a := range crashInboxes {
		inboxes[a] = nil
	}
	for a := range inboxes {
		all, head, err := readAll(ctx, s, a)
		require.NoError(t, err)
		require.Len(t, all, int(head.Seq), "%s: sequence numbers are dense", a)
		require.Equal(t, len(all), head.Entries)
		for i, e := range all {
			require.EqualValues(t, i+1, e.Seq)
			require.Equal(t, string(crashPayload(string(e.ID))), string(e.Payload))
			ids[e.ID] = true
			if e.From == a {
				count[a]++
			}
		}
		inboxes[a] = all
	}
	for id := range ids { // I2: all of a message or nothing
		info, err := s.Message(ctx, id)
		require.NoError(t, err)
		require.Len(t, info.To, 1+len(crashInboxes))
		for _, p := range info.To {
			require.Equal(t, id, inboxes[p.Account][p.Seq-1].ID)
		}
		r, err := s.Commit(ctx, crashBatch(string(id), store.Record{}, info.From))
		require.NoError(t, err)
		require.True(t, r.Duplicate, "the idempotency record is there")
		require.Equal(t, info.To[:1], r.Messages[0].To)
	}
	for w := range crashWriters {
		a := event.Account(fmt.Sprint("writer", w))
		record, err := s.Load(ctx, a)
		require.NoError(t, err)
		require.EqualValues(t, count[a], len(record.Data), "the record goes with the entry")
		if count[a] == 0 {
			continue
		}
		states, err := s.States(ctx, a, store.StateOptions{Limit: 9})
		require.NoError(t, err)
		require.Equal(t, []event.State{{Conversation: "talk", Name: "count", Number: count[a], Seq: count[a]}}, states.States)
	}
	for id, sent := range done.sent { // I1, I3
		require.Equal(t, id, string(inboxes[sent.self][sent.own-1].ID))
		require.Equal(t, id, string(inboxes["ann"][sent.ann-1].ID))
	}
	temp, err := s.Read(ctx, "temp", store.ReadOptions{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, uint64(temp.Head.Epoch), done.epoch, "a deletion that was answered stays")
}
