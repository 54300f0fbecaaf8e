package boltstore

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// meters count what the store does besides what kv counts, for [Store.Stats].
type meters struct {
	refused, windowFull, workFailures, readFailures atomic.Uint64
	idempotency                                     atomic.Pointer[fills]
}

// fillSpan is for how long the account with the fullest window of idempotency records is remembered, and up to twice that.
const fillSpan = time.Minute

// fill is how far an account has filled its window of idempotency records.
type fill struct {
	account event.Account
	share   float64
}

// fills are the fullest windows of this span and of the one before.
type fills struct {
	began     time.Time
	now, last fill
}

// at returns what is remembered at a time.
func (f *fills) at(now time.Time) fill {
	switch age := now.Sub(f.began); {
	case age >= 2*fillSpan:
		return fill{}
	case age < fillSpan && f.last.share > f.now.share:
		return f.last
	}
	return f.now
}

// filled notes how far an account has filled its window. It costs something only if that is more than before in this span.
func (m *meters) filled(account event.Account, have uint64, most int) {
	share := float64(have) / float64(most)
	old := m.idempotency.Load()
	if old != nil && old.now.share >= share && time.Since(old.began) < fillSpan {
		return
	}
	next := &fills{began: time.Now(), now: fill{account, share}}
	if old != nil {
		switch age := next.began.Sub(old.began); {
		case age < fillSpan:
			next.began, next.last = old.began, old.last
		case age < 2*fillSpan:
			next.last = old.now
		}
	}
	m.idempotency.Store(next)
}

// Stats implements [store.Observed]. It asks the file system for the room on the disk.
func (s *Store) Stats() store.Stats {
	m, k := &s.meters, s.db.Stats()
	out := store.Stats{
		Operations: k.Operations, Commits: k.Commits, CommitTime: k.CommitTime, LastCommit: k.LastCommit, LongestCommit: k.LongestCommit,
		Refused: m.refused.Load(), WindowFull: m.windowFull.Load(), Flushes: k.Flushes, FlushTime: k.FlushTime, StallTime: k.StallTime,
		WorkFailures: m.workFailures.Load() + k.FlushFailures, ReadFailures: m.readFailures.Load() + k.Damaged, LogFailures: s.log.Failed(),
		Waiting: k.Waiting, Memory: k.Memory, MemoryLimit: k.MemoryLimit, Flushing: k.Flushing, Backups: k.Backups,
		FileSize: k.FileSize, FreeBytes: k.FreeBytes, LogSize: k.LogSize, Reserve: s.cfg.reserve(), Room: k.Room, DiskRoom: k.DiskRoom,
		Failed: k.Failed,
	}
	if f := m.idempotency.Load(); f != nil {
		fullest := f.at(time.Now())
		out.IdempotencyFill, out.IdempotencyAccount = fullest.share, fullest.account
	}
	return out
}

// refusals is what the log is told of appends that are refused for want of room: that it begins, and that what was refused
// first fits again. Only the goroutine that commits changes it.
type refusals struct {
	since time.Time // zero: nothing is refused
	need  int64     // the most that was refused
	count uint64
}

// roomChange is what an operation has to say in the log once it is over.
type roomChange struct {
	began bool
	ended *refusals
}

// take takes room for an operation, and says if refusals begin or end with it.
func (w *writer) take(need int64, spare bool) (roomChange, error) {
	r, err := &w.s.refusals, w.Take(need, spare)
	switch {
	case err != nil:
		w.s.meters.refused.Add(1)
		c := roomChange{began: r.since.IsZero()}
		if c.began {
			*r = refusals{since: time.Now()}
		}
		r.need, r.count = max(r.need, need), r.count+1
		return c, err
	case spare || r.since.IsZero() || w.Take(r.need, false) != nil:
		return roomChange{}, nil
	}
	ended := *r
	*r = refusals{}
	return roomChange{ended: &ended}, nil
}

// logRoom logs what changed, on the goroutine of the operation's caller, so that no other operation waits for it.
func (s *Store) logRoom(c roomChange) {
	switch {
	case c.began:
		s.log.Warn("boltstore: no room, appends are refused", s.roomAttrs()...)
	case c.ended != nil:
		s.log.Info("boltstore: there is room again", append(s.roomAttrs(),
			slog.Uint64("refused", c.ended.count), slog.Duration("after", time.Since(c.ended.since)))...)
	}
}

// roomAttrs says how full the file and the disk are.
func (s *Store) roomAttrs() []any {
	k := s.db.Stats()
	return []any{
		slog.Int64("bytes", k.FileSize), slog.Int64("max_size", s.cfg.MaxSize), slog.Int64("reserve", s.cfg.reserve()),
		slog.Int64("room", k.Room), slog.Int64("disk_room", k.DiskRoom),
	}
}

// opened logs that the store is open, what was left of the log, and whether there is any room.
func (s *Store) opened(began time.Time) {
	name, k := slog.String("file", s.name()), s.db.Stats()
	if k.Replayed.Rows > 0 {
		s.log.Info("boltstore: log replayed", name, slog.Int("rows", k.Replayed.Rows), slog.Int64("memory", k.Memory),
			slog.Duration("took", k.Replayed.Took))
	}
	about := append(s.roomAttrs(), name, slog.Uint64("incarnation", uint64(s.info.Incarnation)), slog.Duration("took", time.Since(began)))
	s.log.Info("boltstore: opened", about...)
	if k.Room == 0 || k.DiskRoom == 0 {
		s.log.Warn("boltstore: opened without room, all appends will be refused", about...)
	}
}

// workFailed counts that work in the background has ended with an error, and logs it, unless the store ends.
func (s *Store) workFailed(err error) {
	if errors.Is(err, store.ErrClosed) || errors.Is(err, store.ErrFailed) || errors.Is(err, context.Canceled) {
		return
	}
	s.meters.workFailures.Add(1)
	s.log.Error("boltstore: work in the background ended", trace.Err(err))
}

// damaged counts and logs what an operation or a read says about the file.
func (s *Store) damaged(err error) {
	if errors.Is(err, ErrCorrupt) {
		s.meters.readFailures.Add(1)
		s.log.Error("boltstore: the file cannot be read", trace.Err(err))
	}
}
