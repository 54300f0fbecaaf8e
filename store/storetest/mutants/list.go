package main

import "slices"

// mutants are all of them, by what they break.
var mutants = slices.Concat(missed, batchMutants, replaceMutants, removalMutants, readMutants, stateMutants, cursorMutants,
	idempotencyMutants, accountMutants, roomMutants, hookMutants, leaseMutants)

// missed are faults that the rules once let pass.
var missed = []mutant{
	one("cursor: Sent goes back when Seq is the same", "account.go",
		`have.Seq, have.Sent = max(have.Seq, c.Seq), max(have.Sent, c.Sent)`,
		`if have.Seq == c.Seq {
				have.Sent = c.Sent
			}
			have.Seq, have.Sent = max(have.Seq, c.Seq), max(have.Sent, c.Sent)`),
	one("idempotency: half of the digest is compared", "window.go",
		`r.digest != i.Digest`, `[16]byte(r.digest[:16]) != [16]byte(i.Digest[:16])`),
	one("state: a page of more than 40 leaves one out at its end", "read.go",
		`last := page.States[o.Limit-1]`,
		`last := page.States[o.Limit-1]
			if o.Limit > 40 {
				last = state
			}`),
	one("trim: a slice of more than 512 leaves entries behind", "read.go",
		`if e.seq > through || e.message != nil && removed == limit {`,
		`if removed == 512 {
			break
		}
		if e.seq > through || e.message != nil && removed == limit {`),
	one("count: Uncounted is the store's own memory", "read.go", `slices.Clone(n.uncounted)`, `n.uncounted`),
	one("cursor: the list is the store's own memory", "read.go", `return slices.Clone(a.cursors), nil`, `return a.cursors, nil`),
	one("full: Reserve is ignored", "commit.go", `limit += s.reserve`, `limit += 0`),
	one("send: inboxes beyond 2,000 get nothing", "commit.go",
		`for i := range in.To {
		m.to[i]`,
		`for i := range min(len(in.To), 2000) {
		m.to[i]`),
	one("send: a used message ID is taken again", "commit.go",
		`if _, ok := s.messages[m.ID]; ok {`, `if _, ok := s.messages[m.ID]; ok && m.ID == "" {`),
	one("idempotency: a clock that goes back blocks what expires", "window.go",
		`n == 0 || w.queue[n-1].expires <= r.expires`, `n >= 0`),
}

var batchMutants = []mutant{
	one("order: the record is checked before the idempotency", "commit.go",
		`if i := b.Idempotency; i != nil {`,
		`if b.Record != nil && b.Record.Expect != a.revision {
		return store.Result{}, false, store.ErrConflict
	}
	if i := b.Idempotency; i != nil {`),
	one("order: the record is not checked", "commit.go",
		`b.Record.Expect != a.revision {`, `b.Record.Expect != a.revision && a.revision == 0 {`),
	one("order: OnlyIfChanged is not looked at", "commit.go",
		`if b.OnlyIfChanged && !changes(a, b.States) {`, `if b.OnlyIfChanged && b.States == nil {`),
	one("order: OnlyIfChanged tells no revision", "commit.go", `if b.Record != nil {
			r.Revision`, `if b.Record == nil {
			r.Revision`),
	one("order: OnlyIfChanged without a state is applied", "commit.go",
		`if b.OnlyIfChanged && !changes(a, b.States) {`, `if b.OnlyIfChanged && b.States != nil && !changes(a, b.States) {`),
	one("record: data that was passed in is kept", "commit.go", `s.revision, slices.Clone(b.Record.Data)`, `s.revision, b.Record.Data`),
	one("record: revisions begin again after Delete", "commit.go", `a.revision, a.record = s.revision,`, `a.revision, a.record = a.revision+1,`),
	one("record: the result is without the revision", "commit.go", `r.Revision = a.revision
	}
	if len(b.Forget)`, `r.Revision = b.Record.Expect
	}
	if len(b.Forget)`),
	one("send: places that are returned are the store's own memory", "commit.go", `copy(placed[i].To, m.to)`, `placed[i].To = m.to`),
	one("send: the flags of an inbox get lost", "commit.go", `flags: m.flags | to.Flags,`, `flags: m.flags,`),
	one("send: the flags of an inbox are in all of them", "commit.go",
		`e := entry{seq: box.seq + 1,`, `m.flags |= to.Flags
	e := entry{seq: box.seq + 1,`),
	one("send: targets that were passed in are kept", "commit.go", `targets: slices.Clone(to.Targets)}`, `targets: to.Targets}`),
	one("send: only the first 16 targets are kept", "commit.go",
		`targets: slices.Clone(to.Targets)}`, `targets: slices.Clone(to.Targets[:min(len(to.Targets), 16)])}`),
	one("send: times are cut to the second", "commit.go", `key: in.Key, time: now,`, `key: in.Key, time: now / 1000 * 1000,`),
	one("send: an expiry of 0 gets lost", "commit.go",
		`m.mayExpire, m.expires = true, in.Expires.UnixMilli()`, `m.mayExpire, m.expires = in.Expires.UnixMilli() != 0, in.Expires.UnixMilli()`),
	one("send: the expiry gets lost", "commit.go", `m.mayExpire, m.expires = true,`, `m.mayExpire, m.expires = false,`),
	one("send: everybody gets the client message ID", "account.go", `if own == m.from {`, `if own == m.from || m.clientID != "" {`),
	one("send: the sender's own fields go to the acting account alone", "commit.go",
		`messages = append(messages, newMessage(&b.Messages[i], b.Now.UnixMilli()))`,
		`messages = append(messages, newMessage(&b.Messages[i], b.Now.UnixMilli()))
		if b.Account != messages[i].from {
			messages[i].clientID, messages[i].origin = "", ""
		}`),
	one("order: messages of one batch come the other way round", "commit.go",
		`for i, m := range messages {
		s.appendLocked`,
		`for i := range messages {
		i = len(messages) - 1 - i
		m := messages[i]
		s.appendLocked`),
	{"atomic: the record is seen before the entries", []edit{
		{"commit.go", `import (`, `import (
	"runtime"`},
		{"commit.go", `for i, m := range messages {
		s.appendLocked`, `for range 3 {
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
	for i, m := range messages {
		s.appendLocked`},
	}},
	{"atomic: inboxes get a message one after another", []edit{
		{"commit.go", `import (`, `import (
	"runtime"`},
		{"commit.go", `for i := range in.To {
		m.to[i]`, `for i := range in.To {
		for range 3 {
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
		m.to[i]`},
	}},
	one("inbox: a refused batch uses a number", "commit.go",
		`return store.Result{}, false, store.ErrConflict`, `a.inbox.seq++
		return store.Result{}, false, store.ErrConflict`),
	one("inbox: a voided number is used again", "commit.go",
		`e := entry{seq: box.seq + 1,`, `if n := len(box.entries); n > 0 && box.entries[n-1].message == nil {
		box.seq, box.entries = box.seq-1, box.entries[:n-1]
	}
	e := entry{seq: box.seq + 1,`),
}

var replaceMutants = []mutant{
	one("key: a newer entry does not supersede", "commit.go", `for _, key := range [...]string{in.Key, in.Drop} {`,
		`for _, key := range [...]string{in.Drop} {`),
	one("key: Drop is ignored", "commit.go", `for _, key := range [...]string{in.Key, in.Drop} {`,
		`for _, key := range [...]string{in.Key} {`),
	one("key: what is superseded stays in the count", "commit.go",
		`a.uncount(old.message.conversation, old.ordinal)`, `if successor {
				a.uncount(old.message.conversation, old.ordinal)
			}`),
	one("key: what is superseded is never released", "commit.go",
		`s.releaseLocked(old.message)`, `if successor {
			s.releaseLocked(old.message)
		}`),
	one("change: a place of another epoch is taken", "commit.go",
		`successor := to.Replaces.Seq != 0 && to.Replaces.Epoch == s.epoch(a.epoch)`, `successor := to.Replaces.Seq != 0`),
	one("change: a key alone hands targets on", "commit.go",
		`if successor && len(to.Targets) == 0 && e.targets == nil {`, `if len(to.Targets) == 0 && e.targets == nil {`),
	one("change: targets are not handed on", "commit.go",
		`if successor && len(to.Targets) == 0 && e.targets == nil {`, `if successor && len(to.Targets) == 1 && e.targets == nil {`),
	one("change: it takes a place in the count of another conversation", "commit.go",
		` && old.message.conversation == m.conversation`, ``),
	one("change: one that counts itself takes the old ordinal too", "commit.go",
		`heir := successor && !in.Uncount && e.flags&event.FlagUnread == 0`, `heir := successor && !in.Uncount`),
	one("change: the last of all that it replaces hands on its place", "commit.go",
		`heir := successor && !in.Uncount && e.flags&event.FlagUnread == 0`, `heir := successor && !in.Uncount && !counts`),
	one("change: Uncount is ignored", "commit.go", `heir := successor && !in.Uncount &&`, `heir := successor &&`),
	one("change: what is changed is forgotten before the change", "commit.go", `m.of.holds++`, `m.of.holds += 0`),
	one("change: what is changed is never forgotten", "commit.go", `m.of.holds--`, `m.of.holds -= 0`),
	one("change: one of an unknown message is dropped", "commit.go",
		`if m.of = s.messages[in.Of]; m.of != nil {`,
		`if m.of = s.messages[in.Of]; m.of == nil {
			return
		} else {`),
	one("count: ordinals are shared by all conversations", "commit.go",
		`e.ordinal = a.next(m.conversation)`, `e.ordinal = a.next("")`),
	one("count: an ordinal is used again after a void", "account.go",
		`n.uncounted = store.Uncount(n.uncounted, ordinal)`, `n.uncounted = store.Uncount(n.uncounted, ordinal)
		if ordinal == n.counted {
			n.counted--
		}`),
	one("count: what was taken out is not bounded", "account.go",
		`n.uncounted = store.Uncount(n.uncounted, ordinal)`, `n.uncounted = append(n.uncounted, ordinal)
		slices.Sort(n.uncounted)`),
}
