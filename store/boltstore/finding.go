package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// FindingKind says what kind of damage a [Finding] is. Kinds may be added.
type FindingKind string

const (
	// FindingPage: a page of the file makes no sense. The rows below it cannot be read.
	FindingPage FindingKind = "page"
	// FindingRow: a row cannot be read: its checksum is wrong, or it does not hold what it should.
	FindingRow FindingKind = "row"
	// FindingCount: what an account or a message says of its rows is not what there is.
	FindingCount FindingKind = "count"
	// FindingMissing: something refers to a row that is not there.
	FindingMissing FindingKind = "missing"
	// FindingLeft: a row is there that nothing needs: of a deleted account, or a message that no inbox holds.
	FindingLeft FindingKind = "left over"
)

// Finding is one thing that [Store.Verify] or [File.Verify] found wrong. Fields that are not known, or that do not apply, are zero.
type Finding struct {
	Kind    FindingKind
	Table   string // "head", "account", "message", "reference", "purge"; or what the file keeps for itself: "manydevice", "state", "long"
	Page    uint64 // of FindingPage
	Key     []byte // of the row, as it is in the file; of a page the first key that should be there
	Account event.Account
	Message event.MessageID
	Seq     uint64 // of the entry
	// Err says what is wrong. It is [ErrCorrupt] for what cannot be read or is missing. It has no secrets and no payloads.
	Err error
}

// String returns the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:", f.Kind)
	if f.Page != 0 {
		fmt.Fprintf(&b, " page %d", f.Page)
	}
	if f.Account != "" {
		fmt.Fprintf(&b, " account %q", f.Account)
	}
	if f.Seq != 0 {
		fmt.Fprintf(&b, " entry %d", f.Seq)
	}
	if f.Message != "" {
		fmt.Fprintf(&b, " message %q", f.Message)
	}
	if f.Table != "" && f.Page == 0 {
		fmt.Fprintf(&b, " table %s", f.Table)
	}
	if f.Key != nil && f.Page == 0 {
		fmt.Fprintf(&b, " key %q", f.Key)
	}
	return fmt.Sprintf("%s: %v", b.String(), f.Err)
}

// findingOf turns what kv found into a finding.
func (k messageKeys) findingOf(err error) Finding {
	if d, ok := errors.AsType[*kv.PageDamage](err); ok {
		return Finding{Kind: FindingPage, Table: d.Bucket, Page: d.Page, Key: d.From, Account: accountOf(d.Bucket, d.From), Err: err}
	}
	f := Finding{Kind: FindingRow, Err: err}
	if d, ok := errors.AsType[*kv.Damage](err); ok {
		f.Table, f.Key, f.Account = d.Table, d.Key, accountOf(d.Table, d.Key)
		if n := len(d.Key) - 1; d.Table == tables[tableMessage].Name && n > 0 {
			f.Message = k.id(d.Key[:n])
		} else if d.Table == tables[tableReference].Name {
			f.Message = k.id(d.Key)
		}
	}
	return f
}

// accountOf returns the account that a key belongs to, as far as the key says.
func accountOf(table string, key []byte) event.Account {
	switch table {
	case tables[tableHead].Name:
		return event.Account(key)
	case tables[tableAccount].Name, tables[tablePurge].Name:
		if name, _, _, ok := cutAccount(key); ok {
			return name
		}
	}
	return ""
}

// cutAccount takes the key of an account's row apart: name, 0, generation, and what follows.
func cutAccount(key []byte) (name event.Account, generation uint32, rest []byte, ok bool) {
	i := bytes.IndexByte(key, 0)
	if i < 1 || len(key) < i+1+generationBytes {
		return "", 0, nil, false
	}
	return event.Account(key[:i]), binary.BigEndian.Uint32(key[i+1:]), key[i+1+generationBytes:], true
}
