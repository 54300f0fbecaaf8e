package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Verify looks for damage in three walks:
//
//	pages and rows   as they are in the file: that pages make sense, and rows have their checksums
//	accounts         as readers see them: that rows can be decoded, heads agree with their rows, entries' messages are there
//	messages         that are in the file: that they agree with the inboxes that hold them
//
//  1. No walk keeps anything from being changed. An account, and a message with its inboxes, are looked at in one snapshot each, so that
//     what is found wrong is wrong, whatever goes on meanwhile.
//  2. What one walk has found, the next ones may meet again: a damaged row is reported once, by its key.

// Verified is what a Verify has looked at.
type Verified struct {
	Pages    int // of the file
	Rows     int // of the file
	Accounts int
	Messages int
	Findings int
}

// Verify reads the whole store and calls report with all that is wrong, one finding at a time. The store stays in use: it may take
// minutes for a large file, reads all of it from the disk, and slows others down as any reader does. The error is ctx's, or that
// of a store that is closed or has failed; damage is no error.
func (s *Store) Verify(ctx context.Context, report func(Finding)) (Verified, error) {
	v := verifier{s: s, report: report, seen: make(map[string]bool)}
	if err := v.all(ctx); err != nil {
		return v.done, fmt.Errorf("boltstore: verify: %w", err)
	}
	return v.done, nil
}

type verifier struct {
	s      *Store
	report func(Finding)
	seen   map[string]bool // rows that were reported
	done   Verified

	parts    [][]byte // of accounts' rows that the walk through the file has met and not looked at yet
	messages [][]byte // likewise
	last     []byte   // part that was met last
	lastKey  []byte   // message that was met last
}

// verifyNames is how many accounts are listed at a time.
const verifyNames = 256

func (v *verifier) found(f Finding) {
	key := ""
	if f.Key != nil && f.Kind != FindingPage {
		key = f.Table + "\x00" + string(f.Key)
	}
	if key != "" && len(v.seen) < 1<<20 {
		if v.seen[key] {
			return
		}
		v.seen[key] = true
	}
	v.done.Findings++
	v.report(f)
}

func (v *verifier) all(ctx context.Context) error {
	done, err := v.s.db.Verify(ctx, kv.Verification{
		Report: func(err error) { v.found(v.s.keys.findingOf(err)) },
		Row:    v.row,
	})
	v.done.Pages, v.done.Rows = done.Pages, done.Rows
	if err != nil {
		return err
	}
	if err := v.accounts(ctx); err != nil {
		return err
	}
	for _, part := range v.parts {
		if err := v.owned(ctx, part); err != nil {
			return err
		}
	}
	slices.SortFunc(v.messages, bytes.Compare)
	for _, key := range slices.CompactFunc(v.messages, bytes.Equal) {
		if err := v.message(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// row notes to whom a row of the file belongs.
func (v *verifier) row(t kv.Table, key, _ []byte) {
	switch t {
	case tableAccount:
		_, _, rest, ok := cutAccount(key)
		part := key[:len(key)-len(rest)]
		switch {
		case !ok:
			v.found(Finding{Kind: FindingRow, Table: tables[t].Name, Key: bytes.Clone(key), Err: corrupt("account key")})
		case !bytes.Equal(part, v.last):
			v.last = append(v.last[:0], part...)
			v.parts = append(v.parts, bytes.Clone(part))
		}
	case tableMessage:
		if n := len(key) - 1; n > 0 && !bytes.Equal(key[:n], v.lastKey) {
			v.lastKey = append(v.lastKey[:0], key[:n]...)
			v.messages = append(v.messages, bytes.Clone(key[:n]))
		}
	case tableReference:
		v.messages = append(v.messages, bytes.Clone(key))
	}
}

// accounts looks at all accounts.
func (v *verifier) accounts(ctx context.Context) error {
	for after := []byte(nil); ; {
		var names [][]byte
		err := v.s.db.View(ctx, func(k *kv.Snapshot) (err error) {
			names, err = k.Prefixes(tableHead, after, verifyNames)
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			err := v.s.db.View(ctx, func(k *kv.Snapshot) error {
				c := accountCheck{view: view{Snapshot: k, s: v.s}, found: v.found}
				return c.check(event.Account(name))
			})
			if err != nil {
				return err
			}
			v.done.Accounts++
		}
		if len(names) < verifyNames {
			return nil
		}
		after = names[len(names)-1]
	}
}

// owned looks whether the owner of rows of the file still has them.
func (v *verifier) owned(ctx context.Context, part []byte) error {
	return v.s.db.View(ctx, func(k *kv.Snapshot) error {
		name, generation, _, _ := cutAccount(part)
		var a account
		if err := a.find(k, name); err != nil {
			return unlessCorrupt(err) // which was reported
		}
		if a.is && a.head.generation == generation {
			return nil
		}
		purge := purgePart
		if waits, err := k.Get(&purge, part); err != nil || waits != nil {
			return unlessCorrupt(err)
		}
		rows := kv.Of(tableAccount, part)
		n, first := 0, []byte(nil)
		err := k.Scan(&rows, nil, nil, func(key, _ []byte) (bool, error) {
			if n++; n == 1 {
				first = append(bytes.Clone(part), key...)
			}
			return true, nil
		})
		if n > 0 {
			v.found(Finding{
				Kind: FindingLeft, Table: tables[tableAccount].Name, Key: first, Account: name,
				Err: fmt.Errorf("%d rows of an account that was deleted, or whose head is missing", n),
			})
		}
		return unlessCorrupt(err)
	})
}

// message looks at a message of the file.
func (v *verifier) message(ctx context.Context, key []byte) error {
	err := v.s.db.View(ctx, func(k *kv.Snapshot) error {
		var m stored
		m.set(v.s.keys, k, key)
		there, err := m.find()
		if err != nil {
			v.found(v.ofMessage(FindingRow, &m, err))
			return unlessCorrupt(err)
		}
		if !there {
			return v.remains(k, &m)
		}
		holders, whole, err := v.holders(k, &m)
		if err == nil {
			var refs references
			refs, err = m.references()
			if err == nil && whole && refs.inboxes != holders {
				v.found(v.ofMessage(FindingCount, &m, fmt.Errorf("held by %d inboxes, but counts %d", holders, refs.inboxes)))
			}
			if err == nil && whole && holders == 0 && refs.changes == 0 {
				v.found(v.ofMessage(FindingLeft, &m, errors.New("no inbox holds it, and no message changes it")))
			}
		}
		if err != nil {
			v.found(v.ofMessage(FindingRow, &m, err))
		}
		return unlessCorrupt(err)
	})
	v.done.Messages++
	return err
}

func (v *verifier) ofMessage(kind FindingKind, m *stored, err error) Finding {
	f := Finding{Kind: kind, Table: tables[tableMessage].Name, Message: v.s.keys.id(m.key), Key: append(bytes.Clone(m.key), messageShared), Err: err}
	if d, ok := errors.AsType[*kv.Damage](err); ok {
		f.Key = d.Key
	}
	return f
}

// remains reports rows of a message whose first one is missing.
func (v *verifier) remains(k *kv.Snapshot, m *stored) error {
	err := k.Scan(&m.part, nil, nil, func(row, _ []byte) (bool, error) {
		f := v.ofMessage(FindingLeft, m, errors.New("the rest of the message is missing"))
		f.Key = append(bytes.Clone(m.key), row...)
		v.found(f)
		return true, nil
	})
	return unlessCorrupt(err)
}

// holders counts the inboxes that hold a message, also those of deleted accounts whose rows are still there. whole: all of them
// could be read.
func (v *verifier) holders(k *kv.Snapshot, m *stored) (n uint64, whole bool, err error) {
	places, err := m.placesOf()
	if err != nil {
		return 0, false, err
	}
	whole = true
	var rows kv.Part
	for i := range places {
		p := &places[i]
		rows.Set(tableAccount, string(p.account), generation(p.generation))
		row, err := k.Get(&rows, entryRow(nil, p.seq))
		if err != nil {
			whole = false
			continue
		}
		if row == nil {
			continue
		}
		if e, err := decodeEntry(row); err == nil && bytes.Equal(e.message, m.key) {
			n++
		}
	}
	return n, whole, nil
}
