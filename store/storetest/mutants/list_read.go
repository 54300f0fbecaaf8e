package main

var removalMutants = []mutant{
	one("trim: it goes back", "read.go", `box.trim = max(box.trim, through)`, `box.trim = through`),
	one("trim: it goes beyond the head", "read.go", `through = min(through, box.seq)`, `through = min(through, box.seq+1)`),
	one("trim: one entry more than the limit", "read.go", `removed == limit {`, `removed == limit+1 {`),
	one("trim: holes count for the limit", "read.go",
		`if e.message != nil {
			s.removedLocked(box.punchAt(i))
			removed++
		}`,
		`s.removedLocked(box.punchAt(i))
		removed++`).and("read.go", `e.message != nil && removed == limit {`, `e.message != nil && removed >= limit {`),
	one("trim: what is trimmed is taken out of the count", "read.go",
		`s.removedLocked(box.punchAt(i))`, `a.uncount(e.message.conversation, e.ordinal)
			s.removedLocked(box.punchAt(i))`),
	one("trim: messages are never released", "read.go", `s.removedLocked(box.punchAt(i))`, `box.punchAt(i)`),
	one("trim: the old head is returned", "read.go",
		`through = min(through, box.seq)
	removed := 0`,
		`old := s.headLocked(a)
	defer func() {
		if limit > 1 {
			head = old
		}
	}()
	through = min(through, box.seq)
	removed := 0`).and("read.go",
		`Trim(ctx context.Context, name event.Account, through uint64, limit int) (store.Head, error) {`,
		`Trim(ctx context.Context, name event.Account, through uint64, limit int) (head store.Head, err error) {`),
	one("void: the entry stays in the count", "read.go",
		`a.uncount(e.message.conversation, e.ordinal)
			s.removedLocked(e)`, `s.removedLocked(e)`),
	one("void: the trim position moves", "read.go",
		`a.inbox.tidy()
	return s.headLocked(a), nil`, `a.inbox.trim = max(a.inbox.trim, min(a.inbox.seq, seqs[0]))
	a.inbox.tidy()
	return s.headLocked(a), nil`).and("read.go", `for _, seq := range seqs {`, `if len(seqs) == 0 {
		return s.headLocked(a), nil
	}
	for _, seq := range seqs {`),
	one("void: holes take entries for some devices along", "account.go",
		`bool { return e.message == nil }`, `bool { return e.message == nil || e.targets != nil }`),
	one("void: numbers beyond 512 are skipped", "read.go", `for _, seq := range seqs {`, `for _, seq := range seqs[:min(len(seqs), 512)] {`),
	one("void: an entry that is not there takes the one before", "account.go",
		`if i < 0 || b.entries[i].seq != seq {`, `if i < 0 || b.entries[i].seq > seq {`),
	one("message: gone while an inbox still has it", "commit.go", `if m.refs == 0 {
		s.bytes`, `if m.refs <= 1 {
		s.bytes`),
	one("message: the payload goes with the first copy", "commit.go", `m.refs--`, `m.refs--
	m.payload = nil`),
	one("head: keyed entries count", "store.go", `Entries: b.unkeyed`, `Entries: b.live`),
	one("head: bytes are those of all that ever came", "account.go",
		`b.bytes -= int64(len(m.payload)) + entryBytes`, `b.bytes -= entryBytes`),
	one("head: the number is that of the newest that is left", "store.go",
		`b := &a.inbox
`, `b := &a.inbox
	if n := len(b.entries); n > 0 {
		b.seq = b.entries[n-1].seq
	} else {
		b.seq = b.trim
	}
`),
	one("inbox: tidying drops an entry that is left", "account.go",
		`b.entries = slices.DeleteFunc(b.entries, func(e entry) bool { return e.message == nil })`,
		`b.entries = b.entries[len(b.entries)-b.live:]`),
}

var readMutants = []mutant{
	one("read: the entry at After comes again", "read.go",
		`rest := a.inbox.entries[a.inbox.after(o.After):]`, `rest := a.inbox.entries[max(a.inbox.after(o.After)-1, 0):]`),
	one("read: a page that is cut short says that it covers all", "read.go",
		`page.Through = page.Entries[len(page.Entries)-1].Seq
			break`, `break`),
	one("read: a page covers what lies before its next entry's end", "read.go",
		`page.Through = page.Entries[len(page.Entries)-1].Seq`, `page.Through = rest[i].seq`),
	one("read: Limit 0 covers all", "read.go", `page.Through = o.After
		return page, nil`, `return page, nil`),
	one("read: the bound of bytes is one entry late", "read.go", `o.MaxBytes > 0 && bytes >= o.MaxBytes`, `o.MaxBytes > 0 && bytes > o.MaxBytes`),
	one("read: the bound of bytes does not count bodies", "read.go", `bytes += e.Size()`, `bytes += e.Size() - len(e.Payload)`),
	one("read: an entry beyond the bound of bytes never comes", "read.go",
		`e := rest[i].event(name, !o.NoBodies)`, `e := rest[i].event(name, !o.NoBodies)
		if o.MaxBytes > 0 && e.Size() > o.MaxBytes {
			continue
		}`),
	one("read: NoBodies is ignored", "read.go", `rest[i].event(name, !o.NoBodies)`, `rest[i].event(name, true)`),
	one("read: what was in Into stays", "read.go", `= o.Into[:0], max(`, `= o.Into, max(`),
	one("read: Into is kept", "read.go", `page := store.Page{Head: s.headLocked(a)}`, `if o.Into == nil {
		o.Into = s.into[:0]
	}
	s.into = o.Into
	page := store.Page{Head: s.headLocked(a)}`).and("store.go", `bytes    int64          // what`, `into     []event.Entry
	bytes    int64          // what`),
	one("read: targets are the store's own memory", "account.go", `Targets: slices.Clone(e.targets)`, `Targets: e.targets`),
	one("read: a head beyond Known is hidden", "read.go", `if o.Limit == 0 {
		page`, `if o.Known != 0 && o.Known < page.Head.Seq {
		page.Head.Seq = o.Known
	}
	if o.Limit == 0 {
		page`),
	one("message: its places are the store's own memory", "read.go", `To: slices.Clone(m.to),`, `To: m.to,`),
	one("message: not found if only a change is left", "read.go", `if m == nil {
		return store.MessageInfo{}`, `if m == nil || m.refs == 0 {
		return store.MessageInfo{}`),
	one("load: an empty record is none", "store.go",
		`if a == nil || a.revision == 0 {`, `if a == nil || len(a.record) == 0 {`),
	one("load: data is the store's own memory", "store.go", `Data: slices.Clone(a.record)`, `Data: slices.Clip(a.record)`),
	one("errors: a context that has ended is ignored", "store.go",
		`if err := ctx.Err(); err != nil {`, `if err := ctx.Err(); err != nil && s.accounts == nil {`),
	one("errors: Load takes any name", "store.go", `if err := store.CheckAccount(name); err != nil {
		return store.Record{}, err
	}
`, ``),
	one("errors: Trim takes a limit of 0", "read.go", `if err := store.CheckLimit(limit); err != nil {
		return store.Head{}, err
	}
`, ``),
	one("errors: a bad cursor stops only those behind it", "read.go",
		`for i := range cursors {
		if err := cursors[i].Validate(); err != nil {
			return err
		}
	}
`, ``).and("read.go", `if a := s.accounts[c.Account]; a != nil {`, `if err := c.Validate(); err != nil {
			return err
		}
		if a := s.accounts[c.Account]; a != nil {`),
	one("close: methods say that the store failed", "store.go", `return store.ErrClosed`, `return store.ErrFailed`),
	one("close: nobody is told", "store.go", `close(s.failed)`, `_ = s.failed`),
	one("info: all stores have one ID key", "store.go", `IDKey:        event.NewIDKey()`, `IDKey:        sameKey`).and("store.go", `const mostBytes`, `var sameKey = event.NewIDKey()

const mostBytes`),
	one("claims: everybody gets in", "store.go", `// Info implements [store.Store].`, `// Claim implements [store.Store].
func (s *Store) Claim(bool) (func(), error) { return func() {}, nil }

// Info implements [store.Store].`),
}

var stateMutants = []mutant{
	one("state: the number of what set it gets lost", "account.go", `next.Seq = seq
`, ``),
	one("state: what does not change gets a new number", "account.go",
		`next, changed := a.merged(u)
	if changed {`, `next, changed := a.merged(u)
	if changed || a.name != "" {`),
	one("state: a value that was passed in is kept", "account.go", `next.Seq = seq
		next.Value = slices.Clone(next.Value)`, `next.Seq = seq`),
	one("state: a value that is returned is the store's own memory", "account.go",
		`next.Value = slices.Clone(next.Value)
	return next`, `return next`),
	one("state: an unchanged value is the store's own memory", "commit.go",
		`state.Value = slices.Clone(state.Value)`, `_ = state`),
	one("state: a page hands out the store's own memory", "read.go", `state.Value = slices.Clone(state.Value)`, `_ = state`),
	one("state: registers are written before the entries", "commit.go",
		`for i, m := range messages {
		s.appendLocked`, `for i := range b.States {
		a.update(&b.States[i], a.inbox.seq)
	}
	for i, m := range messages {
		s.appendLocked`),
	one("state: any cursor is taken", "read.go", `if !ok && o.Cursor != "" {`, `if !ok && o.Cursor == "\n" {`),
	one("state: Newer takes in the same", "read.go", `state.Seq <= o.Newer`, `state.Seq < o.Newer`),
	one("state: a conversation takes in those that begin alike", "read.go",
		`state.Conversation != o.Conversation {`, `!strings.HasPrefix(string(state.Conversation), string(o.Conversation)) {`),
	one("state: a page begins with the last of the one before", "read.go", `next = max(next, i+1)`, `next = max(next, i)`),
	one("state: the last page has a cursor", "read.go", `return page, nil
}

// Conversations implements`, `if n := len(page.States); n == o.Limit && page.Next == "" {
		page.Next = string(page.States[n-1].Conversation) + "\n" + page.States[n-1].Name
	}
	return page, nil
}

// Conversations implements`),
	one("count: a page begins with the last of the one before", "read.go", `string(c)+"\n" > o.Cursor`, `string(c)+"\n" >= o.Cursor`),
	one("count: a conversation takes in those that begin alike", "read.go",
		`c == o.Conversation)`, `strings.HasPrefix(string(c), string(o.Conversation)))`),
}

var cursorMutants = []mutant{
	one("cursor: the newest stays, not the highest", "account.go",
		`max(have.Seq, c.Seq), max(have.Sent, c.Sent)`, `c.Seq, c.Sent`),
	one("cursor: Seq raises Sent", "account.go",
		`max(have.Seq, c.Seq), max(have.Sent, c.Sent)`, `max(have.Seq, c.Seq), max(have.Sent, c.Sent, c.Seq)`),
	one("cursor: those beyond 512 are skipped", "read.go",
		`for _, c := range cursors {`, `for _, c := range cursors[:min(len(cursors), 512)] {`),
	one("cursor: one of no account ends the list", "read.go", `if a := s.accounts[c.Account]; a != nil {
			a.save(c)
		}`, `a := s.accounts[c.Account]
		if a == nil {
			break
		}
		a.save(c)`),
	one("cursor: one that nobody began is kept", "account.go",
		`			return
		}
	}
}

// message is`, `			return
		}
	}
	a.cursors = append(a.cursors, c)
}

// message is`),
	one("cursor: one that is there begins again", "account.go",
		`if slices.ContainsFunc(a.cursors, func(c store.Cursor) bool { return c.Incarnation == d.Incarnation }) {
		return
	}`, `a.cursors = slices.DeleteFunc(a.cursors, func(c store.Cursor) bool { return c.Incarnation == d.Incarnation })`),
	one("cursor: At is ignored", "account.go", `if d.At != 0 {`, `if d.At == math.MaxUint64 {`).and("account.go", `import (`, `import (
	"math"`),
	one("cursor: At goes beyond the head", "account.go", `seq = min(seq, d.At)`, `seq = d.At`),
	one("cursor: it begins before the trim position", "account.go", `seq = max(seq, a.inbox.trim)
`, ``),
	one("cursor: it begins at the head before the batch", "commit.go",
		`if len(b.Forget) != 0 {`, `for _, d := range b.Begin {
		a.begin(d)
	}
	if len(b.Forget) != 0 {`),
	one("cursor: all are forgotten with one", "commit.go",
		`return slices.Contains(b.Forget, c.Incarnation)`, `return c.Incarnation != 0`),
}
