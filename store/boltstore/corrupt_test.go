package boltstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// damaged makes a store with some content, as a crash or a Close leaves it, and returns the file's bytes.
func damaged(t *testing.T, crash bool) []byte {
	path := newPath(t)
	s := open(t, path, boltstore.Config{MaxSize: 16 << 20}) // the file grows in small steps
	for i := range 300 {
		a := event.Account(fmt.Sprint("account", i%20))
		_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), make([]byte, 50*(i%60)), a, "bob"))
		require.NoError(t, err)
	}
	if crash {
		s.Crash()
	} else {
		closeStore(t, s)
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// use does a bit of everything. Whatever the file holds, this must end, and not with a panic.
func use(t *testing.T, path string) error {
	s, err := boltstore.Open(path, boltstore.Config{MaxSize: 16 << 20})
	if err != nil {
		return err
	}
	var errs []error
	accounts, err := s.Accounts(t.Context(), "", 100)
	errs = append(errs, err)
	for _, a := range append(accounts, "bob") {
		_, _, err := readAll(t.Context(), s, a)
		errs = append(errs, err)
	}
	_, err = s.Commit(t.Context(), message("new", []byte("x"), "bob", "account1"))
	errs = append(errs, err)
	_, err = s.Trim(t.Context(), "bob", 100, 1000)
	errs = append(errs, err, s.Delete(t.Context(), "account2", 0))
	closeStore(t, s)
	return errors.Join(errs...)
}

func TestCorruptPages(t *testing.T) {
	const seed = 7
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, seed))
	page := os.Getpagesize()
	for _, crash := range []bool{true, false} {
		good := damaged(t, crash)
		found := 0
		for range 60 {
			bad := append([]byte(nil), good...)
			n := 2 + rnd.IntN(len(bad)/page-2)
			switch b := bad[n*page : (n+1)*page]; rnd.IntN(4) {
			case 0:
				clear(b)
			case 1: // another page in its place
				copy(b, good[2*page:3*page])
			case 2: // the header alone
				for i := range 16 {
					b[i] = byte(rnd.Uint32())
				}
			case 3:
				for range 20 {
					b[rnd.IntN(200)] = byte(rnd.Uint32())
				}
			}
			path := newPath(t)
			require.NoError(t, os.WriteFile(path, bad, 0o600))
			if err := use(t, path); err != nil {
				found++
				require.True(t, errors.Is(err, boltstore.ErrCorrupt) || errors.Is(err, store.ErrFailed), "%v", err)
			}
		}
		require.NotZero(t, found)
	}
}

func TestCorruptCutShort(t *testing.T) {
	for _, crash := range []bool{true, false} {
		good := damaged(t, crash)
		path := newPath(t)
		require.NoError(t, os.WriteFile(path, good[:5*os.Getpagesize()], 0o600))
		_, err := boltstore.Open(path, boltstore.Config{})
		require.ErrorIs(t, err, boltstore.ErrCorrupt)
		require.NoError(t, os.WriteFile(path, good, 0o600))
		require.NoError(t, use(t, path), "the file was let go, and the whole one is fine")
	}
}
