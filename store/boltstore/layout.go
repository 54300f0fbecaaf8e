package boltstore

import (
	"encoding/binary"

	"github.com/manydevice/manydevice/event"
)

// schemaVersion is the layout that this release reads and writes.
const schemaVersion = 1

// Buckets of the file. Accounts and messages have numbers of their own, which are never used twice.
const (
	bucketMeta     = "manydevice" // see the meta constants
	bucketNames    = "name"       // account name → account number
	bucketAccounts = "account"    // account number, tag, … → see the tag constants
	bucketIDs      = "id"         // message ID → message number
	bucketMessages = "message"    // message number → what its copies share
	bucketBlobs    = "blob"       // blob number, chunk → part of a long payload, record or register
	bucketPlaces   = "place"      // message number, chunk → some of the inboxes that got it
	bucketRefs     = "ref"        // message number → how many inboxes hold it, how many messages that change it are there
	bucketPurge    = "purge"      // number of a deleted account whose rows are still there → nothing
)

// Rows of the meta bucket.
const (
	metaSchema      = "schema"      // 4 bytes
	metaIncarnation = "incarnation" // 4 bytes
	metaSecret      = "secret"      // 32 bytes
)

// Tags of an account's rows. Numbers are big-endian, so that rows are in order.
const (
	tagCursor      = 'c' // incarnation → cursor
	tagEntry       = 'e' // sequence number → entry
	tagHead        = 'h' // → head
	tagIdempotency = 'i' // device, 0, client message ID → attempt
	tagKey         = 'k' // coalesce key → sequence number
	tagOrdinal     = 'o' // conversation → count: how many of its entries count as unread
	tagRecord      = 'r' // → record
	tagState       = 's' // conversation, 0, name → register
	tagExpiry      = 't' // time, device, 0, client message ID → nothing; time is when the attempt is forgotten
)

// rowMax is how long a value may be, so that four rows fit into a page of 4 KiB: bbolt does not split a page of four rows
// or fewer, so that longer ones would need several pages side by side, which are hard to find when the file is nearly
// full, and would be written again and again as their neighbours come. What is longer goes into blobs, in chunks.
const rowMax = 980

// sequentialFill is how full the pages of buckets get whose rows come in order.
const sequentialFill = 1.0

const (
	numberBytes = 8
	prefixBytes = numberBytes + 1 // account number and tag
	secretBytes = 32
)

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// tagKeyFor returns the key of an account's row, with room for what follows.
func tagKeyFor(aid uint64, tag byte, room int) []byte {
	k := make([]byte, 0, prefixBytes+room)
	return append(binary.BigEndian.AppendUint64(k, aid), tag)
}

func headKey(aid uint64) []byte   { return tagKeyFor(aid, tagHead, 0) }
func recordKey(aid uint64) []byte { return tagKeyFor(aid, tagRecord, 0) }

func entryKey(aid, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(tagKeyFor(aid, tagEntry, numberBytes), seq)
}

func cursorKey(aid uint64, i event.Incarnation) []byte {
	return binary.BigEndian.AppendUint64(tagKeyFor(aid, tagCursor, numberBytes), uint64(i))
}

func coalesceKey(aid uint64, key string) []byte {
	return append(tagKeyFor(aid, tagKey, len(key)), key...)
}

func ordinalKey(aid uint64, c event.ConversationID) []byte {
	return append(tagKeyFor(aid, tagOrdinal, len(c)), c...)
}

// stateKey orders by conversation, then by name: no identifier has a zero byte.
func stateKey(aid uint64, c event.ConversationID, name string) []byte {
	k := append(tagKeyFor(aid, tagState, len(c)+1+len(name)), c...)
	return append(append(k, 0), name...)
}

func attemptKey(aid uint64, d event.DeviceID, c event.ClientMessageID) []byte {
	k := append(tagKeyFor(aid, tagIdempotency, len(d)+1+len(c)), d...)
	return append(append(k, 0), c...)
}

// expiryKey names the attempt by what follows the tag in its own key.
func expiryKey(aid, expires uint64, name []byte) []byte {
	k := binary.BigEndian.AppendUint64(tagKeyFor(aid, tagExpiry, numberBytes+len(name)), expires)
	return append(k, name...)
}

// splitExpiryKey is the opposite of expiryKey, without the account number and tag.
func splitExpiryKey(rest []byte) (expires uint64, name []byte, err error) {
	if len(rest) < numberBytes {
		return 0, nil, corrupt("expiry key")
	}
	return binary.BigEndian.Uint64(rest), rest[numberBytes:], nil
}

func chunkKey(number uint64, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(numberKey(number), chunk)
}

// number reads a key or value that is one number.
func number(b []byte, what string) (uint64, error) {
	if len(b) != numberBytes {
		return 0, corrupt(what)
	}
	return binary.BigEndian.Uint64(b), nil
}
