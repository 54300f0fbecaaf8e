// Package kv is a sorted map of rows in one bbolt file, behind a write-ahead log and a memtable. db.go tells the story.
package kv

import (
	"errors"
	"log/slog"
	"time"
)

// ErrCorrupt means that a row, a page or the log cannot be read, or that something refers to what is not there.
var ErrCorrupt = errors.New("boltstore: corrupt")

// Errors of Open.
var (
	// ErrLocked: the file is open elsewhere, in this process or another one.
	ErrLocked = errors.New("boltstore: file is in use")
	// ErrNotStore: the file is not one of this package's.
	ErrNotStore = errors.New("boltstore: not a store")
	// ErrOtherLog: the log next to the file is another file's.
	ErrOtherLog = errors.New("boltstore: the log next to the file is that of another one")
	// ErrNoLog: the file was not closed, and its log is not there.
	ErrNoLog = errors.New("boltstore: the file was not closed and its log is missing")
	// ErrNoFile: a log is there, and the file that it belongs to is not.
	ErrNoFile = errors.New("boltstore: there is a log without its file")
)

// Table is one of the tables that a file has: an index of Options.Tables, of which there are at most 16.
type Table uint8

// TableSpec describes a table.
type TableSpec struct {
	Name string  // of the bucket; not empty, and none of "manydevice", "state" and "long"
	Fill float64 // how full a page is after a split, 0.1 to 1; see bbolt's Bucket.FillPercent. Below 1: rows come in no order
}

// Options tune a DB. All fields are required, and are not checked: package boltstore does that.
type Options struct {
	Path        string
	Tables      []TableSpec
	Memory      int64         // about how many bytes both memtables together take; above 0
	MaxSize     int64         // bytes of the bbolt file; 0 or negative: no bound
	Reserve     int64         // bytes of it that appends leave free; see Writer.Take. 0: none
	LockTimeout time.Duration // how long to wait for another process to close the file; 0 or negative: not at all
	Logger      Logger
	// Meta is called by Open with what the file says about itself, nothing for a new one. It may change the rows, which are
	// written before Open returns.
	Meta func(rows map[string][]byte) error

	small int64 // what counts as a small file, see checkFile; 0: smallFile
	disk  disk  // nil: the real one
	remap bool  // the map grows with the file, as on Windows
}

// Logger gets kv's lines. Its methods may be called by several goroutines at once.
type Logger interface {
	Info(text string, attrs ...any)
	Warn(text string, attrs ...any)
	Error(text string, attrs ...any)
}

var _ Logger = (*slog.Logger)(nil)
