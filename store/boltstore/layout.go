package boltstore

import (
	"encoding/binary"

	"github.com/manydevice/manydevice/event"
)

// The layout. What a commit writes goes to ends of buckets; what belongs to accounts is sorted later, in the background.
//
//	commit ──┬─ message, place, blob        what copies of a message share, written once, in order of numbers
//	         └─ journal / window 12         entries, registers, cursors, … of all accounts that the commit touched, and
//	                │                       their heads, in the order of commits; in memory as well, by account
//	                │ fold, in slices, once the window is full
//	                ▼
//	            run / window 11 ─ 11        the same rows by account, written in order and never changed
//	            run / window  8 ─ 10
//	            run / window  1 ─  7        merged from 1 to 7, in slices
//	            head                        last row of each account: its head, and the windows that it has rows in
//	            name                        account name → account number
//
// A row is looked for in memory first, in the window that is being written and the one that is being folded, and then in
// the runs from the newest to the oldest that the account has rows in. The newer one of the same key wins; an empty value
// says that the row was removed. Only heads, names of new accounts and removals touch pages all over the file.
//
// The journal of a window is dropped when the window was folded. After a crash what is left of it is read into memory.

// schemaVersion is the layout that this release reads and writes. Versions 1 to 3 were never released.
const schemaVersion = 4

// Buckets of the file. Accounts have numbers of their own, which are never used twice; those of messages follow from
// their IDs.
const (
	bucketMeta  = "manydevice" // see the meta constants
	bucketNames = "name"       // account name → account number
	bucketHeads = "head"       // account number / blockHeads → heads of so many accounts
	bucketRuns  = "run"        // first and last window → bucket of rows: account number, tag, … → value. Its sequence
	// is about the size of the rows; zero: it is not complete yet, or is being removed
	bucketIDs      = "id"      // see ids.go: issuers of message IDs, and the numbers of messages whose ID is from elsewhere
	bucketMessages = "message" // message number → what its copies share
	bucketBlobs    = "blob"    // blob number, chunk → part of a long payload, record or register
	bucketPlaces   = "place"   // message number, chunk → some of the inboxes that got it
	bucketRefs     = "ref"     // message number → who needs it; none: as many inboxes as got it
	bucketPurge    = "purge"   // number of a deleted account whose entries are still there → its head
	// prefixJournal and a window's number name the bucket of its records, cut into chunks: chunk number → chunk. It is no
	// bucket in another one: that would be a page more for each commit.
	prefixJournal = "journal"
)

// allBuckets are those that every file has.
var allBuckets = [...]string{
	bucketMeta, bucketNames, bucketHeads, bucketRuns, bucketIDs, bucketMessages, bucketBlobs,
	bucketPlaces, bucketRefs, bucketPurge,
}

// Rows of the meta bucket.
const (
	metaSchema      = "schema"      // 4 bytes
	metaIncarnation = "incarnation" // 4 bytes
	metaSecret      = "secret"      // 32 bytes
	metaSweep       = "sweep"       // 8 bytes: a window, see wantSweep; none: nothing is to be swept
)

// Tags of an account's rows. Numbers are big-endian, so that rows are in order.
const (
	tagCursor  = 'c' // incarnation → cursor
	tagDead    = 'd' // sequence number of an entry that was removed before its time → mark
	tagEntry   = 'e' // sequence number of the first → entries
	tagAttempt = 'i' // device, 0, client message ID → attempt
	tagKey     = 'k' // coalesce key → sequence number
	tagCount   = 'o' // conversation → count: how many of its entries count as unread
	tagRecord  = 'r' // → record
	tagState   = 's' // conversation, 0, name → register
)

// mark is the value of rows that have nothing to say but that they are there: an empty value means a removed row.
const mark = "\x01"

// rowMax is how long a value should be, so that four rows fit into a page of 4 KiB: bbolt does not split a page of four
// rows or fewer, so that longer ones need several pages side by side, and are written again as their neighbours come.
// What is longer goes into blobs, in chunks.
const rowMax = 980

// inlineMax is how long a record or register may be that is no blob. Records change with every login; those of a few
// devices are below this. Their rows are written once and have no neighbours that come later.
const inlineMax = 4 << 10

// sequentialFill is how full the pages of buckets get whose rows come in order.
const sequentialFill = 1.0

const (
	numberBytes = 8
	prefixBytes = numberBytes + 1 // account number and tag
	secretBytes = 32
)

func journalName(window uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefixJournal), window)
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// numberRow is the key of an account's row that a number names.
func numberRow(tag byte, n uint64) string {
	var b [prefixBytes]byte
	b[0] = tag
	binary.BigEndian.PutUint64(b[1:], n)
	return string(b[:])
}

func cursorRow(i event.Incarnation) string { return numberRow(tagCursor, uint64(i)) }

func deadRow(seq uint64) string { return numberRow(tagDead, seq) }

func keyRow(key string) string { return string(rune(tagKey)) + key }

func countRow(c event.ConversationID) string { return string(rune(tagCount)) + string(c) }

func recordRow() string { return string(rune(tagRecord)) }

// stateRow orders by conversation, then by name: no identifier has a zero byte.
func stateRow(c event.ConversationID, name string) string {
	return string(rune(tagState)) + string(c) + "\x00" + name
}

func attemptRow(d event.DeviceID, c event.ClientMessageID) string {
	return string(rune(tagAttempt)) + string(d) + "\x00" + string(c)
}

// runKey is the key in a run of an account's row.
func runKey(aid uint64, row string) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, numberBytes+len(row)), aid), row...)
}

func chunkKey(number uint64, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(numberKey(number), chunk)
}

// number reads a key or value that is one number.
func number[T ~string | ~[]byte](b T, what string) (uint64, error) {
	if len(b) != numberBytes {
		return 0, corrupt(what)
	}
	return binary.BigEndian.Uint64([]byte(b)), nil
}
