package ours

import (
	"context"
	"errors"
	"time"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// This file is all that the bench knows of boltstore, other than that it is a store.

// OpenStore is how all files are opened. memory is how many bytes its memtables and caches may take, about; 0: as it comes.
func OpenStore(path string, memory int64) (*boltstore.Store, error) {
	return boltstore.Open(path, boltstore.Config{Memory: memory})
}

// Rest returns when a store has nothing to do in the background.
func Rest(ctx context.Context, st store.Store) error {
	observed, ok := st.(store.Observed)
	if !ok {
		return errors.New("store has no figures")
	}
	const pause = time.Millisecond
	for {
		if now := observed.Stats(); !now.Flushing {
			return now.Failed
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// PayOff closes an engine and its store, which do what is left to be done.
func (e *Engine) PayOff(ctx context.Context) error {
	return errors.Join(Rest(ctx, e.Store), e.Close(ctx), e.Store.Close(ctx))
}

// FillFile makes a file in which each of the accounts has rounds entries. Nothing in it is left to be done later.
func FillFile(ctx context.Context, path string, accounts, rounds int, payload []byte) error {
	st, err := OpenStore(path, 0)
	if err != nil {
		return err
	}
	err = Fill(ctx, st, accounts, rounds, payload)
	if err == nil {
		err = st.Compact(ctx)
	}
	return errors.Join(err, st.Close(context.WithoutCancel(ctx)))
}

// File opens an engine over a new file.
func File(s *lab.Scene, cfg manydevice.Config) (*Engine, error) {
	path, err := s.File()
	if err != nil {
		return nil, err
	}
	return OpenFile(s, path, cfg)
}

// OpenFile opens an engine over a file that may be there already, with as much memory as the store takes by itself.
func OpenFile(s *lab.Scene, path string, cfg manydevice.Config) (*Engine, error) {
	return OpenFileWith(s, path, 0, cfg)
}

// OpenFileWith is OpenFile with the given memory; see OpenStore.
func OpenFileWith(s *lab.Scene, path string, memory int64, cfg manydevice.Config) (*Engine, error) {
	st, err := OpenStore(path, memory)
	if err != nil {
		return nil, err
	}
	return open(s, st, cfg)
}
