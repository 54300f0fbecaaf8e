// Package rows is the work of one durable send, as rows of a sorted map. All references that keep inboxes do it on their own
// kind of map, so that none looks up, counts or writes less than another.
//
// A send between two accounts
//
//  1. looks up the idempotency record of the client message ID. If there is one with the same digest, that is the result;
//  2. reads the head of both inboxes: last sequence number, how many entries, bytes and idempotency records there are;
//  3. reads how many messages of the conversation the recipient has got;
//  4. writes the payload once, an entry in both inboxes, both heads, the count and the record.
//
// The library does the same for a send with one recipient, a copy for the sender, a conversation and a client message ID.
package rows

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"
)

// Map is a sorted map of rows. It is used by one goroutine at a time.
type Map interface {
	// Get returns a value, nil if there is none. It is valid until the next call.
	Get(key []byte) ([]byte, error)
	// Put sets a value. It keeps neither slice.
	Put(key, value []byte) error
}

// Message is what is sent.
type Message struct {
	From, To     string
	Conversation string
	ClientID     string // of the one device that every account has
	Payload      []byte
	Number       uint64 // makes the message ID; no other message of the store has it
	Digest       [sha256.Size]byte
	At           time.Time
}

// New returns a message with the digest of what the sender chose, which tells repetitions from abuse of a client message ID.
func New(from, to, conversation, clientID string, payload []byte, number uint64) Message {
	m := Message{
		From: from, To: to, Conversation: conversation, ClientID: clientID, Payload: payload, Number: number, At: time.Now(),
	}
	h := sha256.New()
	for _, field := range [][]byte{[]byte(from), []byte(to), []byte(conversation), payload} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(field)))
		h.Write(n[:])
		h.Write(field)
	}
	h.Sum(m.Digest[:0])
	return m
}

// Result is the answer to a send.
type Result struct {
	Number    uint64 // of the message: that of the first send, if this is a repetition
	Seq       uint64 // of the copy in the sender's inbox
	Duplicate bool
}

// Head is what a store knows of an inbox as a whole.
type Head struct {
	Seq      uint64 // of the newest entry
	Entries  uint64
	Bytes    uint64
	Attempts uint64 // idempotency records
}

// ErrMismatch means that a client message ID was used for another message before.
var ErrMismatch = errors.New("client message ID was used for another message")

// Tables, each a letter that its keys begin with.
const (
	TableMessages = 'm' // message ID → payload and what copies share
	TableEntries  = 'e' // account, sequence number → entry
	TableHeads    = 'h' // account → head
	TableCounts   = 'c' // account, conversation → messages
	TableSent     = 's' // account, device, client message ID → idempotency record
)

const (
	keep      = 24 * time.Hour // how long a record protects against repetition
	entrySize = 48             // of a row: message ID, kind, flags, origin, times
	headSize  = 56             // of a row: what Head has, and epoch, trim, revision of the record
	bodyExtra = 96             // of a message's row besides the payload: accounts, conversation, times, two places
	idSize    = 12
	flagsAt   = idSize
	unread    = 1
)

// Work does the work of sends on a map, with memory that it uses again. It is not safe for concurrent use.
type Work struct {
	key   []byte
	value []byte
}

// Send does the work of one send. Its errors are ErrMismatch, which leaves the map as it was, and those of the map.
func (w *Work) Send(m Map, msg *Message) (Result, error) {
	found, err := m.Get(w.record(msg.From, msg.ClientID))
	if err != nil {
		return Result{}, err
	}
	if len(found) > 0 {
		digest, rest := found[:sha256.Size], found[sha256.Size:]
		at := time.Unix(0, int64(binary.BigEndian.Uint64(rest[16:])))
		if msg.At.Sub(at) < keep {
			if !bytes.Equal(digest, msg.Digest[:]) {
				return Result{}, ErrMismatch
			}
			return Result{Number: binary.BigEndian.Uint64(rest), Seq: binary.BigEndian.Uint64(rest[8:]), Duplicate: true}, nil
		}
	}
	if err := w.body(m, msg); err != nil {
		return Result{}, err
	}
	seq, err := w.enter(m, msg, msg.From, 0, 1)
	if err != nil {
		return Result{}, err
	}
	if _, err := w.enter(m, msg, msg.To, unread, 0); err != nil {
		return Result{}, err
	}
	if err := w.count(m, msg); err != nil {
		return Result{}, err
	}
	w.value = append(w.value[:0], msg.Digest[:]...)
	w.value = binary.BigEndian.AppendUint64(w.value, msg.Number)
	w.value = binary.BigEndian.AppendUint64(w.value, seq)
	w.value = binary.BigEndian.AppendUint64(w.value, uint64(msg.At.UnixNano()))
	return Result{Number: msg.Number, Seq: seq}, m.Put(w.record(msg.From, msg.ClientID), w.value)
}

func (w *Work) body(m Map, msg *Message) error {
	w.value = append(w.value[:0], msg.Payload...)
	w.value = append(w.value, msg.From+"\x00"+msg.To+"\x00"+msg.Conversation...)
	w.value = append(w.value, make([]byte, max(bodyExtra-(len(w.value)-len(msg.Payload)), 0))...)
	w.key = appendID(append(w.key[:0], TableMessages), msg.Number)
	return m.Put(w.key, w.value)
}

// enter appends an entry to an inbox.
func (w *Work) enter(m Map, msg *Message, account string, flags byte, attempts uint64) (uint64, error) {
	h, err := w.Head(m, account)
	if err != nil {
		return 0, err
	}
	h.Seq++
	h.Entries++
	h.Bytes += uint64(len(msg.Payload))
	h.Attempts += attempts
	w.value = append(appendID(w.value[:0], msg.Number), make([]byte, entrySize-idSize)...)
	w.value[flagsAt] = flags
	w.key = binary.BigEndian.AppendUint64(w.part(TableEntries, account), h.Seq)
	if err := m.Put(w.key, w.value); err != nil {
		return 0, err
	}
	w.value = w.value[:0]
	for _, n := range [...]uint64{h.Seq, h.Entries, h.Bytes, h.Attempts, 0, 0, 0} {
		w.value = binary.BigEndian.AppendUint64(w.value, n)
	}
	return h.Seq, m.Put(w.head(account), w.value)
}

// count counts a message in the recipient's conversation.
func (w *Work) count(m Map, msg *Message) error {
	n, err := w.Count(m, msg.To, msg.Conversation)
	if err != nil {
		return err
	}
	w.value = binary.BigEndian.AppendUint64(w.value[:0], n+1)
	return m.Put(append(w.part(TableCounts, msg.To), msg.Conversation...), w.value)
}

// Head reads the head of an inbox.
func (w *Work) Head(m Map, account string) (h Head, err error) {
	v, err := m.Get(w.head(account))
	if err != nil || len(v) == 0 {
		return h, err
	}
	if len(v) != headSize {
		return h, errors.New("head is of another size")
	}
	return Head{
		Seq: binary.BigEndian.Uint64(v), Entries: binary.BigEndian.Uint64(v[8:]),
		Bytes: binary.BigEndian.Uint64(v[16:]), Attempts: binary.BigEndian.Uint64(v[24:]),
	}, nil
}

// Count reads how many messages of a conversation an account has got.
func (w *Work) Count(m Map, account, conversation string) (uint64, error) {
	w.key = append(w.part(TableCounts, account), conversation...)
	v, err := m.Get(w.key)
	if err != nil || len(v) == 0 {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

// record is the key of an idempotency record.
func (w *Work) record(account, clientID string) []byte {
	w.key = append(w.part(TableSent, account), "d\x00"+clientID...)
	return w.key
}

func (w *Work) head(account string) []byte {
	w.key = append(append(w.key[:0], TableHeads), account...)
	return w.key
}

// part begins the key of a row that an account has several of. All keys of a table begin with a letter of its own.
func (w *Work) part(table byte, account string) []byte {
	w.key = append(append(w.key[:0], table), account...)
	w.key = append(w.key, 0)
	return w.key
}

func appendID(b []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 1), number)
}
