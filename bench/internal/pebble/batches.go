package pebble

import (
	"errors"
	"hash/maphash"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// Batches makes a batch for each send, and leaves it to pebble to sync those together that come at the same time.
//
// Sends of one account take turns, by a lock of a shard of the accounts, from the first look-up until the batch is visible. They do
// not hold it while they wait for the sync, which would let an account have one send a sync, and all of a shard with it. So what a
// send looks up may not be on disk yet; it comes before it in the log, and is on disk whenever this send is.
type Batches struct {
	*DB
	fill   *raw.Grouped
	seed   maphash.Seed
	shards [shards]sync.Mutex
	work   sync.Pool
}

// shards is large, so that 1,024 senders rarely meet.
const shards = 4096

var _ rows.Sender = (*Batches)(nil)

// NewBatches returns a sender. There may be one for a database.
func NewBatches(d *DB) *Batches {
	return &Batches{DB: d, fill: d.grouped(), seed: maphash.MakeSeed(), work: sync.Pool{New: func() any { return new(sending) }}}
}

// sending is what one send works with.
type sending struct {
	rows.Work
	writer writer
}

// Send implements rows.Sender.
func (b *Batches) Send(m rows.Message) (rows.Result, error) {
	s := b.work.Get().(*sending)
	defer b.work.Put(s)
	b.waiting.Add(1)
	batch := b.db.NewBatch()
	s.writer.db, s.writer.batch = b.db, batch
	res, err := b.apply(s, &m)
	if err == nil {
		// A repetition waits, too: for the first send, which comes before it in the log.
		err = batch.SyncWait()
	}
	b.waiting.Add(-1)
	return res, errors.Join(err, batch.Close())
}

// Fill implements rows.Sender.
func (b *Batches) Fill(all []rows.Message) error { return b.fill.Fill(all) }

// apply makes a message visible.
func (b *Batches) apply(s *sending, m *rows.Message) (rows.Result, error) {
	first, second := b.shard(m.From), b.shard(m.To)
	if first > second { // always in the same order
		first, second = second, first
	}
	b.shards[first].Lock()
	defer b.shards[first].Unlock()
	if first != second {
		b.shards[second].Lock()
		defer b.shards[second].Unlock()
	}
	res, err := s.Send(&s.writer, m)
	if err == nil && res.Duplicate {
		err = s.writer.batch.LogData(nil, nil)
	}
	if err != nil {
		return res, err
	}
	return res, b.db.ApplyNoSyncWait(s.writer.batch, pebble.Sync)
}

func (b *Batches) shard(account string) uint64 { return maphash.String(b.seed, account) % shards }
