package boltstore

import (
	"time"
)

// Rows of a deleted account stay in runs, though nobody finds them any more. So that they do not stay there for good, the
// purge of an account, once it is done, notes the window that is then written to. When that window is folded and all runs
// up to it are one, nothing of the account is left. That writes all rows of accounts anew, so it is not done often.

// sweepEvery is the least time between two sweeps; the first one after the file was opened need not wait.
const sweepEvery = time.Hour

// wantSweep notes durably that a sweep is to come.
func (w *writer) wantSweep() {
	w.sweep = w.active.number
	w.put(w.meta, []byte(metaSweep), numberKey(w.sweep))
}

// sweepDue reports whether a sweep is wanted and may be done. Like all that follows it is for the goroutine that commits.
func (s *Store) sweepDue() bool { return s.sweep != 0 && !time.Now().Before(s.sweepAfter) }

// sweepOn does the next step of a sweep that is due, beside folds and merges that run.
func (s *Store) sweepOn(w *writer) error {
	if s.active.number <= s.sweep && !s.active.empty() {
		w.rotate, w.dirty = true, true
		return nil
	}
	if s.frozen != nil {
		return nil // it is folded first
	}
	old, bytes := 0, uint64(0)
	for _, run := range s.windows {
		bytes += run.size
		if run.first <= s.sweep {
			old++
		}
	}
	var err error
	switch n := int64(bytes); {
	case old <= 1:
		w.swept(s, s.sweep)
	case n <= w.room.left(0) && !w.room.disk.below(n):
		err = s.mergeNewest(w, len(s.windows))
	}
	s.sweepAfter = time.Now().Add(s.limits.sweep)
	return err
}

// swept notes that all runs up to a window are one, which was begun after that window was written to.
func (w *writer) swept(s *Store, last uint64) {
	if s.sweep != 0 && s.sweep <= last && w.sweep == 0 { // else this group wants another one
		w.del(w.meta, []byte(metaSweep))
		w.after = append(w.after, func() { s.sweep = 0 })
	}
}
