package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// Store keeps the engine's state. See the package comment for what all methods have in common.
type Store interface {
	// Info returns what the store is. It never changes while the store is open, and needs no I/O.
	Info() Info

	// Claim takes the store for one engine, which calls it before anything else but Info. shared: the engine has leases and
	// lets others like it use the store at the same time; otherwise it is alone. ErrInUse unless there is no other engine or
	// all of them share. release gives the claim back; it may be called again, and after Close. Claims are of one open store in
	// one process, need no I/O, and end with the process. A store gets the method by embedding [Claims]; a wrapper passes it on.
	Claim(shared bool) (release func(), err error)

	// Load returns the account's record from the authoritative copy. An absent record has Revision 0 and no data.
	Load(ctx context.Context, account event.Account) (Record, error)

	// Commit applies a batch. See [Batch] for what it checks and does, and the package comment for its outcomes.
	Commit(ctx context.Context, b Batch) (Result, error)

	// Message returns what is known of a message, without the payload: who has it and where. ErrNotFound if there is
	// none, or neither an inbox holds it any more nor a message that changes it is known.
	Message(ctx context.Context, id event.MessageID) (MessageInfo, error)

	// Read returns a page of the account's inbox. An account that was never written has an empty inbox.
	Read(ctx context.Context, account event.Account, o ReadOptions) (Page, error)

	// States returns registers of the account's conversation state, in a fixed order.
	States(ctx context.Context, account event.Account, o StateOptions) (StatePage, error)

	// Conversations returns how many entries of the account's conversations count as unread, in a fixed order. It has
	// every conversation that an entry was ever counted in.
	Conversations(ctx context.Context, account event.Account, o ConversationOptions) (ConversationPage, error)

	// Cursors returns the cursors of all of the account's devices.
	Cursors(ctx context.Context, account event.Account) ([]Cursor, error)

	// SaveCursors merges cursors of any accounts by maximum. They are durable when it returns. Only cursors that a batch
	// began and none has forgotten are kept up: what comes late for a removed device or a deleted account is void.
	SaveCursors(ctx context.Context, cursors []Cursor) error

	// Trim removes the account's entries with a sequence number up to and including through, oldest first, at most limit
	// of them, and returns the new head. Trim of the head never goes beyond its Seq. A limit below 1 is an error.
	Trim(ctx context.Context, account event.Account, through uint64, limit int) (Head, error)

	// Void removes single entries before their time, and takes them out of the count of their conversation. Numbers without
	// an entry are skipped.
	Void(ctx context.Context, account event.Account, seqs []uint64) (Head, error)

	// Delete removes all that the account has, if its record still has the expected revision (0: none). What stays is the
	// epoch, raised by one, so that positions of before mean nothing any more.
	Delete(ctx context.Context, account event.Account, expect Revision) error

	// Accounts returns up to limit accounts that have a record or an inbox, in a fixed order, after the given one ("" to
	// begin). Fewer than limit means that there are no more.
	Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error)

	// Failed is closed as soon as the store can no longer be used, for one of two reasons: a physical write failed, and every
	// method returns ErrFailed; or Close was called, and every method returns ErrClosed. That never changes back. Close has
	// closed it before it returns.
	Failed() <-chan struct{}

	// Close closes Failed, waits for what runs, as long as ctx allows, and frees the store. Every method then returns ErrClosed.
	// It comes after the close of the engines that use the store: an engine that is still there takes it for a failure.
	Close(ctx context.Context) error
}

// Info says what a store is.
type Info struct {
	Incarnation  uint32      // high half of every epoch; changes when the store is restored from a backup
	IDKey        event.IDKey // random, made with the store, same for all nodes; message IDs are sealed with it
	Capabilities Capabilities
}

// Capabilities are promises beyond the contract.
type Capabilities struct {
	Durable      bool // what was answered survives the end of the process
	AtomicSend   bool // a batch takes effect in all inboxes at once
	UniformOrder bool // two inboxes order the messages that they share alike
	Dense        bool // sequence numbers have no gaps
	Shared       bool // several engines may use the store at once
}

// Revision is the version of an account record. It is opaque but for 0, which means absent.
type Revision uint64

// Record is an account's record. The store does not look into Data, a few KiB at most.
type Record struct {
	Data     []byte
	Revision Revision
}

// Batch is the one way to change what an account has. Its parts are checked in this order, and the first that fails
// leaves everything unchanged: Idempotency, Record, States with OnlyIfChanged, room in the store.
type Batch struct {
	// Account is the acting account: Record, States, Forget and Idempotency are its own. Required.
	Account event.Account
	// Now is the time of the batch, in milliseconds. Required.
	Now time.Time
	// Idempotency, if set, makes a repetition of the batch return the first one's result.
	Idempotency *Idempotency
	// Record, if set, replaces the account's record; ErrConflict unless it has the expected revision.
	Record *RecordUpdate
	// States are merged into the account's conversation state; see [Merge]. They carry the sequence number of the last
	// entry that the batch appends to the account's own inbox, or of its head if there is none.
	States []StateUpdate
	// OnlyIfChanged: if no state changes, nothing at all is done, and Result.Unchanged is set.
	OnlyIfChanged bool
	// Begin creates the cursors of new devices.
	Begin []Begin
	// Forget drops the cursors of removed devices.
	Forget []event.Incarnation
	// Messages are appended in order.
	Messages []Message
	// Reserve allows the batch to use the room that is kept back for ends of logins, markers and the like.
	Reserve bool
}

// Begin creates a cursor at the head as the batch leaves it, Back sequence numbers before it, or at At if that is set and
// lower, but not before the trim position. A cursor that is there already stays as it is.
type Begin struct {
	Incarnation event.Incarnation
	Back        uint64
	At          uint64
}

// RecordUpdate is a compare-and-set of an account record.
type RecordUpdate struct {
	Expect Revision // 0: there must be none
	Data   []byte
}

// StateUpdate sets one register.
type StateUpdate struct {
	Conversation event.ConversationID
	Name         string
	Merge        MergeRule
	Number       uint64
	Value        []byte
}

// MergeRule says which of two values of a register stays.
type MergeRule uint8

const (
	// MergeMax keeps the higher Number. Nothing changes unless the new one is higher.
	MergeMax MergeRule = iota
	// MergeLast keeps the newer. Nothing changes if Number and Value are the same as before.
	MergeLast
)

// Idempotency names a batch, so that its repetition has no second effect. It is known by (Batch.Account, Device,
// ClientID) for Window; within it the same Digest returns the first result with Result.Duplicate, another one
// ErrMismatch. An account keeps at most Max of them: beyond that ErrWindowFull. A store may count some that have expired until it looks again, a
// hundredth of Max at most.
type Idempotency struct {
	Device   event.DeviceID
	ClientID event.ClientMessageID
	Digest   [32]byte
	Window   time.Duration
	Max      int
}

// Message is something to append to inboxes. Its payload is stored once however many there are.
type Message struct {
	ID           event.MessageID // required, never used before
	Kind         event.Kind
	Flags        event.Flags // in every inbox
	Conversation event.ConversationID
	ClientID     event.ClientMessageID // kept in the inbox of From only
	From         event.Account
	Origin       event.LoginID // kept in the inbox of From only
	Key          string        // at most 512 bytes; in each inbox the entry that has the same key is removed
	Drop         string        // another key whose entry is removed; empty: none
	// Of is the message that this one changes: what is known of it stays known as long as this one is in an inbox. One
	// that the store does not know (any more) is ignored.
	Of event.MessageID
	// Uncount: what this one replaces is taken out of the count of its conversation. Otherwise this one takes its place in
	// the count. See [Inbox.Replaces].
	Uncount bool
	Expires time.Time
	Payload []byte
	To      []Inbox // at least one, no account twice
}

// Inbox is one addressee of a message.
type Inbox struct {
	Account event.Account
	Targets []event.Incarnation // devices; none: all
	Flags   event.Flags         // in this inbox, beside those of the message
	// Replaces is the place of an entry that is removed, as are those with Key and Drop. If it is set, and the message
	// names no targets here, it takes over those of what it removes; unless it counts itself or Uncount is set, also the
	// flag [event.FlagUnread] and the ordinal. If it is not set, or names another epoch, what is removed by Key and Drop
	// is taken out of the count.
	Replaces event.Position
}

// Result is what a batch did.
type Result struct {
	Duplicate bool          // a batch with the same Idempotency was here before: Messages holds what is known of it
	Unchanged bool          // OnlyIfChanged, and no state changed: nothing was done
	Revision  Revision      // of the record, if the batch had one
	States    []event.State // the registers after each of Batch.States, in that order
	Messages  []Placed      // one for each message; for a duplicate the first alone
}

// Placed says where a message went.
type Placed struct {
	ID event.MessageID
	To []Place // one for each of Message.To, in that order; for a duplicate only that of Batch.Account, if there was one
}

// NewPlaced returns one for each message, with room for its places and nothing in it: for stores, which fill it in.
func NewPlaced(messages []Message) []Placed {
	if len(messages) == 0 {
		return nil
	}
	if n := len(messages[0].To); len(messages) == 1 && n <= 2 { // in one piece what is most common by far
		room := new(struct {
			placed [1]Placed
			to     [2]Place
		})
		room.placed[0].To = room.to[:n:n]
		return room.placed[:]
	}
	all := make([]Placed, len(messages))
	for i := range messages {
		all[i].To = make([]Place, len(messages[i].To))
	}
	return all
}

// Place is one entry's place.
type Place struct {
	Account event.Account
	Epoch   event.Epoch
	Seq     uint64
	Ordinal uint64 // see event.Entry
}

// MessageInfo is what is known of a message.
type MessageInfo struct {
	ID           event.MessageID
	Kind         event.Kind
	Flags        event.Flags
	Conversation event.ConversationID
	From         event.Account
	Time         time.Time
	To           []Place // inboxes that got it, whether or not they still hold it; Ordinal may be missing
}

// Head tells the bounds of an inbox. It is kept explicitly, never derived from entries that are left.
type Head struct {
	Epoch   event.Epoch
	Seq     uint64 // of the newest entry ever appended; 0: none yet
	Trim    uint64 // entries up to here are gone for good; at most Seq
	Entries int    // how many entries without a coalesce key are left
	Bytes   int64  // sum of event.Entry.Size over all entries that are left
}

// ReadOptions choose a page of an inbox.
type ReadOptions struct {
	After    uint64 // entries with a higher sequence number
	Limit    int    // at most so many entries; 0: only the head
	MaxBytes int    // stop after the entry that brings the sum of sizes to this; 0: no bound. There is always one entry
	Known    uint64 // the caller knows that the head is at least here: an answer from an older copy is not good enough
	NoBodies bool   // leave the payloads out
	// Into is memory that the page may use for its entries, from Into[:0] on; what was there is lost. The store does not keep
	// it. It saves who reads page after page an allocation for each; nil: the store makes room.
	Into []event.Entry
}

// Page is a part of an inbox, in order of sequence numbers.
type Page struct {
	Head    Head
	Entries []event.Entry
	// Through is how far the page covers: there is no entry in (After, Through] but those of the page. It is the last
	// entry's number if the page was cut short, and at least Head.Seq otherwise.
	Through uint64
}

// StateOptions choose registers.
type StateOptions struct {
	Conversation event.ConversationID // only this one's; empty: all
	Newer        uint64               // only registers whose Seq is higher; 0: all
	Cursor       string               // where the last page ended; empty: begin
	Limit        int                  // at most so many registers are returned; at least 1
}

// StatePage is a part of an account's conversation state.
type StatePage struct {
	States []event.State
	Next   string // cursor of the next page; empty: this was the last
}

// ConversationOptions choose conversations.
type ConversationOptions struct {
	Conversation event.ConversationID // only this one; empty: all
	Cursor       string               // where the last page ended; empty: begin
	Limit        int                  // at most so many are returned; at least 1
}

// ConversationPage is a part of an account's conversations.
type ConversationPage struct {
	Conversations []Conversation
	Next          string // cursor of the next page; empty: this was the last
}

// Conversation is how many entries of a conversation count as unread.
type Conversation struct {
	Conversation event.ConversationID
	Counted      uint64   // entries that were counted so far: the highest ordinal given
	Uncounted    []uint64 // ordinals of those that were taken out of the count since, lowest first; at most [MaxUncounted]
}

// Cursor is a device's place in its account's inbox.
type Cursor struct {
	Account     event.Account
	Incarnation event.Incarnation
	Seq         uint64 // acknowledged up to here
	Sent        uint64 // sent up to here, at least once
}

// Errors that callers branch on.
var (
	// ErrNotFound: there is no such message.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict: the record has another revision than expected. Nothing was changed: load it and try again.
	ErrConflict = errors.New("store: conflict")
	// ErrUnknownOutcome: the batch may or may not take effect.
	ErrUnknownOutcome = errors.New("store: unknown outcome")
	// ErrMismatch: another batch was committed under the same idempotency name. Nothing was changed.
	ErrMismatch = errors.New("store: client message ID was used for something else")
	// ErrWindowFull: the account has too many idempotency records. Nothing was changed.
	ErrWindowFull = errors.New("store: too many recent client message IDs")
	// ErrFull: no room is left. Nothing was changed. Ends of logins and cursors may still be written.
	ErrFull = errors.New("store: full")
	// ErrInUse: another engine uses the store, and one of the two says that it is alone. Nothing was read or written.
	ErrInUse = errors.New("store: in use by another engine")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store: closed")
	// ErrFailed: a physical write failed earlier. The store must be closed and opened again.
	ErrFailed = errors.New("store: failed")
	// ErrSchema: the store was written by a newer release.
	ErrSchema = errors.New("store: written by a newer release")
)

// Bounds that every store accepts.
const (
	MaxRecordBytes  = 64 << 10
	MaxKeyBytes     = 512
	MaxPayloadBytes = 1 << 20
	MaxTargets      = 64
	MaxInboxes      = 16_384
	MaxUncounted    = 64 // of a conversation; the lowest are forgotten: they are most likely read
)

// Uncount adds an ordinal to those that were taken out of the count. Stores use it, so that all of them forget alike.
func Uncount(list []uint64, ordinal uint64) []uint64 {
	i, there := slices.BinarySearch(list, ordinal)
	if there || ordinal == 0 {
		return list
	}
	list = slices.Insert(list, i, ordinal)
	return list[max(0, len(list)-MaxUncounted):]
}

// Merge applies an update to a register (nil: it does not exist) and reports whether it changes. Stores use it, so that
// all of them merge alike. Seq of the result is the old one's: the store sets the new one.
func Merge(old *event.State, u StateUpdate) (event.State, bool) {
	next := event.State{Conversation: u.Conversation, Name: u.Name, Number: u.Number, Value: u.Value}
	if old == nil {
		return next, true
	}
	next.Seq = old.Seq
	switch u.Merge {
	case MergeMax:
		if u.Number <= old.Number {
			return *old, false
		}
	case MergeLast:
		if u.Number == old.Number && string(u.Value) == string(old.Value) {
			return *old, false
		}
	}
	return next, true
}
