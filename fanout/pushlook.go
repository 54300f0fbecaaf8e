package fanout

import (
	"context"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
)

// pushLookLoop looks for accounts with undecided entries that the book does not know: those of before the start, when devices
// have had Delay to come back, and those that found it full.
func (r *Router) pushLookLoop() {
	t := time.NewTicker(r.cfg.Push.Delay)
	defer t.Stop()
	for due := true; ; { // again if it did not get to the end
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		if r.push.missed.Swap(false) {
			due = true
		}
		if due {
			due = !r.pushLook()
		}
	}
}

// pushLook goes through all accounts of the store, one at a time, and reports whether it got to the end.
func (r *Router) pushLook() bool {
	var after event.Account
	for r.ctx.Err() == nil {
		page, err := r.st.Accounts(r.ctx, after, trimPage)
		if err != nil {
			r.pushFailed("", err)
			return false
		}
		for _, account := range page {
			if !r.pushLookAt(account) {
				return false
			}
		}
		if len(page) < trimPage {
			return true
		}
		after = page[len(page)-1]
	}
	return false
}

// pushLookAt has an account come up if something of it may be undecided, or if that cannot be told. It waits for room in the
// book, and reports false if the router is closed meanwhile.
func (r *Router) pushLookAt(account event.Account) bool {
	ctx, cancel := context.WithTimeout(r.ctx, pushReadWait)
	defer cancel()
	v, err := r.pushView(ctx, account, 0)
	if err == nil && v == nil {
		return true
	}
	for !r.push.add(account, 0, r.clock()) {
		t := time.NewTimer(pushGap)
		select {
		case <-r.ctx.Done():
			t.Stop()
			return false
		case <-t.C:
		}
	}
	return true
}

// pushFailed says that the store failed while an account's pushes were decided, or, without an account, while such accounts were
// looked for. It is tried again.
func (r *Router) pushFailed(account event.Account, err error) {
	if r.ctx.Err() != nil {
		return
	}
	r.stats.pushFailures.Add(1)
	r.feed.emit(Event{Kind: EventPushFailed, Account: account, Err: err})
	if account == "" {
		r.log.Warn("fanout: accounts with undecided pushes could not be found yet", trace.Err(err))
		return
	}
	r.log.Warn("fanout: pushes could not be decided yet", "account", string(account), trace.Err(err))
}
