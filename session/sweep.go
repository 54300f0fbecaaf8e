package session

import (
	"errors"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// sweepLoop looks after what lives in memory: silent connections, resume windows that are over, and the store's failure.
func (r *Registry) sweepLoop() {
	t := time.NewTicker(r.cfg.SweepInterval)
	defer t.Stop()
	failed := r.st.Failed()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-failed:
			failed = nil
			for _, c := range r.connections() {
				c.Close(event.Unavailable.Closed(time.Second))
			}
		case now := <-t.C:
			r.sweep(now)
		}
	}
}

func (r *Registry) sweep(now time.Time) {
	for i := range r.shards {
		silent, over := r.due(&r.shards[i], now)
		for _, c := range silent {
			c.Close(event.Lost.Closed(0))
		}
		for _, id := range over {
			r.tidy(id)
		}
	}
}

// due collects the shard's connections that nothing was heard of for too long, and the accounts with a resume window
// or a lifetime that is over.
func (r *Registry) due(sh *shard, now time.Time) (silent []*Connection, over []event.Account) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for id, a := range sh.accounts {
		a.mu.Lock()
		late := a.unsure
		for _, k := range a.links {
			if r.nodes.due(k, now) {
				late = true
			}
			if life := r.cfg.AbsoluteLifetime; life > 0 && now.Sub(k.admitted) >= life {
				late = true
			}
			switch {
			case !k.attached():
				late = late || !now.Before(k.since.Add(max(r.cfg.ResumeWindow, 0)))
			case r.cfg.IdleTimeout > 0:
				for _, c := range k.conns {
					if now.Sub(c.seenAt()) >= r.cfg.IdleTimeout {
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

// tidy runs a step that changes nothing but what time alone has done.
func (r *Registry) tidy(id event.Account) {
	_, err := r.run(r.ctx, id, func(*step) error { return nil }, nil)
	if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, store.ErrClosed) && r.ctx.Err() == nil {
		r.log.Warn("session: sweep", "err", err)
	}
}

// janitorLoop goes through all accounts of the store: first when the resume windows of the logins from before the start
// are over, then at each interval.
func (r *Registry) janitorLoop() {
	if r.cfg.JanitorInterval < 0 {
		return
	}
	t := time.NewTimer(max(r.cfg.ResumeWindow, 0) + time.Second)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			r.clean()
			t.Reset(r.cfg.JanitorInterval)
		case <-r.cleanSoon: // a node is dead: its logins linger from now on
			t.Reset(max(r.cfg.ResumeWindow, 0) + time.Second)
		}
	}
}

func (r *Registry) clean() {
	var after event.Account
	for r.ctx.Err() == nil {
		page, err := r.st.Accounts(r.ctx, after, janitorPage)
		if err != nil {
			if r.ctx.Err() == nil {
				r.log.Warn("session: janitor", "err", err)
			}
			return
		}
		for _, id := range page {
			r.tidy(id)
		}
		if len(page) < janitorPage {
			return
		}
		after = page[len(page)-1]
	}
}
