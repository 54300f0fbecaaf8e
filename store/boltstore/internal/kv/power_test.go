package kv

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// record runs a life of a DB on a tape: open, load with flushes, a checkpoint amid it, close, and open and load again.
func record(t *testing.T, h *history, d disk, lies bool) *tape {
	path := filepath.Join(fast(t), "db")
	newFile(t, path)
	p := newTape(t, d, path)
	h.now = p.now
	for range 2 {
		db := open(t, tiny(path, p))
		p.lies = lies
		done := make(chan error)
		go func() { done <- db.Checkpoint(context.Background()) }()
		h.run(db, 120, always)
		require.NoError(t, <-done)
		require.Positive(t, db.Stats().Flushes)
		shut(t, db)
	}
	db := open(t, tiny(path, p))
	h.run(db, 60, always)
	shut(t, db)
	return p
}

func TestPower_WhatWasAcknowledgedIsThereAfterALossAtAnyMoment(t *testing.T) {
	seed, rnd := seeded(t)
	h := newHistory(seed, 4)
	p := record(t, h, system{}, false)
	t.Log(p.kinds())
	n, err := imagesOf(t, h, p, rnd, float64(rounds(8, 40))/100, tiny(filepath.Join(fast(t), "db"), nil), nil)
	require.NoError(t, err)
	require.Greater(t, n, 100)
	t.Logf("%d images", n)
}

// A control: with syncs that are not done the same harness must find losses.
func TestPower_ControlSyncsThatLie(t *testing.T) {
	seed, rnd := seeded(t)
	h := newHistory(seed, 4)
	p := record(t, h, system{}, true)
	n, err := imagesOf(t, h, p, rnd, 0.3, tiny(filepath.Join(fast(t), "db"), nil), nil)
	require.Error(t, err)
	t.Logf("found in image %d: %v", n, err)
}

func TestPower_TwiceInARow(t *testing.T) {
	seed, rnd := seeded(t)
	h := newHistory(seed, 2)
	p := record(t, h, system{}, false)
	dir := fast(t)
	second := filepath.Join(dir, "second")
	d := p.drive(rnd)
	images := 0
	for at, s := range p.steps {
		if rnd.IntN(len(p.steps)/rounds(15, 60)) == 0 {
			images += twice(t, h, d.image(&s), p.path, second, at, rnd)
		}
		d.play(at, s)
	}
	t.Logf("%d images", images)
	require.Greater(t, images, 100)
}

// twice opens an image, has it written to, and loses power again at any moment of that.
func twice(t *testing.T, h *history, files map[string][]byte, from, path string, at int, rnd *rand.Rand) int {
	putImage(t, path, from, files)
	p := newTape(t, system{}, path)
	db := open(t, tiny(path, p))
	opened := p.now()
	require.NoError(t, h.check(db, at))
	h2 := newHistory(h.seed+1, 2)
	for _, w := range h2.writers {
		w.name = "again" + w.name
	}
	h2.now = p.now
	h2.run(db, 40, always)
	shut(t, db)
	n := 0
	d := p.drive(rnd)
	o := tiny(filepath.Join(filepath.Dir(path), "third"), nil)
	for i, s := range p.steps {
		if i < opened || rnd.IntN(12) == 0 {
			putImage(t, o.Path, p.path, d.image(&s))
			again, err := Open(o)
			require.NoError(t, err, "at step %d of %d (%s)", i, len(p.steps), s.kind)
			require.NoError(t, h.check(again, at))
			require.NoError(t, h2.check(again, i))
			shut(t, again)
			n++
		}
		d.play(i, s)
	}
	return n
}
