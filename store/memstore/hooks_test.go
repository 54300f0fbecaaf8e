package memstore_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// errDamaged is what a damaged store says.
var errDamaged = errors.New("damaged")

// damaged is a store in which some bytes cannot be read: what the rules on damage ask of stores that keep checksums. Memory is
// not damaged; this shows that the rules can be obeyed, and gives storetest/mutants something to break.
type damaged struct {
	store.Store
	bytes []byte
}

func damage(_ *testing.T, s store.Store, d storetest.Damage) store.Store { return &damaged{s, d.Bytes} }

func (d *damaged) check(data []byte) error {
	if bytes.Contains(data, d.bytes) {
		return errDamaged
	}
	return nil
}

func (d *damaged) Load(ctx context.Context, a event.Account) (store.Record, error) {
	r, err := d.Store.Load(ctx, a)
	if bad := d.check(r.Data); bad != nil {
		return store.Record{}, bad
	}
	return r, err
}

func (d *damaged) Read(ctx context.Context, a event.Account, o store.ReadOptions) (store.Page, error) {
	p, err := d.Store.Read(ctx, a, o)
	for _, e := range p.Entries {
		if bad := d.check(e.Payload); bad != nil {
			return store.Page{}, bad
		}
	}
	return p, err
}

func (d *damaged) States(ctx context.Context, a event.Account, o store.StateOptions) (store.StatePage, error) {
	p, err := d.Store.States(ctx, a, o)
	for _, s := range p.States {
		if bad := d.check(s.Value); bad != nil {
			return store.StatePage{}, bad
		}
	}
	return p, err
}

// disk is a store whose room another account takes, in place of another program.
func disk(t *testing.T) (s store.Store, fill, free func()) {
	s = memstore.New(memstore.Config{MaxBytes: 8 << 20})
	issuer := event.NewIssuer(s.Info().IDKey)
	fill = func() {
		for size := 1 << 20; size > 0; {
			b := batch(issuer, size, "another program")
			b.Now = time.UnixMilli(1)
			if _, err := s.Commit(t.Context(), b); err != nil {
				require.ErrorIs(t, err, store.ErrFull)
				size /= 2
			}
		}
	}
	return s, fill, func() { require.NoError(t, s.Delete(t.Context(), "another program", 0)) }
}

// opener is a place that any number of openers may use at once, as nodes use a database.
func opener(*testing.T) (open func() (store.Store, error)) {
	one := sync.OnceValue(func() *memstore.Store { return memstore.New(memstore.Config{}) })
	return func() (store.Store, error) { return one(), nil }
}
