package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

const (
	flapWindow   = 10 * time.Second // evictions within it count together
	flapPause    = 5 * time.Second  // how long the pair is held after the last of them
	maxEvictions = 32               // that an account remembers
	maxFlapLimit = 16               // so that the pair's are all remembered while others evict, too
	maxRetryWait = 30 * time.Second // longest advice of the attach limiter
)

// LimitedError reports a login or an attach that came too fast. Nothing was changed.
type LimitedError struct {
	// Reason is rate_limited, or flapping: two devices, or two machines with one device ID, evict each other in turns.
	Reason event.Reason
	// RetryAfter is when it is worth to try again, more than zero.
	RetryAfter time.Duration
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
	const minute = int64(time.Minute / time.Millisecond)
	now, each := s.now.UnixMilli(), max(minute/perMinute, 1)
	due := max(s.rec.Pace, now)
	if due > now+minute { // of a clock that was ahead: nothing is known but that the account may have logged in just now
		due = now + minute - each
	}
	if wait := due + each - now - each*perMinute; wait > 0 {
		return &LimitedError{Reason: event.RateLimited, RetryAfter: time.Duration(wait) * time.Millisecond}
	}
	s.rec.Pace = due + each
	return nil
}

// eviction is one device that had to go for another one, or for itself.
type eviction struct {
	By   event.DeviceID
	Of   event.DeviceID
	Time int64 // Unix milliseconds
	Swap bool  // Of had evicted By right before
}

// between reports whether the eviction is one of two devices that do so in turns.
func (e eviction) between(a, b event.DeviceID) bool {
	return e.By == a && e.Of == b || e.By == b && e.Of == a
}

// damp slows down devices that evict each other in turns. A swap is an admission that evicts a device which has evicted
// this one right before; after some of them within 10 s the next one is refused for 5 s, so that whoever is there stays.
func (s *step) damp(device event.DeviceID, platform event.Platform, victims []policy.Victim) error {
	limit, now := s.r.cfg.FlapLimit, s.now.UnixMilli()
	if limit < 0 {
		return nil
	}
	kept := slices.DeleteFunc(s.rec.Evictions, func(e eviction) bool {
		return now-e.Time >= flapWindow.Milliseconds() || e.Time > now
	})
	for _, v := range victims {
		l := s.rec.login(v.Login)
		if l.own() { // it never comes back under the same ID
			continue
		}
		e := eviction{By: device, Of: l.Device, Time: now}
		swaps, last := 0, now
		for _, o := range kept {
			if o.between(device, l.Device) {
				e.Swap = o.By == l.Device // by the last one of them
				if o.Swap {
					swaps, last = swaps+1, o.Time
				}
			}
		}
		if wait := last + flapPause.Milliseconds() - now; e.Swap && swaps >= limit && wait > 0 {
			return &LimitedError{Reason: event.Flapping, RetryAfter: time.Duration(wait) * time.Millisecond}
		}
		if e.Swap && swaps+1 == limit {
			s.changes = append(s.changes, Change{
				Kind: ChangeContended, Reason: event.Flapping,
				Session: Session{Account: s.a.id, Device: device, Platform: platform, State: Offline},
			})
		}
		kept = append(kept, e)
	}
	s.rec.Evictions = kept[max(len(kept)-maxEvictions, 0):]
	return nil
}

// limiter lets so many calls through per second, and as many at once. It is safe for concurrent use.
type limiter struct {
	perSecond int // negative: all

	mu      sync.Mutex
	tokens  float64
	begun   bool
	at      time.Duration // clock.Elapsed of the last call
	refused int           // since the last call that was let through with room to spare
}

// take returns how long to wait if the call is not let through, 0 otherwise. Those that were refused are spread over the
// time that they take together, and each by chance, so that they do not come back all at once.
func (l *limiter) take(now time.Duration) time.Duration {
	if l.perSecond < 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := float64(l.perSecond)
	if !l.begun {
		l.begun, l.tokens = true, rate
	} else if d := now - l.at; d > 0 {
		l.tokens = min(rate, l.tokens+d.Seconds()*rate)
	}
	l.at = now
	if l.tokens >= 1 {
		l.tokens--
		l.refused = max(l.refused-1, 0)
		return 0
	}
	l.refused++
	crowd := time.Duration(float64(l.refused) / rate * float64(time.Second))
	return min(time.Second+rand.N(time.Second+crowd), maxRetryWait)
}
