package session

import (
	"time"

	"github.com/manydevice/manydevice/internal/clock"
)

// past returns a stored time, but none that is yet to come: then the clock was ahead when it was stored.
func past(stored int64, now clock.Reading) time.Time {
	return time.UnixMilli(min(stored, now.Now.UnixMilli()))
}

// since returns how long ago something was stored, by whichever node. Steps of this node's clock are taken out. A time that lies
// ahead by more than clocks of nodes differ, because one was wrong, counts like one that is as far back.
func (s *step) since(stored int64) time.Duration {
	if ago, said := s.r.clock.AgoAtMost(stored); said {
		return ago
	}
	return s.now.Sub(time.UnixMilli(stored)).Abs()
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// clampTimes sets times of the record that are yet to come to now, so that an age counts from now on and not from when a clock
// that was ahead is caught up with. Less than clock.MaxDrift ahead is nothing: clocks of nodes differ. As long as there is a
// grace it leaves all of them alone: it may be this clock that is wrong, and then they would be lost.
func (s *step) clampTimes() {
	if s.at.Grace {
		return
	}
	clamp := func(now time.Time, stored ...*int64) {
		for _, t := range stored {
			if *t > now.Add(clock.MaxDrift).UnixMilli() {
				*t, s.dirty = now.UnixMilli(), true
			}
		}
	}
	for i := range s.rec.Logins {
		l := &s.rec.Logins[i]
		clamp(s.now, &l.At, &l.Seen, &l.Left, &l.MovedAt, &l.DescribedAt)
		if l.TokenAt > s.now.Add(clock.MaxDrift).UnixMilli() { // the token before must not be good once more
			l.TokenAt, s.dirty = s.now.Add(-tokenReuse).UnixMilli(), true
		}
	}
	for i := range s.rec.Devices {
		clamp(s.now, &s.rec.Devices[i].First, &s.rec.Devices[i].Seen)
	}
	if s.rec.Ban != nil {
		clamp(s.now, &s.rec.Ban.At)
	}
	s.clampTombstones(clamp)
}

// clampTombstones makes no tombstone last longer than one that is made now.
func (s *step) clampTombstones(clamp func(time.Time, ...*int64)) {
	limit := s.now.Add(s.r.cfg.TombstoneTTL)
	ahead := false
	for item := range s.rec.Tombstones.all() {
		until := tombstoneUntil(item)
		clamp(limit, &until)
		ahead = ahead || until != tombstoneUntil(item)
	}
	if !ahead {
		return
	}
	var kept packed
	for _, t := range unpack(&s.rec.Tombstones, (*decoder).tombstone) {
		clamp(limit, &t.Until)
		kept.add(t.append(nil))
	}
	s.rec.Tombstones = kept
}
