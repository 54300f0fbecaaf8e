package day

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// Durable is a bbolt bucket for each account, written with bbolt's own batches.
type Durable struct{ db *bbolt.DB }

// NewDurable returns an empty file. It is closed with the scene.
func NewDurable(s *lab.Scene) (*Durable, error) {
	path, err := s.File()
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return nil, err
	}
	s.Cleanup(db.Close)
	return &Durable{db: db}, nil
}

// Send returns when a message is in both inboxes and durable. A client message ID is kept in the sender's.
func (d *Durable) Send(from, to, clientID string, payload []byte) error {
	return d.db.Batch(func(tx *bbolt.Tx) error {
		for _, account := range []string{from, to} {
			b, err := tx.CreateBucketIfNotExists([]byte(account))
			if err != nil {
				return err
			}
			seq, err := b.NextSequence()
			if err != nil {
				return err
			}
			if err := b.Put(binary.BigEndian.AppendUint64(nil, seq), payload); err != nil {
				return err
			}
			if account == from {
				if err := b.Put(fmt.Append(nil, "sent/", clientID), binary.BigEndian.AppendUint64(nil, seq)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
