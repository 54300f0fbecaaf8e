package boltstore

import (
	"context"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Store is a store in one file. Use [Open]. It is safe for concurrent use.
type Store struct {
	store.Claims
	info   store.Info
	epochs epochs
	keys   messageKeys
	cfg    Config
	path   string
	log    *trace.Log
	db     *kv.DB
	meters meters
	writer writer // of the operation that runs

	refusals refusals // only for operations

	deleted chan struct{} // gets a value when rows of a deleted account are left
	ended   sync.Once
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Observed = (*Store)(nil)
)

// Info implements [store.Store].
func (s *Store) Info() store.Info { return s.info }

// Failed implements [store.Store].
func (s *Store) Failed() <-chan struct{} { return s.db.Failed() }

// Close implements [store.Store]. What runs or waits goes on to its end; new calls are refused. Then what is in memory only is
// flushed, the file is closed, and its log removed. If ctx ends first, Close returns its error, and the rest is done in the
// background. It may be called again. An error that is not ctx's says that the log has stayed: the next Open reads it.
func (s *Store) Close(ctx context.Context) error {
	err := s.db.Close(ctx)
	if ctx.Err() == nil || err == nil {
		s.ended.Do(s.log.Close)
	}
	return err
}

// Compact flushes what is in memory to the file, so that the next Open finds little in the log. Nobody needs to call it.
func (s *Store) Compact(ctx context.Context) error { return s.db.Checkpoint(ctx) }

// epochs turns what the file has of places and heads into what callers see; it is the store's incarnation.
type epochs uint32

func (e epochs) of(generation uint32) event.Epoch {
	return event.Epoch(e)<<32 | event.Epoch(generation)
}

// head returns what callers see of an account's head.
func (e epochs) head(h *head) store.Head {
	return store.Head{
		Epoch: e.of(h.generation), Seq: h.seq, Trim: h.trim, Entries: int(h.entries), Bytes: int64(h.bytes),
	}
}

// place returns what callers see of a place.
func (e epochs) place(p *place) store.Place {
	return store.Place{Account: p.account, Epoch: e.of(p.generation), Seq: p.seq, Ordinal: p.ordinal}
}
