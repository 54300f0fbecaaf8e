package main

var idempotencyMutants = []mutant{
	one("idempotency: nothing is remembered", "commit.go", `if b.Idempotency != nil {
		a.window`, `if b.Idempotency != nil && len(r.Messages) == 0 {
		a.window`),
	one("idempotency: the digest is not compared", "window.go", `r.digest != i.Digest`, `r.digest != i.Digest && i.Max == 0`),
	one("idempotency: the device is left out of the name", "window.go",
		`w.byName[attemptName{i.Device, i.ClientID}]`, `w.byName[attemptName{"", i.ClientID}]`).and("window.go",
		`name: attemptName{i.Device, i.ClientID}, digest`, `name: attemptName{"", i.ClientID}, digest`),
	one("idempotency: the name is known a moment too long", "window.go", `now < r.expires {`, `now <= r.expires {`),
	one("idempotency: the window is always an hour", "window.go",
		`b.Now.UnixMilli() + i.Window.Milliseconds()`, `b.Now.UnixMilli() + 3_600_000`),
	one("idempotency: nothing expires", "window.go", `w.queue[0].expires <= now &&`, `w.queue[0].expires <= 0 &&`),
	one("idempotency: one more than the bound", "window.go", `if len(w.byName) >= i.Max {
		return`, `if len(w.byName) > i.Max {
		return`),
	one("idempotency: a name that is used again goes with the old one", "window.go",
		`if w.byName[r.name] == r {`, `if w.byName[r.name] != nil {`),
	one("idempotency: a repetition gets the place of the first inbox", "window.go",
		`if p.Account == b.Account {
				r.place = p
			}`, `if r.place.Account == "" {
				r.place = p
			}`),
	one("idempotency: a repetition gets no ordinal", "window.go", `r.place = p
`, `r.place = p
				r.place.Ordinal = 0
`),
	one("idempotency: a refused batch is remembered", "commit.go",
		`return store.Result{}, false, store.ErrConflict`, `if b.Idempotency != nil {
			a.window.add(b, nil)
		}
		return store.Result{}, false, store.ErrConflict`),
	one("idempotency: a batch that did nothing is remembered", "commit.go",
		`r := store.Result{Unchanged: true,`, `if b.Idempotency != nil {
			a.window.add(b, nil)
		}
		r := store.Result{Unchanged: true,`),
}

var accountMutants = []mutant{
	one("delete: the revision is not checked", "store.go", `if have != expect {`, `if have != expect && expect != 0 {`),
	one("delete: the epoch stays", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch}`),
	one("delete: messages are never released", "store.go", `s.releaseLocked(m)`, `_ = m`),
	one("delete: messages that were changed are never released", "store.go", `if m := a.inbox.entries[i].message; m != nil {`,
		`if m := a.inbox.entries[i].message; m != nil && m.holds == 0 {`),
	one("delete: registers stay", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch + 1, states: a.states}`),
	one("delete: cursors stay", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch + 1, cursors: a.cursors}`),
	one("delete: counts stay", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch + 1, counts: a.counts}`),
	one("delete: idempotency records stay", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch + 1, window: a.window}`),
	one("delete: numbers go on", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch + 1, inbox: inbox{seq: a.inbox.seq}}`),
	one("accounts: those without a record are left out", "store.go",
		`if a.revision != 0 || a.inbox.seq != 0 {`, `if a.revision != 0 {`),
	one("accounts: those without an inbox are left out", "store.go",
		`if a.revision != 0 || a.inbox.seq != 0 {`, `if a.inbox.seq != 0 {`),
	one("accounts: those that were trimmed are left out", "store.go",
		`if a.revision != 0 || a.inbox.seq != 0 {`, `if a.revision != 0 || a.inbox.live != 0 {`),
	one("accounts: a page begins with the last of the one before", "store.go", `next = a.index + 1`, `next = a.index`),
	one("accounts: a deleted one ends the list", "store.go",
		`if a := s.accounts[after]; a != nil {`, `if a := s.accounts[after]; a != nil && a.epoch > 1 {
		return nil, nil
	} else if a != nil {`),
	one("epoch: that of an inbox without entries is another", "store.go",
		`return store.Head{Epoch: s.epoch(1)}`, `return store.Head{Epoch: s.epoch(0)}`),
}

var roomMutants = []mutant{
	one("full: Reserve has no bound", "commit.go", `limit += s.reserve`, `return nil`),
	one("full: a payload never gives its room back", "commit.go", `s.bytes -= int64(len(m.payload))`, `s.bytes -= 0`),
	one("full: an entry never gives its room back", "commit.go", `s.bytes -= entryBytes
	m.refs--`, `m.refs--`),
	one("full: a repetition is refused", "commit.go",
		`if i := b.Idempotency; i != nil {`, `if err := s.roomLocked(b); err == store.ErrFull {
		return store.Result{}, false, err
	}
	if i := b.Idempotency; i != nil {`),
	one("full: a conflict is told as full", "commit.go",
		`if b.Record != nil && b.Record.Expect != a.revision {`, `if err := s.roomLocked(b); err == store.ErrFull {
		return store.Result{}, false, err
	}
	if b.Record != nil && b.Record.Expect != a.revision {`),
	one("full: registers of a refused batch are written", "commit.go",
		`return store.Result{}, false, s.roomLocked(b)`, `err := s.roomLocked(b)
	for i := range b.States {
		if err == store.ErrFull {
			s.accountLocked(b.Account).update(&b.States[i], 0)
		}
	}
	return store.Result{}, false, err`),
	one("full: there is no bound", "commit.go", `if s.bytes+need > limit {`, `if s.bytes > limit<<10 {`),
}

// These break what memstore's tests have in place of what memory has not: two openers, and damage that is noticed.
var hookMutants = []mutant{
	one("openers: each has a store of its own", "hooks_test.go", `return one(), nil`, `_ = one
		return memstore.New(memstore.Config{}), nil`),
	one("damage: what was damaged is handed out", "hooks_test.go",
		`if bytes.Contains(data, d.bytes) {`, `if bytes.Contains(data, d.bytes) && len(data) > 64 {`),
	one("damage: a page leaves the damaged entry out", "hooks_test.go",
		`for _, e := range p.Entries {
		if bad := d.check(e.Payload); bad != nil {
			return store.Page{}, bad
		}`, `for i, e := range p.Entries {
		if bad := d.check(e.Payload); bad != nil {
			p.Entries = p.Entries[:i]
			return p, nil
		}`),
	one("damage: the error is none that can be told from others", "hooks_test.go",
		`return errDamaged`, `return errors.New("read error")`),
	one("damage: one damaged register fails all accounts", "hooks_test.go",
		`p, err := d.Store.States(ctx, a, o)`, `a = "ann"
	p, err := d.Store.States(ctx, a, o)`),
	one("damage: it ends what is read before it", "hooks_test.go",
		`p, err := d.Store.Read(ctx, a, o)`, `p, err := d.Store.Read(ctx, a, o)
	if all, _ := d.Store.Read(ctx, a, store.ReadOptions{Limit: 1000}); o.Limit > 0 && o.Limit < 1000 && all.Head.Seq != p.Through {
		for _, e := range all.Entries {
			if bad := d.check(e.Payload); bad != nil {
				return store.Page{}, bad
			}
		}
	}`),
	one("damage: the store fails", "hooks_test.go",
		`return errDamaged`, `d.Store.Close(context.Background())
		return errDamaged`),
}

var leaseMutants = []mutant{
	one("leases: a held name is given again", "leases.go", `ok && now.Before(h.until) {
		return store.Lease{}`, `ok && now.Before(h.until) && h.life == 0 {
		return store.Lease{}`),
	one("leases: a lease never expires", "leases.go", `until: now.Add(life)}`, `until: now.Add(store.MaxLease)}`),
	one("leases: any life is taken", "leases.go",
		`if err := store.ValidateLease(node, life); err != nil {`, `if err := store.ValidateLease(node, store.MinLease); err != nil {`),
	one("leases: any name is taken", "leases.go",
		`if err := store.ValidateLease(node, life); err != nil {`, `if err := store.ValidateLease("x", life); err != nil {`),
	one("leases: all have one epoch", "leases.go", `m.epoch++`, `m.epoch = 1`),
	one("leases: a renewal changes nothing", "leases.go", `h.until = now.Add(h.life)`, `_ = now`),
	one("leases: a late renewal is taken", "leases.go", `h.epoch != l.Epoch || !now.Before(h.until) {`, `h.epoch != l.Epoch {`),
	one("leases: a renewal under an old epoch is taken", "leases.go", `!ok || h.epoch != l.Epoch ||`, `!ok ||`),
	one("leases: a release changes nothing", "leases.go", `delete(m.held, l.Node)`, `_ = m.held`),
	one("leases: a release under an old epoch is taken", "leases.go", `if m.held[l.Node].epoch == l.Epoch {`, `if l.Epoch != 0 {`),
	one("leases: those that are over are alive", "leases.go",
		`h.epoch == l.Epoch && time.Now().Before(h.until)`, `h.epoch == l.Epoch`),
	one("leases: an old epoch is alive", "leases.go", `ok && h.epoch == l.Epoch && time.Now()`, `ok && time.Now()`),
	one("leases: it cannot tell the dead", "leases.go", `return store.Dead, nil`, `return store.CannotTell, nil`),
	one("leases: those that are over are listed", "leases.go", `if time.Now().Before(h.until) {
			all`, `if h.epoch != 0 {
			all`),
	one("leases: none is listed", "leases.go", `return all, nil`, `return all[:0], nil`),
	one("leases: a call that was given up is answered", "leases.go",
		`return store.CannotTell, fmt.Errorf("memstore: look at lease: %w", err)`, `return store.CannotTell, nil`),
}
