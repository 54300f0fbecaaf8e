package boltstore_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// hotShape is a way in which one account gets much in memory: by n rows that are not yet in the file.
type hotShape struct {
	name string
	rows int
	fill func(id func() event.MessageID, from, n int) store.Batch // rows from, from+1, … from+n-1
}

func hotEntry(id event.MessageID, conversation, key string) store.Message {
	return store.Message{
		ID: id, Kind: event.KindMessage, Conversation: event.ConversationID(conversation), From: "peer", Key: key, Payload: make([]byte, 40),
		To: []store.Inbox{{Account: "hot", Flags: event.FlagUnread}},
	}
}

var hotShapes = []hotShape{
	{"marks", 128_000, func(_ func() event.MessageID, from, n int) store.Batch {
		b := store.Batch{Account: "hot", Now: start}
		for i := range n {
			b.States = append(b.States, store.StateUpdate{Conversation: event.ConversationID(fmt.Sprint("talk", from+i)), Name: "read", Number: 1})
		}
		return b
	}},
	{"conversations", 32_000, func(id func() event.MessageID, from, n int) store.Batch {
		b := store.Batch{Account: "peer", Now: start}
		for i := range n {
			b.Messages = append(b.Messages, hotEntry(id(), fmt.Sprint("talk", from+i), ""))
		}
		return b
	}},
	{"superseded", 80_000, func(id func() event.MessageID, from, n int) store.Batch {
		b := store.Batch{Account: "peer", Now: start}
		for range n {
			b.Messages = append(b.Messages, hotEntry(id(), "talk", "typing"))
		}
		return b
	}},
	{"cursors", 32_000, func(_ func() event.MessageID, from, n int) store.Batch {
		b := store.Batch{Account: "hot", Now: start}
		for i := range n {
			b.Begin = append(b.Begin, store.Begin{Incarnation: event.Incarnation(from + i + 1)})
		}
		return b
	}},
	{"attempts", 80_000, func(_ func() event.MessageID, from, n int) store.Batch {
		return hotAttempt(from / n)
	}},
}

// hotAttempt is a batch that is known by a name for a moment only.
func hotAttempt(n int) store.Batch {
	return store.Batch{Account: "hot", Now: start.Add(time.Duration(n) * time.Second), Idempotency: &store.Idempotency{
		Device: "phone", ClientID: event.ClientMessageID(fmt.Sprintf("%09d", n)), Window: time.Second, Max: 1 << 14,
	}}
}

// hotFew is what the other sizes are compared with.
const hotFew = 1000

// hotLane is a store with one account that has n rows in memory.
type hotLane struct {
	tb    testing.TB
	s     *boltstore.Store
	id    func() event.MessageID
	n     int
	times map[string][]time.Duration
}

func newHotLane(tb testing.TB, shape hotShape, rows int) *hotLane {
	s := open(tb, filepath.Join(memoryDir(tb), "store.db"), boltstore.Config{})
	l := &hotLane{tb: tb, s: s, id: event.NewIssuer(s.Info().IDKey).Issue, times: map[string][]time.Duration{}}
	part := 500
	if shape.name == "attempts" { // a batch has one
		part = 1
	}
	for at := 0; at < rows; at += part {
		_, err := s.Commit(tb.Context(), shape.fill(l.id, at, part))
		require.NoError(tb, err)
	}
	return l
}

// step does each kind of work once, and notes how long it took.
func (l *hotLane) step() {
	ctx := l.tb.Context()
	l.n++
	commit := func(b store.Batch) func() error {
		return func() error {
			_, err := l.s.Commit(ctx, b)
			return err
		}
	}
	work := []struct {
		name string
		do   func() error
	}{
		{"mark", commit(store.Batch{Account: "hot", Now: start, States: []store.StateUpdate{
			{Conversation: "talk7", Name: "read", Number: uint64(l.n + 1)},
		}})},
		{"new-mark", commit(store.Batch{Account: "hot", Now: start, States: []store.StateUpdate{
			{Conversation: event.ConversationID(fmt.Sprint("new", l.n)), Name: "read", Number: 1},
		}})},
		{"send", commit(store.Batch{Account: "peer", Now: start, Messages: []store.Message{hotEntry(l.id(), "talk7", "")}})},
		{"keyed-send", commit(store.Batch{Account: "peer", Now: start, Messages: []store.Message{hotEntry(l.id(), "talk7", "typing")}})},
		{"page", func() error {
			_, err := l.s.Read(ctx, "hot", store.ReadOptions{After: uint64(max(0, l.n-20)), Limit: 20})
			return err
		}},
		{"head", func() error {
			_, err := l.s.Read(ctx, "hot", store.ReadOptions{})
			return err
		}},
		{"states", func() error {
			_, err := l.s.States(ctx, "hot", store.StateOptions{Conversation: "talk7", Limit: 10})
			return err
		}},
		{"all-states", func() error {
			_, err := l.s.States(ctx, "hot", store.StateOptions{Limit: 20})
			return err
		}},
		{"conversation", func() error {
			_, err := l.s.Conversations(ctx, "hot", store.ConversationOptions{Conversation: "talk7", Limit: 1})
			return err
		}},
		{"attempt", commit(hotAttempt(1_000_000 + l.n))},
		{"trim", func() error {
			_, err := l.s.Trim(ctx, "hot", 1, 1)
			return err
		}},
		{"cursor", func() error {
			return l.s.SaveCursors(ctx, []store.Cursor{{Account: "hot", Incarnation: 1, Seq: uint64(l.n)}})
		}},
	}
	for _, w := range work {
		began := time.Now()
		err := w.do()
		l.times[w.name] = append(l.times[w.name], time.Since(began))
		require.NoError(l.tb, err)
	}
}

// BenchmarkHot tells what a commit and a page cost when one account has much in memory, against when it has 1,000 rows there:
// medians of a call, in turns. Use it with -benchtime=500x.
func BenchmarkHot(b *testing.B) {
	for _, shape := range hotShapes {
		b.Run(fmt.Sprintf("%s=%d", shape.name, shape.rows), func(b *testing.B) {
			if testing.Short() {
				shape.rows = 2 * hotFew
			}
			few, many := newHotLane(b, shape, hotFew), newHotLane(b, shape, shape.rows)
			for b.Loop() {
				few.step()
				many.step()
			}
			for name, times := range many.times {
				base := few.times[name]
				slices.Sort(times)
				slices.Sort(base)
				b.ReportMetric(float64(times[len(times)/2])/float64(base[len(base)/2]), name+"-ratio")
				b.Logf("%-12s %v, with %d rows %v", name, times[len(times)/2], hotFew, base[len(base)/2])
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
