package boltstore_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestS74_Suite runs the rules that all stores obey: as they are mostly met, with what is new in memory alone; with memory so
// small that each group is flushed at once; and with some of both.
func TestS74_Suite(t *testing.T) {
	t.Run("memory", func(t *testing.T) { suite(t, func(c boltstore.Config) boltstore.Config { return c }) })
	t.Run("file", func(t *testing.T) {
		suite(t, func(c boltstore.Config) boltstore.Config { return c.WithMemory(2) })
	})
	t.Run("some of both", func(t *testing.T) {
		suite(t, func(c boltstore.Config) boltstore.Config { return c.WithMemory(600 << 10) })
	})
}

func suite(t *testing.T, with func(boltstore.Config) boltstore.Config) {
	type place struct {
		path string
		cfg  boltstore.Config
	}
	var places sync.Map // of stores
	at := func(t *testing.T, p place) store.Store {
		s := open(t, p.path, p.cfg)
		places.Store(s, p)
		return s
	}
	again := func(t *testing.T, s store.Store) store.Store {
		p, ok := places.LoadAndDelete(s)
		require.True(t, ok)
		return at(t, p.(place))
	}
	storetest.TestStore(t, storetest.Harness{
		Open: func(t *testing.T) store.Store { return at(t, place{newPath(t), with(boltstore.Config{})}) },
		Reopen: func(t *testing.T, s store.Store) store.Store {
			closeStore(t, s.(*boltstore.Store))
			return again(t, s)
		},
		Crash: func(t *testing.T, s store.Store) store.Store {
			s.(*boltstore.Store).Crash()
			return again(t, s)
		},
		Damage: func(t *testing.T, s store.Store, d storetest.Damage) store.Store {
			closeStore(t, s.(*boltstore.Store))
			p, ok := places.Load(s)
			require.True(t, ok)
			storetest.FlipBits(t, d.Bytes, p.(place).path, p.(place).path+"-wal")
			return again(t, s)
		},
		Corrupt: boltstore.ErrCorrupt,
		Opener: func(t *testing.T) func() (store.Store, error) {
			cfg := with(boltstore.Config{LockTimeout: -1})
			path := newPath(t)
			return func() (store.Store, error) {
				s, err := boltstore.Open(path, cfg)
				if err != nil {
					return nil, err // not a nil pointer in an interface
				}
				return s, nil
			}
		},
		Small: func(t *testing.T) store.Store {
			return at(t, place{newPath(t), with(boltstore.Config{MaxSize: 8 << 20})})
		},
		Capabilities: store.Capabilities{Durable: true, AtomicSend: true, UniformOrder: true, Dense: true},
	})
}
