package session

import (
	"context"
	"fmt"
	"math"

	"github.com/manydevice/manydevice/store"
)

// backFill finds out where BackFillSince is in the inbox, if the device is new.
func (r *Registry) backFill(ctx context.Context, q *LoginRequest) error {
	if q.BackFillSince.IsZero() {
		return nil
	}
	rec, _, err := r.load(ctx, q.Account)
	if err != nil {
		return err
	}
	if q.Device != "" && rec.device(q.Device) != nil {
		return nil // it has a place
	}
	read := func(o store.ReadOptions) (store.Page, error) {
		page, err := r.st.Read(ctx, q.Account, o)
		if err != nil {
			return page, fmt.Errorf("session: back-fill: %w", err)
		}
		return page, nil
	}
	page, err := read(store.ReadOptions{})
	if err != nil {
		return err
	}
	// Entries up to older are older than asked for, those above newer are not: times rise with the numbers, but for a
	// clock that was set back.
	older, newer := page.Head.Trim, page.Head.Seq
	for older < newer {
		middle := older + (newer-older)/2
		page, err = read(store.ReadOptions{After: middle, Limit: 1, NoBodies: true})
		if err != nil {
			return err
		}
		if len(page.Entries) > 0 && page.Entries[0].Time.Before(q.BackFillSince) {
			older = page.Entries[0].Seq
		} else {
			newer = middle
		}
	}
	if q.since = older; older == 0 {
		q.BackFill = math.MaxUint64
	}
	return nil
}
