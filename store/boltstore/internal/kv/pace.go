package kv

import "time"

// When a memtable gives way to the next one, and how long commits wait for the flush.

// makeWay begins a new memtable if the active one is full or its log is, or room in the file is short; waits if the frozen one
// is not flushed by then; and slows commits down. It holds running.
func (db *DB) makeWay() {
	v := db.current.Load()
	if db.life.Err() != nil {
		return
	}
	active, frozen := v.mem[0], v.mem[1]
	waiting := db.waiting()
	log := db.logs[active.number%2]
	full := active.full() || log.cramped()
	_ = log.room(waiting + log.step/2) // if it fails, the operation that needs it tries again
	flush, short := db.short(active, waiting)
	if flush = (full || flush) && !active.empty(); flush {
		if frozen != nil {
			db.awaitFlush(full)
		}
		if frozen = db.current.Load().mem[1]; frozen == nil {
			frozen = active
			db.rotate()
		}
	}
	switch {
	case frozen == nil:
	case short:
		db.awaitFlush(false)
	case !flush:
		if d := db.lag(active, frozen); d > 0 {
			db.stats.stalled(d)
			time.Sleep(d)
		}
	}
}

// waiting is about how many bytes the next group writes. Room for it is made before it is taken: as long as an operation runs, its
// caller cannot give up.
func (db *DB) waiting() (bytes int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for i, o := range db.queue {
		if i > 0 && (i == maxGroupOps || bytes+o.bytes > maxGroupBytes) {
			break
		}
		bytes += o.bytes
	}
	return bytes
}

// lag returns for how long the flush would have to go on alone to be as far as the active memtable allows.
func (db *DB) lag(active, frozen *memtable) time.Duration {
	fill := float64(active.size) / float64(active.limit)
	done := float64(db.progress.Load()) / float64(max(frozen.rows, 1))
	ahead := fill - paceFrom - (paceTo-paceFrom)*done
	if ahead <= 0 {
		return 0
	}
	whole := time.Duration(db.lastFlush.Load())
	if began := db.flushBegan.Load(); done > 0.05 && began != 0 {
		whole = max(whole, time.Duration(float64(time.Now().UnixNano()-began)/done))
	}
	return min(time.Duration(ahead/(paceTo-paceFrom)*float64(whole)), paceMost)
}

// awaitFlush waits until the frozen memtable is flushed, or has failed to be. Unless memory is full it waits for shortMost at most.
func (db *DB) awaitFlush(full bool) {
	began := time.Now()
	defer func() { db.stats.stalled(time.Since(began)) }()
	var late <-chan time.Time
	if !full {
		late = time.After(shortMost)
	}
	for {
		db.mu.Lock()
		ch, bad := db.flushed, db.flushErr != nil
		db.mu.Unlock()
		if bad || db.current.Load().mem[1] == nil {
			return
		}
		select {
		case <-ch:
		case <-late:
			return
		case <-db.life.Done():
			return
		}
	}
}

// rotate freezes the active memtable, once all its groups are durable or undone, and begins another one. It holds running, and
// no memtable is frozen.
func (db *DB) rotate() {
	db.writing.Lock()
	if lost := db.lost.Swap(nil); lost != nil {
		db.undoGroup(lost)
	}
	db.writing.Unlock()
	db.replacing.Lock()
	defer db.replacing.Unlock()
	v := db.current.Load()
	old := v.mem[0]
	next := db.memtable(old.number+1, old.parts)
	next.newest = old.newest
	db.logs[next.number%2].begin(next.number)
	db.progress.Store(0)
	db.room.mu.Lock()
	db.room.frozen = old.grows
	db.room.active = 0
	db.room.mu.Unlock()
	db.install(next, old, v.file)
	db.flushes <- old
}

// memtable makes an empty one.
func (db *DB) memtable(number uint64, parts int) *memtable {
	db.mu.Lock()
	a := db.spare
	db.spare = nil
	db.mu.Unlock()
	if a == nil {
		a = newArena(db.limit)
	} else {
		a.reset()
	}
	m := newMemtable(number, db.limit, a, parts)
	m.done = func(m *memtable) {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.spare = m.arena
	}
	return m
}
