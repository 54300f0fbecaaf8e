package session

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/manydevice/manydevice/event"
)

const (
	maxRetryWait = 30 * time.Second // longest advice, unless no token comes before that
	minRetryWait = time.Second      // shortest
	// limitsKept is how many buckets a limiter keeps: about 10 MiB at the longest names, half of it at usual ones. The bucket
	// that was used longest ago makes room, and begins full when it is needed again. With the default of 10 attaches a second
	// and 20 at once, that forgets nothing unless more than 8,000 accounts and logins attach per second.
	limitsKept = 32_768
)

// limiter bounds how often something is done. It keeps a token bucket for each account, and a smaller one for each client of
// an account, so that a client that loops leaves the rest of the account's to others. It is safe for concurrent use.
type limiter struct {
	rate  float64 // tokens per second of an account; 0: no bound
	burst float64 // tokens of a full bucket
	share float64 // a client gets this part of both

	mu   sync.Mutex
	used *simplelru.LRU[limited, *bucket]
}

// limited is whose bucket it is.
type limited struct {
	account event.Account
	client  string // empty: the account's
}

// bucket has at most burst tokens, and gets rate of them each second.
type bucket struct {
	tokens  float64
	refused float64 // calls that are expected to come back
	at      time.Duration
}

// newLimiter returns a limiter with room for so many buckets. Without a rate it lets everything through.
func newLimiter(rate, burst, share float64, buckets int) (*limiter, error) {
	l := &limiter{rate: max(rate, 0), burst: max(burst, 1), share: share}
	var err error
	if l.used, err = simplelru.NewLRU[limited, *bucket](buckets, nil); err != nil {
		return nil, fmt.Errorf("session: limiter: %w", err)
	}
	return l, nil
}

// take returns how long to wait if the call is not let through, 0 otherwise. now is elapsed time. A client that is refused
// for itself takes no token of its account. An empty client has no bucket of its own.
func (l *limiter) take(now time.Duration, account event.Account, client string) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if client != "" {
		rate, burst := l.ofClient()
		if wait := l.bucket(now, limited{account, client}, rate, burst).take(rate); wait > 0 {
			return wait
		}
	}
	return l.bucket(now, limited{account: account}, l.rate, l.burst).take(l.rate)
}

// giveBack gives the account its token back for a call that take has let through, and the client its own if one is named.
func (l *limiter) giveBack(now time.Duration, account event.Account, client string) {
	if l.rate == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if client != "" {
		rate, burst := l.ofClient()
		l.bucket(now, limited{account, client}, rate, burst).put(burst)
	}
	l.bucket(now, limited{account: account}, l.rate, l.burst).put(l.burst)
}

func (l *limiter) ofClient() (rate, burst float64) { return l.rate * l.share, max(l.burst*l.share, 1) }

// bucket returns a bucket as it is now.
func (l *limiter) bucket(now time.Duration, of limited, rate, burst float64) *bucket {
	b, ok := l.used.Get(of)
	if !ok {
		b = &bucket{tokens: burst, at: now}
		// The strings may be parts of a request that is much longer.
		l.used.Add(limited{event.Account(strings.Clone(string(of.account))), strings.Clone(of.client)}, b)
		return b
	}
	if d := (now - b.at).Seconds(); d > 0 {
		b.tokens, b.refused, b.at = min(burst, b.tokens+d*rate), max(0, b.refused-d*rate), now
	}
	return b
}

// take takes a token, or says how long to wait. Calls that were refused are spread over the time that they take together,
// each by chance, so that they do not come back all at once.
func (b *bucket) take(rate float64) time.Duration {
	if b.tokens >= 1 {
		b.tokens--
		return 0
	}
	b.refused = min(b.refused+1, maxRetryWait.Seconds()*rate+1)
	next, crowd := seconds((1-b.tokens)/rate), seconds(b.refused/rate)
	return max(next, min(max(next, minRetryWait)+rand.N(time.Second+crowd), maxRetryWait))
}

func (b *bucket) put(burst float64) { b.tokens = min(b.tokens+1, burst) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
