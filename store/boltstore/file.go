package boltstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// File is a store that no process has open, or a backup of one, opened to look at: nothing of it is changed, and what a log next to it
// has is read as well. Use [OpenFile]. It is safe for concurrent use. The command mdfile shows what can be done with it.
type File struct {
	s      *Store
	path   string
	backup bool
	schema uint32
}

// OpenFile opens a store or a backup to look at. Each page that makes no sense is a [Finding] for damaged, which may be nil; with any of
// them, OpenFile fails with [ErrCorrupt], and [Salvage] is left. The other errors are those of [Open]. The file cannot be opened by [Open]
// meanwhile.
func OpenFile(path string, damaged func(Finding)) (*File, error) {
	f, err := openFile(path, damaged)
	if err != nil {
		return nil, fmt.Errorf("boltstore: open file: %w", err)
	}
	return f, nil
}

func openFile(path string, damaged func(Finding)) (*File, error) {
	backup, err := isBackup(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cfg := Config{}.withDefaults()
	f := &File{path: path, backup: backup, s: &Store{cfg: cfg, path: path, log: trace.New(nil)}}
	var m meta
	f.s.db, err = kv.OpenReadOnly(kv.Options{
		Path: path, Tables: tables, Memory: cfg.Memory, MaxSize: cfg.MaxSize, LockTimeout: time.Second, Logger: f.s.log,
		Meta: func(rows map[string][]byte) (err error) { m, err = readMeta(rows, false); return err },
	}, backup, func(d *kv.PageDamage) {
		if damaged != nil {
			damaged(messageKeys{}.findingOf(d))
		}
	})
	if err != nil {
		return nil, err
	}
	f.schema = schemaVersion
	f.s.epochs, f.s.keys = epochs(m.incarnation), messageKeys{event.NewIssuer(m.key)}
	f.s.info.Incarnation = m.incarnation
	return f, nil
}

// Close lets the file go.
func (f *File) Close() error { return f.s.db.Close(context.Background()) }

// Verify is [Store.Verify] for the file. Of a backup it reads the checksum of the whole as well.
func (f *File) Verify(ctx context.Context, report func(Finding)) (Verified, error) {
	v := verifier{s: f.s, report: report, seen: make(map[string]bool)}
	if f.backup {
		switch err := checkBackup(ctx, f.path); {
		case errors.Is(err, ErrCorrupt):
			v.found(Finding{Kind: FindingPage, Err: err})
		case err != nil:
			return v.done, fmt.Errorf("boltstore: verify: %w", err)
		}
	}
	if !f.s.db.Log().Metas {
		v.found(Finding{Kind: FindingPage, Err: fmt.Errorf("%w: a meta page; the other one is in use, and Open writes both again", ErrCorrupt)})
	}
	if err := v.all(ctx); err != nil {
		return v.done, fmt.Errorf("boltstore: verify: %w", err)
	}
	return v.done, nil
}

// CopyTo writes all that the file and its log have into a new file, whose pages are full. There must be nothing of that name. The new
// file has the same incarnation: go on with one of the two, and never with the other. So that of a backup is [ErrBackup]: [Restore] changes
// the incarnation. A row that cannot be read ends it with [ErrCorrupt]; see [Salvage].
func (f *File) CopyTo(ctx context.Context, path string) error {
	if f.backup {
		return fmt.Errorf("boltstore: copy: %w: make a store of it first, with Restore, or mdfile restore", ErrBackup)
	}
	if err := f.s.db.Copy(ctx, path); err != nil {
		return fmt.Errorf("boltstore: copy: %w", err)
	}
	return nil
}

// FileInfo is what a file says about itself.
type FileInfo struct {
	Backup      bool
	Schema      uint32
	Incarnation uint32
	Size        int64 // bytes of the file
	Free        int64 // bytes of pages that are not in use, if the file has a list of them
	Closed      bool  // no log belongs to it
	LogSize     int64 // bytes
	LogRows     int   // rows that are in the log only
	Tables      []TableInfo
}

// TableInfo is how much of a file a table takes, without what is in the log only.
type TableInfo struct {
	Name  string
	Rows  int64
	Bytes int64 // of keys and values; of long values only what stands for them
}

// Info reads the whole file to count its rows.
func (f *File) Info(ctx context.Context) (FileInfo, error) {
	k, l := f.s.db.Stats(), f.s.db.Log()
	info := FileInfo{
		Backup: f.backup, Schema: f.schema, Incarnation: f.s.info.Incarnation, Closed: l.Closed, LogSize: k.LogSize,
		LogRows: k.Replayed.Rows, Free: k.FreeBytes,
	}
	st, err := os.Stat(f.path)
	if err != nil {
		return info, err
	}
	info.Size = st.Size()
	for i := range tables {
		info.Tables = append(info.Tables, TableInfo{Name: tables[i].Name})
	}
	_, err = f.s.db.Verify(ctx, kv.Verification{Row: func(t kv.Table, key, value []byte) {
		info.Tables[t].Rows++
		info.Tables[t].Bytes += int64(len(key) + len(value))
	}})
	return info, err
}

// AccountInfo is what a file has of an account.
type AccountInfo struct {
	Account  event.Account
	Head     store.Head
	Revision store.Revision // of the record; zero: there is none
	Record   int            // bytes of the record
	Attempts int            // idempotency records, expired ones included
	Cursors  []store.Cursor
	// Conversations is how many have a count of unread entries, and States how many registers there are.
	Conversations, States int
	Last                  []event.Entry // the newest entries, without payloads
}

// Account returns what there is of an account, with at most last of its newest entries. An account that is not there has a zero Head.
func (f *File) Account(ctx context.Context, name event.Account, last int) (AccountInfo, error) {
	info := AccountInfo{Account: name}
	r, err := f.s.Load(ctx, name)
	if err != nil {
		return info, err
	}
	info.Revision, info.Record = r.Revision, len(r.Data)
	if info.Cursors, err = f.s.Cursors(ctx, name); err != nil {
		return info, err
	}
	var newest []uint64
	err = f.s.view(ctx, func(v *view) error {
		a, err := v.account(name)
		if err != nil {
			return err
		}
		info.Head = f.s.epochs.head(&a.head)
		return a.scan(nil, nil, func(key, _ []byte) (bool, error) {
			switch key[0] {
			case tagAttempt:
				info.Attempts++
			case tagCount:
				info.Conversations++
			case tagState:
				info.States++
			case tagEntry:
				if n, err := number(key[1:], "entry key"); err == nil && last > 0 {
					newest = append(newest, n)
					newest = newest[max(0, len(newest)-last):]
				}
			}
			return true, nil
		})
	})
	if err != nil || len(newest) == 0 {
		return info, err
	}
	page, err := f.s.Read(ctx, name, store.ReadOptions{After: newest[0] - 1, Limit: len(newest), NoBodies: true})
	info.Last = page.Entries
	return info, err
}

// AccountSize is how large an account is.
type AccountSize struct {
	Account event.Account
	Entries int64
	Bytes   int64 // of its entries, as retention counts them
}

// Accounts calls f with all accounts in order of their names, also those whose head cannot be read, with the error.
func (f *File) Accounts(ctx context.Context, each func(AccountSize, error) error) error {
	return f.s.db.View(ctx, func(k *kv.Snapshot) error {
		return k.All(tableHead, func(key, value []byte, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			size := AccountSize{Account: event.Account(key)}
			if err == nil {
				var h head
				if h, err = decodeHead(value, nameSum(key)); err == nil {
					size.Entries, size.Bytes = int64(h.entries), int64(h.bytes)
				}
			}
			return each(size, err)
		})
	})
}

// ErrBackup means that the file is a backup that was put in the place of a store. [Restore] makes a store of it, in which devices learn
// that what they have may be newer.
var ErrBackup = errors.New("boltstore: the file is a backup")

// leastPage is what the size of a page is a multiple of.
const leastPage = 512

// isBackup reports whether a file ends as a backup does, behind whole pages.
func isBackup(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() || st.Size() < int64(endBytes) { // to open a pipe would wait
		return false, err
	}
	if (st.Size()-int64(endBytes))%leastPage != 0 { // a store is whole pages, and may end with what somebody has sent
		return false, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() // it was only read
	end := make([]byte, endBytes)
	if _, err := f.ReadAt(end, st.Size()-int64(endBytes)); err != nil {
		return false, err
	}
	return bytes.HasPrefix(end, []byte(endMagic)), nil
}

// checkBackup reads a backup and compares its checksum.
func checkBackup(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	sum := sha256.New()
	in := &withoutEnd{w: sum}
	n, err := io.Copy(in, contextReader{ctx, f})
	if err != nil {
		return err
	}
	want := sum.Sum(binary.BigEndian.AppendUint64([]byte(endMagic), uint64(n-int64(len(in.end)))))
	if !bytes.Equal(in.end, want) {
		return fmt.Errorf("%w: other bytes than were written", ErrCorrupt)
	}
	return nil
}
