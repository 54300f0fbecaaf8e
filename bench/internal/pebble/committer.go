package pebble

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// groupSize bounds a group of Committer.
const groupSize = 512

// Committer makes one batch of the sends that wait, up to groupSize of them, and syncs it. One goroutine at a time does so, which
// therefore needs no locks.
type Committer struct {
	*DB
	*raw.Grouped
}

var _ rows.Sender = (*Committer)(nil)

// NewCommitter returns a sender. There may be one for a database.
func NewCommitter(d *DB) *Committer { return &Committer{DB: d, Grouped: d.grouped()} }

// grouped returns a way to do the work of many sends in one batch.
func (d *DB) grouped() *raw.Grouped {
	var w writer
	group := rows.Group{Under: &w}
	return raw.NewGrouped(groupSize, func(work func(rows.Map) error) error {
		w.db, w.batch = d.db, d.db.NewBatch() // with the memory of one before
		group.Reset()
		err := work(&group)
		if err == nil {
			err = w.batch.Commit(pebble.Sync)
		}
		return errors.Join(err, w.batch.Close())
	})
}
