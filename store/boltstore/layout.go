package boltstore

import (
	"encoding/binary"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// The layout: what a batch becomes. Package kv keeps rows in order, in tables, and each row belongs to a part of a table, which
// is what rows of one owner have in common at the beginning of their keys.
//
//	table     part                     row            value
//	head      account                  –              what every batch reads of an account, and most write
//	account   account, 0, generation   tag, rest      cursors, entries, registers, counts, keys, idempotency records, record
//	message   message key              m              what copies of a message share; a short payload
//	                                   p              a longer payload
//	                                   t              the inboxes that got it, if they are many
//	reference message key              –              who needs the message, once that differs from "all inboxes that got it"; not
//	                                                  next to the message, whose pages are full
//	purge     –                        account, 0,    how far the removal of that generation's rows has come; there until
//	                                   generation     nothing is left of them
//
//  1. An account is found by its name alone. No row leads from it to another key, so that no damaged row can lead to
//     another account's rows.
//  2. Delete raises the generation in the head: rows of the old generation are out of reach at once, and are removed later, in slices.
//  3. A message's key follows from its ID. So messages that one issuer made one after another are neighbours.

// schemaVersion is the layout that this release reads and writes. Versions 1 to 4 were never released.
const schemaVersion = 5

const (
	tableHead kv.Table = iota
	tableAccount
	tableMessage
	tablePurge
	tableReference
)

// tables are those of a file. Heads and rows of accounts come in no order, so that pages are left room for more.
var tables = []kv.TableSpec{
	tableHead: {Name: "head", Fill: 0.7}, tableAccount: {Name: "account", Fill: 0.7},
	tableMessage: {Name: "message", Fill: 1}, tablePurge: {Name: "purge", Fill: 0.5},
	tableReference: {Name: "reference", Fill: 0.8},
}

// What the file says about itself.
const (
	metaSchema      = "schema"      // 4 bytes
	metaIncarnation = "incarnation" // 4 bytes
	metaSecret      = "secret"      // 32 bytes
)

// Tags of an account's rows. Numbers are big-endian, so that rows are in order.
const (
	tagCursor  = 'c' // incarnation → cursor
	tagEntry   = 'e' // sequence number → entry
	tagHand    = 'h' // → key of the idempotency record at which the next look for expired ones begins
	tagAttempt = 'i' // device, 0, client message ID → attempt
	tagKey     = 'k' // coalesce key → sequence number
	tagCount   = 'o' // conversation → count: how many of its entries count as unread
	tagRecord  = 'r' // → record
	tagState   = 's' // conversation, 0, name → register
)

// Rows of a message.
const (
	messageShared  = 'm'
	messagePayload = 'p'
	messageTo      = 't'
)

const (
	// inlinePayload is how long a payload may be that is in the same row as the rest of its message: four such rows fit into
	// a page.
	inlinePayload = 900
	// inlinePlaces is how long the places of a message may be that are there: those of a few inboxes.
	inlinePlaces = 200

	numberBytes = 8
	sealedBytes = 12 // of an issuer and a counter

	generationBytes = 4
	secretBytes     = 32
)

// generation is the end of the part of an account's rows.
func generation(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0}, n) }

// The functions below append the key of a row to b.

func numberRow(b []byte, tag byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tag), n)
}

func cursorRow(b []byte, i event.Incarnation) []byte { return numberRow(b, tagCursor, uint64(i)) }

func entryRow(b []byte, seq uint64) []byte { return numberRow(b, tagEntry, seq) }

func keyRow(b []byte, key string) []byte { return append(append(b, tagKey), key...) }

func countRow(b []byte, c event.ConversationID) []byte { return append(append(b, tagCount), c...) }

// stateRow orders by conversation, then by name: no identifier has a zero byte.
func stateRow(b []byte, c event.ConversationID, name string) []byte {
	return append(append(append(append(b, tagState), c...), 0), name...)
}

func attemptRow(b []byte, d event.DeviceID, c event.ClientMessageID) []byte {
	return append(append(append(append(b, tagAttempt), d...), 0), c...)
}

// Rows that are one only, and what others begin with.
var (
	recordRow   = []byte{tagRecord}
	handRow     = []byte{tagHand}
	entryRows   = []byte{tagEntry}
	attemptRows = []byte{tagAttempt}
)

// number reads the number that a key ends with.
func number(b []byte, what string) (uint64, error) {
	if len(b) != numberBytes {
		return 0, corrupt(what)
	}
	return binary.BigEndian.Uint64(b), nil
}

// messageKeys opens message IDs.
type messageKeys struct{ issuer *event.Issuer }

// What message keys begin with.
const (
	keySealed = 1
	keyOther  = 2
)

// key appends the key of the message with an ID. An ID of the engine is sealed; opened, it is the number of an issuer and a
// counter, which rises. No identifier has a zero byte.
func (k messageKeys) key(b []byte, id event.MessageID) []byte {
	if n, ok := k.issuer.Open(id); ok {
		return append(append(b, keySealed), n[:]...)
	}
	return append(append(append(b, keyOther), id...), 0)
}

// id returns the ID that a key stands for, nothing if it is no key or there is no issuer to seal it.
func (k messageKeys) id(key []byte) event.MessageID {
	switch n := len(key) - 1; {
	case n == sealedBytes && key[0] == keySealed && k.issuer != nil:
		return k.issuer.Seal([sealedBytes]byte(key[1:]))
	case n > 1 && key[0] == keyOther && key[n] == 0:
		return event.MessageID(key[1:n])
	}
	return ""
}
