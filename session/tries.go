package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/manydevice/manydevice/store"
)

// tries is what became of a change that is tried until nobody gets in its way. The zero value is ready.
type tries struct {
	n    int
	last error // of the last try; nil: it succeeded, or there was none
	lost error // of the latest try whose outcome is not known: it may still take effect
}

// note takes in the error of a try, and reports whether another one makes sense.
func (t *tries) note(err error) bool {
	if errors.Is(err, store.ErrUnknownOutcome) {
		t.lost = err
	}
	return t.again(err)
}

// again is note for what does not change anything itself, so that an unknown outcome of it does not matter later.
func (t *tries) again(err error) bool {
	t.n++
	t.last = err
	return (errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnknownOutcome)) && !errors.Is(err, store.ErrFailed)
}

// pause waits before the next try, by chance, so that those that were in each other's way do not meet again.
func (t *tries) pause(ctx context.Context) error {
	if t.last == nil {
		return nil
	}
	if err := pause(ctx, rand.N(time.Duration(t.n)*time.Millisecond)); err != nil {
		return t.over(fmt.Errorf("%w, after %w", err, t.last))
	}
	return nil
}

// over is the error of a change that is given up for err. An earlier try that may still take effect is part of it.
func (t *tries) over(err error) error {
	if t.lost == nil || errors.Is(err, t.lost) {
		return err
	}
	return errors.Join(err, t.lost)
}

// spent is the error of a change that was tried as often as may be, with what the store said last.
func (t *tries) spent() error {
	return t.over(fmt.Errorf("%d tries: %w", t.n, cmp.Or(t.last, store.ErrConflict)))
}
