package session

import (
	"context"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/trace"
)

const (
	// sweepCrew is how many accounts the sweep brings up to date side by side. What they write shares commits of the store
	// where it can, so that a crowd that goes offline at once costs few of them.
	sweepCrew = 64
	// janitorCrew is the same for the janitor, which has time.
	janitorCrew = 16
	// tidyWait is how long one of them waits for the store to read an account, so that those that hang do not take all
	// places for good. It is found again.
	tidyWait = 10 * time.Second
)

// crew bounds what runs side by side: each that does holds a token.
type crew chan struct{}

// do runs fn on a goroutine of its own, as soon as the crew has a place for it, unless the registry is closed first.
func (r *Registry) do(c crew, fn func()) {
	select {
	case c <- struct{}{}:
	case <-r.ctx.Done():
		return
	}
	r.owned.Do(func() {
		defer func() { <-c }()
		fn()
	})
}

// sweepLoop looks after what lives in memory: silent connections, and resume windows that are over.
// It waits for nothing but the time.
func (r *Registry) sweepLoop() {
	t := time.NewTicker(r.cfg.SweepInterval)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			now := r.clock.Tick(r.cfg.SweepInterval)
			r.tellClock()
			r.sweep(now)
			r.logWall()
		}
	}
}

// logWall says that the host's clock has panicked since the last sweep. Who reads it may hold locks.
func (r *Registry) logWall() {
	if err := r.wallPanic.Swap(nil); err != nil {
		r.log.Error("session: Config.Wall panicked, the system's clock stands in for it", "hook", string(HookWall), trace.Err(*err))
		r.hookFailed(HookWall, "", "", *err)
	}
}

func (r *Registry) sweep(now clock.Reading) {
	var over []event.Account
	for i := range r.shards {
		var silent []*Connection
		silent, over = r.due(&r.shards[i], now, over)
		for _, c := range silent {
			c.Close(event.Lost.Closed(0))
		}
	}
	if len(over) == 0 {
		return
	}
	select {
	case r.overdue <- over:
	default: // the last ones are not done yet; these are found again
	}
}

// tidyLoop brings up to date what the sweep has found.
func (r *Registry) tidyLoop() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case over := <-r.overdue:
			for _, id := range over {
				r.do(r.sweepers, func() { r.tidy(id) })
			}
		}
	}
}

// due collects the shard's connections that nothing was heard of for too long, and adds to over the accounts with a
// resume window or a lifetime that is over.
func (r *Registry) due(sh *shard, now clock.Reading, over []event.Account) (silent []*Connection, _ []event.Account) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for id, a := range sh.accounts {
		a.mu.Lock()
		a.leavingLocked()
		late := a.unsure
		for _, k := range a.links {
			r.calmLocked(k)
			if r.nodes.due(k, now.Elapsed) {
				late = true
			}
			if life := r.cfg.AbsoluteLifetime; life > 0 && now.Age(k.admitted) >= life {
				late = true
			}
			switch {
			case !k.attached():
				late = late || !r.lingers(k.since, now)
			default:
				for _, c := range k.conns {
					if idle := c.idleTimeout(); idle > 0 && now.Elapsed-max(time.Duration(c.seen.Load()), r.clock.Woke()) >= idle {
						silent = append(silent, c)
					}
				}
			}
		}
		a.mu.Unlock()
		if late {
			over = append(over, id)
		}
	}
	return silent, over
}

// tidy runs a step that changes nothing but what time alone has done. If it is another step's turn, that one does so.
func (r *Registry) tidy(id event.Account) {
	if !r.owned.Enter() {
		return
	}
	defer r.owned.Leave()
	a := r.tryEnter(id)
	if a == nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, tidyWait)
	defer cancel()
	s, gone, err := r.turn(ctx, a, func(*step) error { return nil }, nil)
	if err == nil { // beside the crew: hooks and connections that hang keep no place of it
		r.owned.Do(func() { r.settled(s, gone) })
	} else if r.ctx.Err() == nil {
		r.stats.tidyFailures.Add(1)
		if !silenced(err) {
			r.log.Warn("session: an account cannot be brought up to date yet", "account", string(id), trace.Err(err))
		}
	}
}

// janitorLoop goes through all accounts of the store: first when the resume windows of the logins from before the start
// are over, then at each interval, and when those of the logins of a node that died are over.
func (r *Registry) janitorLoop() {
	if r.cfg.JanitorInterval < 0 {
		return
	}
	window := max(r.cfg.ResumeWindow, 0) + time.Second
	next := r.clock.Elapsed() + window
	var late []time.Duration // two at most: the second is for all nodes that die while the first is awaited
	t := time.NewTimer(window)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.cleanSoon:
			late = append(late[:min(len(late), 1)], r.clock.Elapsed()+window)
		case <-t.C:
			now := r.clock.Elapsed()
			r.clean()
			late = slices.DeleteFunc(late, func(at time.Duration) bool { return at <= now })
			if next <= now {
				next = r.clock.Elapsed() + r.cfg.JanitorInterval
			}
		}
		due := next
		if len(late) > 0 && late[0] < next {
			due = late[0]
		}
		t.Reset(due - r.clock.Elapsed())
	}
}

func (r *Registry) clean() {
	var after event.Account
	for r.ctx.Err() == nil {
		page, err := r.st.Accounts(r.ctx, after, janitorPage)
		if err != nil {
			if r.ctx.Err() == nil && !silenced(err) {
				r.log.Warn("session: the janitor cannot list accounts", "after", string(after), trace.Err(err))
			}
			return
		}
		for _, id := range page {
			r.do(r.janitors, func() { r.tidy(id) })
		}
		r.stats.cleaned.Add(uint64(len(page)))
		if len(page) < janitorPage {
			r.stats.cleanings.Add(1)
			return
		}
		after = page[len(page)-1]
	}
}
