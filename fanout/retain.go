package fanout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

const fullRound = 100 // every so many trim rounds all accounts are looked at, not just those that have grown

// grownSet are the accounts whose inboxes have grown since the last trim round.
type grownSet struct {
	mu  sync.Mutex
	set map[event.Account]struct{}
}

func (g *grownSet) init() { g.set = make(map[event.Account]struct{}) }

func (g *grownSet) add(a event.Account) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set[a] = struct{}{}
}

func (g *grownSet) take() map[event.Account]struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	set := g.set
	g.set = make(map[event.Account]struct{})
	return set
}

func (r *Router) trimLoop() {
	if r.cfg.TrimInterval < 0 {
		return
	}
	t := time.NewTicker(r.cfg.TrimInterval)
	defer t.Stop()
	for round := 1; ; round++ {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		grown := r.grown.take()
		if round%fullRound == 0 {
			r.trimAll()
			continue
		}
		for a := range grown {
			r.trimOne(a)
		}
	}
}

func (r *Router) trimAll() {
	var after event.Account
	for r.ctx.Err() == nil {
		page, err := r.st.Accounts(r.ctx, after, trimPage)
		if err != nil {
			r.log.Warn("fanout: trim", "err", err)
			return
		}
		for _, a := range page {
			r.trimOne(a)
		}
		if len(page) < trimPage {
			return
		}
		after = page[len(page)-1]
	}
}

func (r *Router) trimOne(a event.Account) {
	if err := r.Trim(r.ctx, a); err != nil && r.ctx.Err() == nil && !errors.Is(err, session.ErrClosed) {
		r.log.Warn("fanout: trim", "err", err)
	}
}

// Trim applies retention to one account's inbox now. The engine does so by itself every Config.TrimInterval.
func (r *Router) Trim(ctx context.Context, account event.Account) error {
	acked, err := r.ackedByAll(ctx, account)
	if err != nil {
		return err
	}
	page, err := r.st.Read(ctx, account, store.ReadOptions{})
	if err != nil {
		return fmt.Errorf("fanout: trim: %w", err)
	}
	rule := retention{
		acked: acked, entries: page.Head.Entries, bytes: page.Head.Bytes, cfg: &r.cfg, now: time.Now(),
	}
	for after := page.Head.Trim; ; {
		page, err = r.st.Read(ctx, account, store.ReadOptions{After: after, Limit: trimPage, MaxBytes: r.cfg.PageBytes})
		if err != nil {
			return fmt.Errorf("fanout: trim: %w", err)
		}
		through, all := rule.through(page)
		for page.Head.Trim < through {
			before := page.Head.Trim
			if page.Head, err = r.st.Trim(ctx, account, through, trimSlice); err != nil {
				return fmt.Errorf("fanout: trim: %w", err)
			}
			if page.Head.Trim <= before {
				break
			}
		}
		if !all || page.Through <= after {
			r.stats.trimmed.Add(uint64(rule.gone))
			return nil
		}
		after = page.Through
	}
}

// retention decides, oldest entry first, what goes.
type retention struct {
	acked   uint64
	entries int
	bytes   int64
	gone    int
	cfg     *Config
	now     time.Time
}

// through returns up to where the page's entries go, 0 if none does, and whether all of them do.
func (t *retention) through(page store.Page) (seq uint64, all bool) {
	for i := range page.Entries {
		e := &page.Entries[i]
		if !t.goes(e) {
			return seq, false
		}
		seq = e.Seq
		t.gone++
		t.bytes -= int64(e.Size())
		if e.Key == "" {
			t.entries--
		}
	}
	return seq, len(page.Entries) > 0
}

func (t *retention) goes(e *event.Entry) bool {
	age := t.now.Sub(e.Time)
	switch {
	case t.cfg.MaxAge > 0 && age > t.cfg.MaxAge:
	case t.cfg.MaxEntries > 0 && t.entries > t.cfg.MaxEntries:
	case t.cfg.MaxBytes > 0 && t.bytes > t.cfg.MaxBytes:
	case e.Seq <= t.acked && (t.cfg.KeepMinimum < 0 || age > t.cfg.KeepMinimum):
	default:
		return false
	}
	return true
}

// ackedByAll returns up to where every device that the account remembers has acknowledged. An account without devices
// has nobody to keep entries from going by age alone.
func (r *Router) ackedByAll(ctx context.Context, account event.Account) (uint64, error) {
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
