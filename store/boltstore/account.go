package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// account is one account as an operation or a reader sees it: its head, and where its rows are.
type account struct {
	name     event.Account
	sum      uint32 // of the name
	head     head
	headPart kv.Part
	rows     kv.Part
	kv       *kv.Snapshot
	is       bool // it has a head, and so maybe rows

	touched bool // its head has changed
	key     []byte
}

// find makes a what a snapshot has of an account.
func (a *account) find(s *kv.Snapshot, name event.Account) error {
	a.key = append(a.key[:0], name...)
	*a = account{name: name, sum: nameSum(a.key), head: head{generation: 1}, headPart: a.headPart, rows: a.rows, kv: s, key: a.key}
	a.headPart.Set(tableHead, string(name), nil)
	row, err := s.Get(&a.headPart, nil)
	if err == nil && row != nil {
		a.is = true
		a.head, err = decodeHead(row, a.sum)
	}
	if err != nil {
		return a.about(err)
	}
	var end [5]byte
	binary.BigEndian.PutUint32(end[1:], a.head.generation)
	a.rows.Set(tableAccount, string(name), end[:])
	return nil
}

// about says whose rows an error is about, unless that is said already.
func (a *account) about(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	if _, said := errors.AsType[*accountError](err); said {
		return err
	}
	return &accountError{a.name, err}
}

// accountError is damage among the rows of an account.
type accountError struct {
	account event.Account
	err     error
}

func (e *accountError) Error() string { return fmt.Sprintf("account %q: %v", e.account, e.err) }

func (e *accountError) Unwrap() error { return e.err }

// get returns the value of a row, nil if there is none. It is the store's memory.
func (a *account) get(row []byte) ([]byte, error) {
	if !a.is {
		return nil, nil
	}
	v, err := a.kv.Get(&a.rows, row)
	return v, a.about(err)
}

// scan calls f with the account's rows whose keys begin with prefix, from the first one that is not below start, until f
// returns false. What f gets is the store's memory.
func (a *account) scan(prefix, start []byte, f func(row, value []byte) (bool, error)) error {
	if !a.is {
		return nil
	}
	return a.about(a.kv.Scan(&a.rows, prefix, start, f))
}

// walk calls f with the account's entries after a sequence number, in order, until f returns false.
func (a *account) walk(after uint64, f func(seq uint64, row []byte) (bool, error)) error {
	after = max(after, a.head.trim)
	if after >= a.head.seq {
		return nil
	}
	a.key = entryRow(a.key[:0], after+1)
	return a.scan(entryRows, a.key, func(key, row []byte) (bool, error) {
		seq, err := number(key[1:], "entry key")
		if err != nil {
			return false, err
		}
		return f(seq, row)
	})
}

// entry returns the entry with a sequence number, nil if it was removed.
func (a *account) entry(seq uint64) ([]byte, error) {
	if seq <= a.head.trim || seq > a.head.seq {
		return nil, nil
	}
	a.key = entryRow(a.key[:0], seq)
	return a.get(a.key)
}

// keyed returns the number of the entry with a coalesce key, 0 if there is none.
func (a *account) keyed(key string) (uint64, error) {
	a.key = keyRow(a.key[:0], key)
	v, err := a.get(a.key)
	if err != nil || v == nil {
		return 0, err
	}
	d := decoder{rest: v}
	seq := d.uvarint()
	return seq, a.about(d.done("coalesce key"))
}

// countOf returns the count of unread entries of a conversation: the highest ordinal given, and those that were taken out.
func (a *account) countOf(c event.ConversationID) (uint64, []uint64, error) {
	a.key = countRow(a.key[:0], c)
	row, err := a.get(a.key)
	if err != nil || row == nil {
		return 0, nil, err
	}
	n, uncounted, err := decodeCount(row)
	return n, uncounted, a.about(err)
}
