package fanout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

const (
	fullRound = 100 // every so many trim rounds all accounts are looked at, not just those that have grown
	// trimWait is how long one account may take, so that one that the store holds up does not end retention for all others.
	trimWait  = time.Minute
	storeAway = 16 // accounts in a row that cannot be trimmed: it is not about them, and the round ends
)

// grownSet are the accounts whose inboxes have grown since the last trim round.
type grownSet struct {
	round atomic.Uint32 // counts calls of take, from 1; changes with mu held
	mu    sync.Mutex
	set   map[event.Account]struct{}
}

func (g *grownSet) init() {
	g.round.Store(1)
	g.set = make(map[event.Account]struct{})
}

// add returns the round that the account will be looked at after. As long as it lasts there is no need to add it again.
func (g *grownSet) add(a event.Account) uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set[a] = struct{}{}
	return g.round.Load()
}

func (g *grownSet) take() map[event.Account]struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.round.Add(1)
	set := g.set
	g.set = make(map[event.Account]struct{})
	return set
}

// trimRounds is where the janitor is.
type trimRounds struct {
	r     *Router
	round int
	full  bool          // a full round has begun and is not finished
	after event.Account // where it is
	pace  pacer

	failed  int // accounts of this round that could not be trimmed
	row     int // of them, those one after another that came last
	account event.Account
	err     error // of the first
}

func (r *Router) trimLoop() {
	if r.cfg.TrimInterval < 0 {
		return
	}
	t := time.NewTicker(r.cfg.TrimInterval)
	defer t.Stop()
	rounds := trimRounds{r: r}
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		rounds.next()
	}
}

// next trims the accounts that have grown and, every so often, all others. It ends early if the store is away. Accounts
// that could not be trimmed, or were not tried, are tried again in the next round, and a full round goes on where it was.
func (t *trimRounds) next() {
	t.round++
	t.full = t.full || t.round%fullRound == 0
	t.failed, t.row, t.account, t.err, t.pace = 0, 0, "", nil, pacer{clock: t.r.clock, began: t.r.clock()}
	grown := t.r.grown.take()
	for a := range grown {
		if t.row >= storeAway {
			t.r.grown.add(a)
			continue
		}
		t.trim(a)
	}
	if t.full {
		t.all(grown)
	}
	if t.failed > 0 && t.r.ctx.Err() == nil {
		t.r.log.Warn("fanout: inboxes could not be trimmed, they are tried again", "failed", t.failed, "account", string(t.account), trace.Err(t.err))
	}
}

// all goes on with a full round, but for the accounts that are done.
func (t *trimRounds) all(done map[event.Account]struct{}) {
	for t.row < storeAway && t.r.ctx.Err() == nil {
		page, err := t.r.st.Accounts(t.r.ctx, t.after, trimPage)
		if err != nil {
			t.fail("", err)
			return
		}
		for _, a := range page {
			if t.row >= storeAway {
				return
			}
			if _, ok := done[a]; !ok {
				t.trim(a)
			}
			t.after = a
		}
		if len(page) < trimPage {
			t.full, t.after = false, ""
			return
		}
	}
}

func (t *trimRounds) trim(a event.Account) {
	t.pace.rest(t.r.ctx)
	ctx, cancel := context.WithTimeout(t.r.ctx, trimWait)
	defer cancel()
	err := t.r.trim(ctx, a, &t.pace)
	if err == nil {
		t.row = 0
		return
	}
	t.pace.reset() // to wait for the store was no work
	t.r.grown.add(a)
	t.fail(a, err)
}

func (t *trimRounds) fail(a event.Account, err error) {
	if t.r.ctx.Err() != nil || errors.Is(err, session.ErrClosed) {
		return
	}
	if t.failed == 0 {
		t.account, t.err = a, err
	}
	t.failed++
	t.row++
	t.r.stats.trimFailures.Add(1)
	t.r.feed.emit(Event{Kind: EventTrimFailed, Account: a, Err: err})
}

// pacer keeps retention from holding up others: after each slice it rests as long as it worked, so that it takes half of
// the store's time at most.
type pacer struct {
	clock func() time.Duration
	began time.Duration
}

// reset starts the count again, without a rest.
func (p *pacer) reset() { p.began = p.clock() }

// rest waits, unless so little was done that a wait would cost more.
func (p *pacer) rest(ctx context.Context) {
	worked := p.clock() - p.began
	if worked < trimWork {
		return
	}
	t := time.NewTimer(worked)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	p.began = p.clock()
}

// Trim applies retention to one account's inbox now, in slices between which others have their turn. The engine does so by
// itself every Config.TrimInterval.
func (r *Router) Trim(ctx context.Context, account event.Account) (err error) {
	defer fault.In("fanout", "trim", &err)
	if err := account.Validate(); err != nil {
		return err
	}
	return r.trim(ctx, account, &pacer{clock: r.clock, began: r.clock()})
}

func (r *Router) trim(ctx context.Context, account event.Account, p *pacer) error {
	acked, err := r.ackedByAll(ctx, account)
	if err != nil {
		return err
	}
	page, err := r.st.Read(ctx, account, store.ReadOptions{Limit: 1})
	if err != nil {
		return fmt.Errorf("fanout: trim: %w", err)
	}
	rule := retention{
		acked: acked, entries: page.Head.Entries, bytes: page.Head.Bytes, cfg: &r.cfg, now: r.times.Read(),
	}
	if len(page.Entries) == 0 {
		return nil
	}
	if e := &page.Entries[0]; rule.goes(e, e.Time) == "" && !e.Time.After(rule.now.Now) {
		return nil // while the oldest stays, all do
	}
	for after := page.Head.Trim; ; {
		page, err = r.st.Read(ctx, account, store.ReadOptions{After: after, Limit: trimSlice, MaxBytes: r.cfg.PageBytes})
		if err != nil {
			return fmt.Errorf("fanout: trim: %w", err)
		}
		rule.now.Grace = rule.now.Grace || !r.reg.MayAge(ctx)
		epoch := page.Head.Epoch
		through, all := rule.through(page)
		for page.Head.Trim < through {
			before := page.Head.Trim
			if page.Head, err = r.st.Trim(ctx, account, through, trimSlice); err != nil {
				return fmt.Errorf("fanout: trim: %w", err)
			}
			if page.Head.Trim <= before {
				break
			}
			p.rest(ctx)
		}
		r.trimmed(account, epoch, rule.gone)
		if !all || page.Through <= after {
			return nil
		}
		after = page.Through
	}
}

// trimmed counts entries that were removed, and tells of them.
func (r *Router) trimmed(account event.Account, epoch event.Epoch, gone []removal) {
	for _, g := range gone {
		r.stats.trimmed.Add(uint64(g.n))
		r.stats.cause(g.why, g.n)
		r.feed.emit(Event{
			Kind: EventTrimmed, Account: account, From: event.Position{Epoch: epoch, Seq: g.from}, To: event.Position{Epoch: epoch, Seq: g.to},
			Count: g.n, Cause: g.why,
		})
	}
}

// removal is a run of entries that go for the same reason: those in (from, to].
type removal struct {
	why      Cause
	from, to uint64
	n        int
}

// retention decides, oldest entry first, what goes.
type retention struct {
	acked   uint64
	entries int
	bytes   int64
	gone    []removal // of the page
	cfg     *Config
	now     clock.Reading
}

// through returns up to where the page's entries go, 0 if none does, and whether all of them do.
func (t *retention) through(page store.Page) (seq uint64, all bool) {
	t.gone = t.gone[:0]
	from := page.Head.Trim
	for i := range page.Entries {
		e := &page.Entries[i]
		why := t.goes(e, t.written(page.Entries[i:]))
		if why == "" {
			return seq, false
		}
		seq = e.Seq
		if n := len(t.gone); n == 0 || t.gone[n-1].why != why {
			t.gone = append(t.gone, removal{why: why, from: from})
		}
		g := &t.gone[len(t.gone)-1]
		g.to, g.n = seq, g.n+1
		from = seq
		t.bytes -= int64(e.Size())
		if e.Key == "" {
			t.entries--
		}
	}
	return seq, len(page.Entries) > 0
}

// written returns when the first of the entries was written. If that is yet to come, the clock was ahead, and it was not later
// than the next entry that has a time of the past. Otherwise one entry would keep all later ones for as long as the clock was
// ahead.
func (t *retention) written(entries []event.Entry) time.Time {
	for i := range entries {
		if at := entries[i].Time; !at.After(t.now.Now) {
			return at
		}
	}
	return t.now.Now
}

// goes returns why an entry that was written at a time goes, or "" if it stays.
func (t *retention) goes(e *event.Entry, written time.Time) Cause {
	old := func(limit time.Duration) bool { return t.now.Old(written.UnixMilli(), limit) }
	switch {
	case t.cfg.MaxAge > 0 && old(t.cfg.MaxAge):
		return CauseAge
	case t.cfg.MaxEntries > 0 && t.entries > t.cfg.MaxEntries:
		return CauseEntries
	case t.cfg.MaxBytes > 0 && t.bytes > t.cfg.MaxBytes:
		return CauseBytes
	case e.Seq <= t.acked && (t.cfg.KeepMinimum < 0 || old(t.cfg.KeepMinimum)):
		return CauseAcked
	}
	return ""
}

// abandoned reports whether the store has the account from before names like its own were refused. No device of it comes back,
// so there is none to wait for or to push to; its inbox ages as that of an account without devices.
func abandoned(account event.Account) bool { return account.Validate() != nil }

// ackedByAll returns up to where every device that the account remembers has acknowledged. An account without devices
// has nobody to keep entries from going by age alone.
func (r *Router) ackedByAll(ctx context.Context, account event.Account) (uint64, error) {
	if abandoned(account) {
		return 0, nil
	}
	devices, err := r.reg.Devices(ctx, account)
	if err != nil {
		return 0, fmt.Errorf("fanout: trim: %w", err)
	}
	if len(devices) == 0 {
		return 0, nil
	}
	stored, err := r.st.Cursors(ctx, account)
	if err != nil {
		return 0, fmt.Errorf("fanout: trim: %w", err)
	}
	at := make(map[event.Incarnation]uint64, len(stored))
	for _, c := range stored {
		at[c.Incarnation] = c.Seq
	}
	lowest := uint64(math.MaxUint64)
	for _, inc := range devices {
		lowest = min(lowest, at[inc])
	}
	return lowest, nil
}
