package session

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

const (
	flapWindow   = 10 * time.Second // evictions within it count together
	flapMemory   = time.Minute      // evictions are remembered for so long
	flapPause    = 5 * time.Second  // how long the next one is held after the last of them
	maxEvictions = 32               // that an account remembers: 800 bytes
	maxVictims   = 8                // of one admission that are among them
	maxFlapLimit = 16               // so that all swaps are remembered while others evict, too
)

// LimitedError reports a login or an attach that came too fast. Nothing was changed.
type LimitedError struct {
	// Reason is rate_limited, or flapping: devices, or machines with one device ID, evict each other in turns.
	Reason event.Reason
	// RetryAfter is when it is worth to try again, more than zero.
	RetryAfter time.Duration

	by Refusal // for the counters
}

// Closed returns what to tell the client.
func (e *LimitedError) Closed() event.Closed { return e.Reason.Closed(e.RetryAfter) }

func (e *LimitedError) Error() string {
	return fmt.Sprintf("session: %s, retry after %v", e.Reason, e.RetryAfter)
}

// Is makes errors.Is(err, ErrLimited) true.
func (e *LimitedError) Is(target error) bool { return target == ErrLimited }

// pace refuses a login that comes faster than the account may log in: so many at once, and as many per minute. The
// record keeps one number for it, the time at which all admissions so far would be over if they were evenly spread.
func (s *step) pace() error {
	perMinute := int64(s.r.cfg.LoginsPerMinute)
	if perMinute < 0 {
		return nil
	}
	now, each := s.now.UnixMilli(), max(minute/perMinute, 1)
	due := max(s.rec.Pace, now)
	if due > now+minute { // a clock was ahead that has gone back, or more logins were allowed then: it says nothing
		due = now
	}
	if wait := due + each - now - each*perMinute; wait > 0 {
		return &LimitedError{by: RefusedLoginRate, Reason: event.RateLimited, RetryAfter: time.Duration(wait) * time.Millisecond}
	}
	s.rec.Pace = due + each
	return nil
}

// leaveHalf refuses a login of a device that evicts again and again if, after pace, less than half of what the account may
// log in at once were left to others.
func (s *step) leaveHalf() error {
	perMinute := int64(s.r.cfg.LoginsPerMinute)
	if perMinute < 0 {
		return nil
	}
	each := max(minute/perMinute, 1)
	if wait := s.rec.Pace - s.now.UnixMilli() - each*((perMinute+1)/2); wait > 0 {
		return &LimitedError{by: RefusedFlapping, Reason: event.Flapping, RetryAfter: time.Duration(wait) * time.Millisecond}
	}
	return nil
}

const minute = int64(time.Minute / time.Millisecond)

// eviction is one device that had to go for another one, or for itself. Devices stand in it by their marks.
type eviction struct {
	By   uint64
	Of   uint64
	Time int64 // Unix milliseconds
	Swap bool  // By had been evicted itself, right before
	Told bool  // a swap of a burst that watchers were told of
}

// markOf stands for a device ID in the list of evictions: it is shorter.
func markOf(id event.DeviceID) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}

// damp slows down devices that evict each other in turns, however many they are; gone are those that have to go, by the rules
// or by the newcomer's choice. A swap is an admission that evicts
// somebody for a device which was evicted itself within the last 10 s. After FlapLimit of them within 10 s, among devices
// that have to do with one another, the next one is refused until 5 s after the last, so that those that are there stay.
// From then on there is at most one in 5 s, until a minute goes by without any; and what counts as one is an eviction for a
// device that was evicted within that minute.
//
// Only those devices are refused: any other one may come and evict. A device that takes the place of its own login alone has
// to do with no other device: that counts apart, since it may be two machines with one device ID.
//
// It reports whether this is a swap of devices that are slow already.
func (s *step) damp(device event.DeviceID, platform event.Platform, gone []event.DeviceID) (slow bool, err error) {
	limit, now := s.r.cfg.FlapLimit, s.now.UnixMilli()
	if limit < 0 {
		return false, nil
	}
	known, me := remembered(s.rec.Evictions, now), markOf(device)
	group, own := []uint64{me}, true
	var added []eviction
	for _, d := range gone[:min(len(gone), maxVictims)] {
		added = append(added, eviction{By: me, Of: markOf(d), Time: now})
		group = append(group, markOf(d))
		own = own && d == device
	}
	f := flaps(among(known, group, own), me, now)
	if len(added) > 0 && f.swap {
		slow = f.told
		if wait := f.last + flapPause.Milliseconds() - now; (slow || f.swaps >= limit) && wait > 0 {
			return slow, &LimitedError{by: RefusedFlapping, Reason: event.Flapping, RetryAfter: time.Duration(wait) * time.Millisecond}
		}
		added[0].Swap, added[0].Told = true, slow || f.swaps+1 >= limit
		if added[0].Told && !slow {
			s.changes = append(s.changes, Change{
				Kind: ChangeContended, Reason: event.Flapping,
				Session: Session{Account: s.a.id, Device: device, Platform: platform},
			})
		}
	}
	s.rec.Evictions = append(known, added...)
	s.rec.limitEvictions()
	return slow, nil
}

// devicesOf appends the devices of victims like appendDevices.
func (s *step) devicesOf(all []event.DeviceID, victims []policy.Victim) []event.DeviceID {
	for _, v := range victims {
		all = s.appendDevices(all, v.Login)
	}
	return all
}

// appendDevices appends the devices of logins that are to end, but those that exist for one login alone: these never come
// back under the same ID.
func (s *step) appendDevices(all []event.DeviceID, logins ...event.LoginID) []event.DeviceID {
	for _, id := range logins {
		if l := s.rec.login(id); l != nil && !l.own() {
			all = append(all, l.Device)
		}
	}
	return all
}

// flap is what the evictions of the last minute say to one more.
type flap struct {
	swap  bool  // it is one
	swaps int   // of the last 10 s
	last  int64 // time of the last one
	told  bool  // there was a burst within the last minute that watchers were told of
}

// flaps looks at the evictions of a device's group.
func flaps(group []eviction, me uint64, now int64) (f flap) {
	f.told = slices.ContainsFunc(group, func(e eviction) bool { return e.Told })
	for _, e := range group {
		recent := now-e.Time < flapWindow.Milliseconds()
		f.swap = f.swap || e.Of == me && (recent || f.told)
		if e.Swap && recent {
			f.swaps, f.last = f.swaps+1, max(f.last, e.Time)
		}
	}
	return f
}

// remembered returns the evictions of the last minute. One of the near future, since a clock was ahead, counts as one after which
// the pause is over: otherwise the pause would last until the clock says that time again. One that is further ahead is
// forgotten like those that are old.
func remembered(all []eviction, now int64) []eviction {
	var kept []eviction
	for _, e := range all {
		if now-e.Time < flapMemory.Milliseconds() && e.Time-now < flapWindow.Milliseconds() {
			if e.Time > now {
				e.Time = now - flapPause.Milliseconds()
			}
			kept = append(kept, e)
		}
	}
	return kept
}

// among returns the evictions of a group of devices, and of all devices that these have to do with, directly or not; own:
// those of devices by themselves, and no others.
func among(all []eviction, group []uint64, own bool) []eviction {
	for more := !own; more; {
		more = false
		for _, e := range all {
			by, of := slices.Contains(group, e.By), slices.Contains(group, e.Of)
			if by != of {
				group, more = append(group, e.By, e.Of), true
			}
		}
	}
	var of []eviction
	for _, e := range all {
		if slices.Contains(group, e.By) && own == (e.By == e.Of) {
			of = append(of, e)
		}
	}
	return of
}

// limitEvictions forgets what is too much: the oldest that are no swaps, then the oldest.
func (r *record) limitEvictions() {
	for len(r.Evictions) > maxEvictions {
		i := max(slices.IndexFunc(r.Evictions, func(e eviction) bool { return !e.Swap }), 0)
		r.Evictions = slices.Delete(r.Evictions, i, i+1)
	}
}
