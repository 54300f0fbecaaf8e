package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

var errNewInbox = errors.New("fanout: push: the inbox began anew")

// pushTurn is one account's turn: look what is undecided, ask who gets a push, tell the host, note that it is decided.
type pushTurn struct {
	*pushView
	r   *Router
	it  *pushItem
	now clock.Reading

	batch   []pushEntry   // what is to be decided now
	through uint64        // up to here there is nothing else
	wanted  bool          // something on the way wanted a push
	long    bool          // it was more than a page
	more    bool          // the next batch can follow at once
	hung    bool          // a hook did not return in time, or was not called because of that
	waiting bool          // a connected device has not acknowledged, so that it is not known yet whether it will get a push
	next    time.Duration // Router.clock when to look at the account again; 0: nothing is left
}

// pushTurn decides what is due of one account. After an error of the store it comes up again.
func (r *Router) pushTurn(it *pushItem, seq uint64) {
	t := &pushTurn{r: r, it: it, now: r.times.Read()}
	err := t.run(seq)
	if err != nil {
		r.pushFailed(it.account, err)
		t.next = t.now.Elapsed + r.cfg.Push.Delay
	}
	r.push.done(it, seq, t.next, r.clock()+r.cfg.Push.Delay, err != nil || t.next != 0 && it.tries > 0)
}

func (t *pushTurn) run(seq uint64) (err error) {
	ctx, cancel := context.WithTimeout(t.r.ctx, pushReadWait)
	defer cancel()
	defer func() { t.it.late = t.it.late || err != nil && ctx.Err() != nil }()
	if t.pushView, err = t.r.pushView(ctx, t.it.account, seq); err != nil {
		return err
	}
	if t.pushView == nil {
		t.r.stats.pushesCancelled.Add(1)
		return nil
	}
	if err = t.collect(ctx); err != nil {
		return err
	}
	if err = t.dropRead(ctx); err != nil {
		return err
	}
	if p := t.choose(); len(p.Devices) > 0 && (t.r.push.isDropped(t.it) || !t.tell(p)) {
		return nil
	}
	if t.waiting {
		t.again(t.now.Elapsed + t.r.cfg.Push.Delay)
		return nil
	}
	return t.decided()
}

// again has the account come up at a time, or earlier if that was said before, but not at once.
func (t *pushTurn) again(at time.Duration) {
	at = max(at, t.now.Elapsed+min(pushGap, t.r.cfg.Push.Delay))
	if t.next == 0 || at < t.next {
		t.next = at
	}
}

// collect gathers the entries that want a push and whose time has come.
func (t *pushTurn) collect(ctx context.Context) error {
	c := &t.r.cfg
	bytes := 0
	for t.through = t.from; t.through < t.head.Seq; {
		page, err := t.r.st.Read(ctx, t.it.account, store.ReadOptions{
			After: t.through, Limit: c.PageEntries, MaxBytes: c.PageBytes, Known: t.head.Seq,
		})
		if err != nil {
			return fmt.Errorf("fanout: push: %w", err)
		}
		if page.Head.Epoch != t.head.Epoch {
			return errNewInbox
		}
		for i := range page.Entries {
			e, ok, err := t.r.pushable(ctx, t.it.account, &page.Entries[i])
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			age := t.age(e)
			if wait := c.Push.Delay - age; wait > 0 {
				t.through = e.Seq - 1
				t.again(t.now.Elapsed + wait)
				return nil
			}
			if len(t.batch) == MaxPushEntries || bytes >= c.PageBytes || t.it.tries > 0 && e.Seq > t.it.through {
				t.through, t.more = e.Seq-1, true
				return nil
			}
			t.wanted = true
			if !e.Expired(t.now.Now) && age <= c.Push.MaxAge {
				t.batch = append(t.batch, e)
				bytes += e.Size()
			}
		}
		if page.Through <= t.through {
			return nil
		}
		t.through, t.head = page.Through, page.Head
		t.long = t.long || t.through < t.head.Seq
	}
	return nil
}

// age returns how long an entry has been there. A clock that was set meanwhile does not make it older, so that it is not given
// up, nor younger. One that lies in the future is of a clock that was ahead: it is decided now.
func (t *pushTurn) age(e pushEntry) time.Duration {
	if age, ok := t.r.times.Ago(e.Time.UnixMilli()); ok {
		return age
	}
	return t.r.cfg.Push.Delay
}

// dropRead takes out what the account has read on any device, told or not.
func (t *pushTurn) dropRead(ctx context.Context) error {
	marks := make(map[event.ConversationID]uint64)
	for _, e := range t.batch {
		if _, known := marks[e.Conversation]; known || e.Conversation == "" {
			continue
		}
		for _, name := range []string{event.StateRead, event.StateReadPrivate} {
			s, _, err := t.r.register(ctx, t.it.account, e.Conversation, name)
			if err != nil {
				return err
			}
			marks[e.Conversation] = max(marks[e.Conversation], s.Number)
		}
	}
	t.batch = slices.DeleteFunc(t.batch, func(e pushEntry) bool { return e.read <= marks[e.Conversation] })
	return nil
}

// choose returns what the host is to be told. Entries for the same devices are decided together.
func (t *pushTurn) choose() Push {
	p := Push{Account: t.it.account}
	for rest := t.batch; len(rest) > 0; {
		var group, others []pushEntry
		for _, e := range rest {
			if slices.Equal(e.Targets, rest[0].Targets) {
				group = append(group, e)
			} else {
				others = append(others, e)
			}
		}
		t.chooseFor(&p, group)
		rest = others
	}
	slices.SortFunc(p.Devices, func(a, b PushDevice) int { return cmp.Compare(a.Admission, b.Admission) })
	for i := range p.Devices {
		slices.SortFunc(p.Devices[i].Missed, func(a, b *event.Sealed) int { return cmp.Compare(a.Seq, b.Seq) })
	}
	return p
}

// chooseFor adds the devices that get a push for entries that are for the same ones.
func (t *pushTurn) chooseFor(p *Push, group []pushEntry) {
	q := PushQuestion{Account: t.it.account}
	missed := false
	for _, d := range t.devices {
		if !group[0].For(d.Incarnation, d.Login) {
			continue
		}
		for _, e := range group {
			if t.owed(&d, e) {
				d.Missed = append(d.Missed, e.Sealed)
			}
		}
		q.Devices = append(q.Devices, d)
		missed = missed || len(d.Missed) > 0
	}
	if !missed {
		return
	}
	chosen := t.answer(q)
	for _, d := range q.Devices {
		switch {
		case len(d.Missed) == 0:
		case slices.Contains(chosen, d.Device):
			p.add(d)
		case d.attached():
			t.waiting = true
		}
	}
}

// add gives a device a push, in one with what it gets anyway.
func (p *Push) add(d PushDevice) {
	i := slices.IndexFunc(p.Devices, func(o PushDevice) bool { return o.Incarnation == d.Incarnation })
	if i < 0 {
		p.Devices = append(p.Devices, d)
		return
	}
	p.Devices[i].Missed = append(p.Devices[i].Missed, d.Missed...)
}

// owed reports whether a device has missed an entry, and the host was not told of that yet.
func (t *pushTurn) owed(d *PushDevice, e pushEntry) bool {
	_, told := t.it.told[pushTold{d.Incarnation, e.Seq}]
	return !told && t.acked[d.Incarnation] < e.Seq
}

// answer returns who gets a push: what the host says, or else the rules.
func (t *pushTurn) answer(q PushQuestion) []event.DeviceID {
	c := &t.r.cfg.Push
	q.Default = c.Rules.Choose(q.Devices, t.now.Now)
	if c.Decide == nil {
		return q.Default
	}
	asked := PushQuestion{Account: q.Account, Devices: slices.Clone(q.Devices), Default: slices.Clone(q.Default)}
	for i := range asked.Devices { // a hook that answers too late may still be at work on it
		asked.Devices[i].Missed = slices.Clone(asked.Devices[i].Missed)
	}
	chosen, err := callPush(t, &t.r.push.asked, func(ctx context.Context) ([]event.DeviceID, error) { return c.Decide(ctx, asked) })
	if err != nil {
		t.r.stats.pushErrors.Add(1)
		t.r.hookFailed(HookPushDecide, t.it.account, err)
		return q.Default
	}
	return chosen
}

// callPush calls one of the host's hooks. An account for which one takes all the time that it may is late from then on, until
// a turn in which all return in time.
func callPush[T any](t *pushTurn, h *hostcall.Hook, fn func(context.Context) (T, error)) (T, error) {
	limit, began := t.r.cfg.Push.HookTimeout, t.r.clock()
	v, err := hostcall.Call(context.WithoutCancel(t.r.ctx), h, t.it.account, limit, fn)
	t.hung = t.hung || t.r.clock()-began >= limit || err == hostcall.ErrSkipped // which is not wrapped, and an error of the host's is not asked
	t.it.late = t.hung
	return v, err
}

// tell calls the host's hook, and reports whether that is over: it worked, or is given up. The end of the router does not cut
// the call short, since nobody would know what came of it.
func (t *pushTurn) tell(p Push) bool {
	c := &t.r.cfg.Push
	told := make(map[pushTold]struct{})
	entries := make(map[uint64]struct{})
	for _, d := range p.Devices {
		for _, e := range d.Missed {
			told[pushTold{d.Incarnation, e.Seq}] = struct{}{}
			entries[e.Seq] = struct{}{}
		}
	}
	_, err := callPush(t, &t.r.push.calls, func(ctx context.Context) (struct{}, error) { return struct{}{}, c.Hook(ctx, p) })
	if err != nil {
		t.r.stats.pushErrors.Add(1)
		t.r.hookFailed(HookPush, t.it.account, err)
		if t.it.tries++; t.it.tries < c.Tries {
			t.it.through = t.batch[len(t.batch)-1].Seq
			t.next = t.now.Elapsed + c.Delay // what is younger waits
			return false
		}
		t.r.stats.pushesGivenUp.Add(1)
		t.r.feed.emit(Event{Kind: EventPushGivenUp, Account: t.it.account, Count: len(entries), Err: err})
		t.r.log.Error("fanout: push given up", "account", string(t.it.account), "count", len(entries), "tries", c.Tries, trace.Err(err))
	} else {
		t.r.stats.pushes.Add(1)
		t.r.stats.pushEntries.Add(uint64(len(entries)))
	}
	t.it.tries, t.it.through = 0, 0
	if t.it.told == nil {
		t.it.told = told
		return true
	}
	for k := range told {
		t.it.told[k] = struct{}{}
	}
	return true
}

// decided notes that everything up to through is decided.
func (t *pushTurn) decided() error {
	if len(t.it.told) == 0 && (t.wanted || t.next == 0) {
		t.r.stats.pushesCancelled.Add(1)
	}
	// What wanted no push is passed over again without a mark; a long way of it is not.
	if t.wanted || t.long {
		if err := t.mark(); err != nil {
			return err
		}
	}
	t.it.told, t.it.tries, t.it.through = nil, 0, 0
	if t.more {
		t.next = t.now.Elapsed
	}
	return nil
}

// mark makes the decision durable, also while the router is being closed.
func (t *pushTurn) mark() error {
	if t.r.push.isDropped(t.it) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.r.ctx), t.r.cfg.Push.HookTimeout)
	defer cancel()
	_, err := t.r.st.Commit(ctx, store.Batch{
		Account: t.it.account, Now: t.r.now(), OnlyIfChanged: true, Reserve: true,
		States: []store.StateUpdate{{
			Conversation: pushConversation, Name: pushRegister(t.head.Epoch), Merge: store.MergeMax, Number: t.through,
		}},
	})
	if err != nil {
		return fmt.Errorf("fanout: push: %w", err)
	}
	return nil
}
