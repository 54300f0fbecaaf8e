// Package raw is the physical reference: bbolt and files used as directly as can be.
package raw

import (
	"cmp"
	"math"
	"runtime"
	"slices"
	"sync"
)

// Combiner lets operations that wait at the same time share one call of apply, which makes them durable. There is no timer:
// one that is alone is applied at once, by its own goroutine.
type Combiner[T any] struct {
	apply func([]T) error
	limit int

	mu      sync.Mutex
	waiting []waiter[T]
	busy    bool
}

type waiter[T any] struct {
	op   T
	done chan turn
}

// turn is what a waiter is woken with: the outcome, or the duty to do the next batch.
type turn struct {
	lead bool
	err  error
}

// NewCombiner returns a combiner. apply is called by one goroutine at a time, with at most limit operations; 0: as many as wait.
func NewCombiner[T any](limit int, apply func([]T) error) *Combiner[T] {
	return &Combiner[T]{apply: apply, limit: cmp.Or(limit, math.MaxInt)}
}

// yields is how often the goroutine that leads lets others come first. Four make up for the most part of it.
const yields = 4

// Do returns when op is durable.
func (c *Combiner[T]) Do(op T) error {
	w := waiter[T]{op: op, done: make(chan turn, 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, w)
	wait := c.busy
	c.busy = true
	c.mu.Unlock()
	if wait {
		if t := <-w.done; !t.lead {
			return t.err
		}
	}
	for range yields {
		runtime.Gosched()
	}
	c.mu.Lock()
	n := min(len(c.waiting), c.limit)
	batch := slices.Clone(c.waiting[:n]) // the leader is the first
	c.waiting = slices.Delete(c.waiting, 0, n)
	c.mu.Unlock()
	ops := make([]T, len(batch))
	for i, b := range batch {
		ops[i] = b.op
	}
	err := c.apply(ops)
	for _, b := range batch {
		if b.done != w.done {
			b.done <- turn{err: err}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) > 0 {
		c.waiting[0].done <- turn{lead: true}
	} else {
		c.busy = false
	}
	return err
}
