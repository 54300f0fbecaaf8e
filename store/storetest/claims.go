package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
)

var claimRules = []rule{
	{name: "claims: an engine that is alone lets no other in", check: func(f *fixture) {
		release := f.claim(false)
		f.inUse(false)
		f.inUse(true)
		release()
		f.claim(false)()
	}},
	{name: "claims: engines that share let others in, but none that is alone", check: func(f *fixture) {
		first, second := f.claim(true), f.claim(true)
		f.inUse(false)
		first()
		f.inUse(false)
		third := f.claim(true)
		second()
		third()
		alone := f.claim(false)
		f.inUse(true)
		alone()
	}},
	{name: "claims: a release counts once", check: func(f *fixture) {
		first := f.claim(false)
		first()
		second := f.claim(false)
		first()
		f.inUse(false)
		second()
	}},
	{name: "claims: may be given back after Close", check: func(f *fixture) {
		release := f.claim(false)
		f.send("ann", "ann")
		require.NoError(f.t, closeStore(f.s))
		release()
	}},
}

// claim takes the store for an engine.
func (f *fixture) claim(shared bool) (release func()) {
	f.t.Helper()
	release, err := f.s.Claim(shared)
	require.NoError(f.t, err)
	require.NotNil(f.t, release)
	return release
}

// inUse checks that an engine is refused.
func (f *fixture) inUse(shared bool) {
	f.t.Helper()
	release, err := f.s.Claim(shared)
	require.ErrorIs(f.t, err, store.ErrInUse)
	require.Nil(f.t, release)
}
