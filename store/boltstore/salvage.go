package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Salvage has two halves:
//
//	read     every row whose checksum is right, whatever leads to it, goes into a new file as it is; package kv does that
//	mend     what the rows say of each other is made true again: heads are counted, entries without their message go, and
//	         messages without an entry
//
// What is left is a store like any other. It has a new incarnation: devices may know of entries that were lost.

// Salvaged is what [Salvage] has saved.
type Salvaged struct {
	Accounts, Entries, Messages int // in the new store
	Findings                    int // what could not be read
	Dropped                     int // rows that could be read, and were of no use without others
}

// Salvage makes a new store at to of all that can be read in the file at path: a store, also one that [Open] refuses, or a backup. Its
// log is read as well. What cannot be read is reported, one finding at a time. path is not changed, and must not be in use; nothing may be
// at to. All inboxes get new epochs. If the key of message IDs was lost, messages are no longer found by their IDs, and the
// error says so after all is done: it is then [ErrCorrupt], and the new store is there.
func Salvage(ctx context.Context, path, to string, report func(Finding)) (Salvaged, error) {
	done, err := salvage(ctx, path, to, report)
	if err != nil {
		err = fmt.Errorf("boltstore: salvage: %w", err)
	}
	return done, err
}

const (
	salvageSlice = 1 << 20 // bytes of rows that one operation writes
	mendSlice    = 512     // accounts or messages that one operation mends
)

func salvage(ctx context.Context, path, to string, report func(Finding)) (done Salvaged, err error) {
	if err := kv.Vacant(to); err != nil {
		return done, err
	}
	backup, err := isBackup(path)
	if err != nil {
		return done, err
	}
	f, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+kv.NewSuffix+"*")
	if err != nil {
		return done, err
	}
	temp := f.Name()
	defer func() { _ = os.Remove(temp) }() // it has its name by then
	if err := errors.Join(f.Close(), os.Remove(temp)); err != nil {
		return done, err
	}
	var keys messageKeys // without an issuer if the key was lost
	cfg := Config{MaxSize: -1}.withDefaults()
	o := kv.Options{
		Path: path, Tables: tables, Memory: cfg.Memory, MaxSize: cfg.MaxSize, Reserve: cfg.reserve(), LockTimeout: time.Second,
		Logger: trace.New(nil), Meta: func(rows map[string][]byte) error {
			m, err := readMeta(rows, false)
			if err == nil {
				keys = messageKeys{event.NewIssuer(m.key)}
			}
			return err
		},
	}
	lost := func(err error) {
		done.Findings++
		report(keys.findingOf(err))
	}
	found, err := saveRows(ctx, o, backup, temp, lost)
	if err != nil {
		return done, err
	}
	m := mender{done: &done, holders: make(map[string]uint64), places: make(map[string][]place), deleted: make(map[event.Account]uint32)}
	o.Path = temp
	keyLost := false
	o.Meta = func(rows map[string][]byte) error {
		keyLost = len(found[metaSecret]) != secretBytes
		if !keyLost {
			rows[metaSecret] = found[metaSecret]
		}
		_, err := readMeta(rows, true)
		return err
	}
	if m.db, err = kv.Open(o); err != nil {
		return done, err
	}
	if err := errors.Join(m.mend(ctx), m.db.Close(context.Background())); err != nil {
		return done, err
	}
	if err := kv.Publish(temp, to); err != nil {
		return done, err
	}
	if keyLost {
		return done, fmt.Errorf("%w: the key of message IDs was lost; the new store has another one", ErrCorrupt)
	}
	return done, nil
}

// saveRows copies all rows that can be read, and returns what the file said about itself.
func saveRows(ctx context.Context, o kv.Options, backup bool, temp string, lost func(error)) (map[string][]byte, error) {
	into := o
	into.Path = temp
	into.Meta = func(rows map[string][]byte) error { _, err := readMeta(rows, false); return err }
	db, err := kv.Open(into)
	if err != nil {
		return nil, err
	}
	type row struct {
		t          kv.Table
		key, value []byte
	}
	var rows []row
	bytes := 0
	flush := func() error {
		err := db.Update(ctx, int64(bytes), func(w *kv.Writer) error {
			for _, r := range rows {
				part, rest := partOf(r.t, r.key)
				w.Put(&part, rest, r.value)
			}
			return nil
		})
		rows, bytes = rows[:0], 0
		return err
	}
	done, err := kv.Salvage(o, backup, lost, func(t kv.Table, key, value []byte) error {
		rows = append(rows, row{t, key, value})
		if bytes += len(key) + len(value); bytes > salvageSlice {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return done.Meta, errors.Join(err, db.Close(context.Background()))
}

// partOf cuts a key into its part and the rest, as the layout has it.
func partOf(t kv.Table, key []byte) (part kv.Part, rest []byte) {
	switch t {
	case tableAccount:
		if _, _, rest, ok := cutAccount(key); ok {
			return kv.Of(t, key[:len(key)-len(rest)]), rest
		}
	case tableMessage:
		if n := len(key) - 1; n > 0 {
			return kv.Of(t, key[:n]), key[n:]
		}
	case tablePurge:
		return purgePart, key
	}
	return kv.Of(t, key), nil
}
