package boltstore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// meters count what the store does, for [Store.Stats]. Only the goroutine that commits writes them, except those of errors.
type meters struct {
	operations, commits, refused, windowFull  atomic.Uint64
	folds, merges, workFailures, readFailures atomic.Uint64
	commitTime, lastCommit, longest           atomic.Int64 // nanoseconds
	foldTime, mergeTime                       atomic.Int64
	high, pending, free                       atomic.Int64 // bytes, as of the beginning of the last transaction
	merging                                   atomic.Bool
	idempotency                               atomic.Pointer[fills]
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

// committed notes how long a commit took.
func (m *meters) committed(took time.Duration) {
	m.commits.Add(1)
	m.commitTime.Add(int64(took))
	m.lastCommit.Store(int64(took))
	m.longest.Store(max(m.longest.Load(), int64(took)))
}

// looked notes what a transaction begins with.
func (m *meters) looked(r *room) {
	m.high.Store(r.high)
	m.free.Store(r.free)
	m.pending.Store(r.pending)
}

// timed adds the time since began to a meter.
func timed(meter *atomic.Int64, began time.Time) { meter.Add(int64(time.Since(began))) }

// Stats implements [store.Observed]. It asks the file system twice, for the size of the file and the room on the disk.
func (s *Store) Stats() store.Stats {
	m := &s.meters
	out := store.Stats{
		Operations: m.operations.Load(), Commits: m.commits.Load(), CommitTime: time.Duration(m.commitTime.Load()),
		Refused: m.refused.Load(), WindowFull: m.windowFull.Load(), Folds: m.folds.Load(), FoldTime: time.Duration(m.foldTime.Load()),
		Merges: m.merges.Load(), MergeTime: time.Duration(m.mergeTime.Load()), WorkFailures: m.workFailures.Load(),
		ReadFailures: m.readFailures.Load(), LogFailures: s.log.Failed(), LastCommit: time.Duration(m.lastCommit.Load()), LongestCommit: time.Duration(m.longest.Load()),
		MemoryLimit: 2 * s.limits.window, Merging: m.merging.Load(), Backups: int(s.backups.Load()), FreeBytes: m.free.Load(),
		Reserve: s.cfg.reserve(), FileSize: s.fileSize(),
	}
	s.state.RLock()
	for _, l := range s.layersLocked() {
		if l != nil {
			out.Memory += l.bytes
		}
	}
	out.Runs, out.Folding = len(s.windows), s.frozen != nil
	s.state.RUnlock()
	s.mu.Lock()
	out.Waiting, out.Failed = len(s.queue), s.cause
	s.mu.Unlock()
	out.Room, out.DiskRoom = s.room()
	if f := m.idempotency.Load(); f != nil {
		fullest := f.at(time.Now())
		out.IdempotencyFill, out.IdempotencyAccount = fullest.share, fullest.account
	}
	return out
}

// room returns how much may still be appended as far as the file and the disk go, as [store.Stats] has it.
func (s *Store) room() (file, disk int64) {
	m := &s.meters
	r := room{limit: s.fileLimit(), reserve: s.cfg.reserve(), high: m.high.Load(), free: m.free.Load(), pending: m.pending.Load()}
	file, disk = -1, -1
	if r.limit >= 0 {
		file = max(0, r.left(r.reserve+r.pending))
	}
	if free, known := s.disk.stat(s.disk.path); known {
		disk = max(0, free-r.reserve-r.pending)
	}
	return file, disk
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
	r, err := &w.s.refusals, w.room.take(need, spare)
	switch {
	case err != nil:
		w.s.meters.refused.Add(1)
		c := roomChange{began: r.since.IsZero()}
		if c.began {
			*r = refusals{since: time.Now()}
		}
		r.need, r.count = max(r.need, need), r.count+1
		return c, err
	case spare || r.since.IsZero() || !w.room.has(r.need):
		return roomChange{}, nil
	}
	ended := *r
	*r = refusals{}
	return roomChange{ended: &ended}, nil
}

// logRoom writes what changed. The caller of the operation writes it: the goroutine that commits calls no logger.
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
	file, disk := s.room()
	return []any{
		slog.Int64("bytes", s.fileSize()), slog.Int64("max_size", s.cfg.MaxSize), slog.Int64("reserve", s.cfg.reserve()),
		slog.Int64("room", file), slog.Int64("disk_room", disk),
	}
}

func (s *Store) fileSize() int64 {
	st, err := os.Stat(s.disk.path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// replayed is what Open has read of the journal.
type replayed struct {
	changes int // of accounts
	took    time.Duration
}

// opened logs that the store is open, what was left of the journal, and whether there is any room.
func (s *Store) opened(began time.Time, r replayed) {
	name := slog.String("file", filepath.Base(s.disk.path))
	if r.changes > 0 {
		s.log.Info("boltstore: journal replayed", name, slog.Int("changes", r.changes), slog.Int64("memory", s.meters.pending.Load()),
			slog.Duration("took", r.took))
	}
	about := append(s.roomAttrs(), name, slog.Uint64("incarnation", uint64(s.info.Incarnation)), slog.Int("runs", len(s.windows)),
		slog.Duration("took", time.Since(began)))
	s.log.Info("boltstore: opened", about...)
	if file, disk := s.room(); file == 0 || disk == 0 {
		s.log.Warn("boltstore: opened without room, all appends will be refused", about...)
	}
}

// workFailed counts that work in the background has ended with an error, and logs it, unless the store ends.
func (s *Store) workFailed(err error) {
	if s.life.Err() != nil || errors.Is(err, store.ErrClosed) || errors.Is(err, context.Canceled) {
		return
	}
	s.meters.workFailures.Add(1)
	s.log.Error("boltstore: work in the background ended", trace.Err(err))
}

// readFailed counts and logs what a read says about the file.
func (s *Store) readFailed(err error) {
	if errors.Is(err, ErrCorrupt) {
		s.meters.readFailures.Add(1)
		s.log.Error("boltstore: the file cannot be read", trace.Err(err))
	}
}
