// Package kv is a sorted map of rows in one bbolt file, behind a write-ahead log and a memtable. See db.go for the story.
package kv

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// This file is the interface as others may rely on it; the bodies follow.

// ErrCorrupt: a row, a page or the log cannot be read, or something refers to what is not there.
var ErrCorrupt = errors.New("boltstore: corrupt")

// Table is one of the tables that a file has: an index of Options.Tables.
type Table uint8

// TableSpec describes a table.
type TableSpec struct {
	Name string  // of the bucket
	Fill float64 // how full pages become that are split; see bbolt's Bucket.FillPercent
}

// Options tune a DB. All fields without "zero" in their comment are required.
type Options struct {
	Path        string
	Tables      []TableSpec
	Memory      int64 // bytes that memtables take, about
	MaxSize     int64 // of the bbolt file; negative: no bound
	Reserve     int64 // bytes of it that only operations with spare may use
	LockTimeout time.Duration
	Log         Logger
	// Meta is called by Open with what the file says about itself, nothing for a new one. It may change the rows, which are
	// written before Open returns.
	Meta func(rows map[string][]byte) error
}

// Logger gets kv's lines.
type Logger interface {
	Info(text string, attrs ...any)
	Warn(text string, attrs ...any)
	Error(text string, attrs ...any)
}

var _ Logger = (*slog.Logger)(nil)

// DB is an open file. It is safe for concurrent use.
type DB struct{}

// Open opens a file, or makes it.
func Open(Options) (*DB, error) { panic("to do") }

// Update runs an operation in the next group and returns when the group is durable: its error, or that of the group. bytes is
// how much it writes, about; it bounds groups. If ctx ends before the operation was taken into a group, it is not run; if it
// was, the error is store.ErrUnknownOutcome. An operation that returns an error has changed nothing.
func (db *DB) Update(ctx context.Context, bytes int64, run func(*Writer) error) error {
	panic("to do")
}

// View calls f with a snapshot of what was published when it was called, or later.
func (db *DB) View(ctx context.Context, f func(*Snapshot) error) error { panic("to do") }

// Failed is closed by a failure and by Close.
func (db *DB) Failed() <-chan struct{} { panic("to do") }

// Close flushes what memory has, and closes the file. See store.Store.
func (db *DB) Close(ctx context.Context) error { panic("to do") }

// Go runs f in a goroutine that Close waits for. ctx ends when Close is called or the store fails. It reports false if that
// is the case already.
func (db *DB) Go(f func(ctx context.Context)) bool { panic("to do") }

// Checkpoint flushes all that was published before it was called.
func (db *DB) Checkpoint(ctx context.Context) error { panic("to do") }

// Part is a part of a table: the rows whose keys begin with a prefix that no other part's prefix begins with. It remembers
// where memory has them. It belongs to one snapshot or writer.
type Part struct{ _ int }

// Of returns a part. It keeps the prefix, which must not change as long as the part is used.
func Of(t Table, prefix []byte) Part { panic("to do") }

// Snapshot is what one reader sees.
type Snapshot struct{ _ int }

// Get returns the value of a row of a part, nil if there is none; no row has an empty value. The value is the store's.
func (s *Snapshot) Get(p *Part, row []byte) ([]byte, error) { panic("to do") }

// Scan calls f with the rows of a part that begin with prefix, in order, from the first that is not below start, until f
// returns false. start may be shorter than prefix or nil. Keys come whole, without the part's prefix. What f gets is good
// until f returns; values are good as long as the snapshot. f may Put and Delete rows of the part.
func (s *Snapshot) Scan(p *Part, prefix, start []byte, f func(row, value []byte) (bool, error)) error {
	panic("to do")
}

// Prefixes returns copies of the first n prefixes of a table's parts that come after the given one, in order. It is for tables
// whose parts have one row each, with an empty key.
func (s *Snapshot) Prefixes(t Table, after []byte, n int) ([][]byte, error) { panic("to do") }

// Writer is what an operation sees and changes. It sees what it wrote itself.
type Writer struct {
	Snapshot
}

// Put sets a row. It keeps neither slice. An empty value is not allowed.
func (w *Writer) Put(p *Part, row, value []byte) { panic("to do") }

// Delete removes a row. It is no error if there is none.
func (w *Writer) Delete(p *Part, row []byte) { panic("to do") }

// Take takes room for bytes of rows, keys included, or returns store.ErrFull. spare: the reserve may be used. An operation that
// takes none may write what makes room and what is small: trims, cursors.
func (w *Writer) Take(bytes int64, spare bool) error { panic("to do") }

// After has f called once the group of the operation is durable and published, on the goroutine that commits, if the
// operation succeeds. f must be short.
func (w *Writer) After(f func()) { panic("to do") }
