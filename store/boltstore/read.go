package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Bounds of one read transaction, whatever the caller asked for: pages are cut short there.
const (
	maxPageEntries = 16_384
	maxPageBytes   = 64 << 20
	scanNames      = 1024
)

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, name event.Account) (store.Record, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Record{}, err
	}
	var r store.Record
	err := s.view(ctx, func(b *buckets) error {
		a, err := b.find(name)
		if err != nil || a.head.record == 0 {
			return err
		}
		v, err := decodeRecord(string(b.accounts.Get(recordKey(a.aid))))
		if err != nil {
			return err
		}
		r.Revision = store.Revision(a.head.record)
		r.Data, err = b.value(&v)
		return err
	})
	if err != nil {
		return store.Record{}, err
	}
	return r, nil
}

// Read implements [store.Store]. There is one copy of everything, so that Known has no effect. With NoBodies, MaxBytes
// counts entries without their payload. A page has at most 16,384 entries and ends after 64 MiB.
func (s *Store) Read(ctx context.Context, name event.Account, o store.ReadOptions) (store.Page, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Page{}, err
	}
	if err := o.Validate(); err != nil {
		return store.Page{}, err
	}
	var page store.Page
	err := s.view(ctx, func(b *buckets) error {
		a, err := b.find(name)
		if err != nil {
			return err
		}
		page.Head = s.head(&a.head)
		page.Through = max(o.After, page.Head.Seq)
		switch {
		case o.Limit == 0:
			page.Through = o.After
			return nil
		case a.aid == 0:
			return nil
		}
		return b.fill(&page, &a, &o)
	})
	if err != nil {
		return store.Page{}, err
	}
	return page, nil
}

// fill puts entries into a page.
func (b *buckets) fill(page *store.Page, a *account, o *store.ReadOptions) error {
	limit, most := min(o.Limit, maxPageEntries), maxPageBytes
	if o.MaxBytes > 0 {
		most = min(o.MaxBytes, most)
	}
	size := 0
	messages := messageReader{cursor: b.messages.Cursor()}
	return scan(b.accounts, tagKeyFor(a.aid, tagEntry, 0), firstAfter(a.aid, o.After), func(rest, v []byte) (bool, error) {
		if len(page.Entries) == limit || size >= most {
			page.Through = page.Entries[len(page.Entries)-1].Seq
			return false, nil
		}
		if page.Entries == nil {
			page.Entries = make([]event.Entry, 0, min(limit, int(min(a.head.seq-o.After, 256))))
		}
		seq, err := number(rest, "entry key")
		if err != nil {
			return false, err
		}
		e, err := b.entry(seq, v, !o.NoBodies, &messages)
		if err != nil {
			return false, err
		}
		page.Entries = append(page.Entries, e)
		size += e.Size()
		return true, nil
	})
}

// entry composes what callers see of an entry. It shares no memory with the file.
func (b *buckets) entry(seq uint64, row []byte, body bool, messages *messageReader) (event.Entry, error) {
	e, err := decodeEntry(string(row))
	if err != nil {
		return event.Entry{}, err
	}
	m, err := messages.read(e.mid)
	if err != nil {
		return event.Entry{}, err
	}
	out := event.Entry{
		Seq: seq, Kind: m.kind, Flags: e.flags, Conversation: m.conversation, ID: m.id, ClientID: e.clientID,
		From: m.from, Origin: e.origin, Targets: e.targets, Key: e.key, Time: millis(m.time), Expires: m.expiry(),
		Ordinal: e.ordinal,
	}
	if body {
		out.Payload, err = b.value(&m.payload)
	}
	return out, err
}

// messageReader reads messages of rising numbers, which are mostly next to each other.
type messageReader struct {
	cursor *bolt.Cursor
	key    [numberBytes]byte
	last   uint64
}

func (r *messageReader) read(mid uint64) (message, error) {
	var k, v []byte
	binary.BigEndian.PutUint64(r.key[:], mid)
	if r.last != 0 && mid > r.last {
		k, v = r.cursor.Next()
	}
	if !bytes.Equal(k, r.key[:]) {
		k, v = r.cursor.Seek(r.key[:])
	}
	if r.last = mid; !bytes.Equal(k, r.key[:]) {
		return message{}, corrupt("message number")
	}
	return decodeMessage(string(v))
}

// Message implements [store.Store].
func (s *Store) Message(ctx context.Context, id event.MessageID) (store.MessageInfo, error) {
	var info store.MessageInfo
	err := s.view(ctx, func(b *buckets) error {
		var v []byte
		if id != "" {
			v = b.ids.Get([]byte(id))
		}
		if v == nil {
			return store.ErrNotFound
		}
		mid, err := number(v, "message number")
		if err != nil {
			return err
		}
		m, err := b.message(mid)
		if err != nil {
			return err
		}
		places, err := b.placesOf(mid)
		if err != nil {
			return err
		}
		held, err := b.held(mid, places)
		if err != nil {
			return err
		}
		if !held {
			return store.ErrNotFound
		}
		info = store.MessageInfo{
			ID: m.id, Kind: m.kind, Flags: m.flags, Conversation: m.conversation, From: m.from, Time: millis(m.time),
			To: make([]store.Place, len(places)),
		}
		for i := range places {
			info.To[i] = s.place(&places[i])
		}
		return nil
	})
	return info, err
}

func (b *buckets) placesOf(mid uint64) ([]place, error) {
	var all []place
	prefix := numberKey(mid)
	err := scan(b.places, prefix, prefix, func(_, row []byte) (bool, error) {
		places, err := decodePlaces(string(row))
		all = append(all, places...)
		return true, err
	})
	return all, err
}

// held reports whether any inbox still holds a message, or any message that changes it is there. A message has a row
// until neither is the case, which is later than it should be only while rows of deleted accounts wait to be removed.
func (b *buckets) held(mid uint64, places []place) (bool, error) {
	if k, _ := b.purge.Cursor().First(); k == nil {
		return true, nil
	}
	if refs, err := decodeReferences(b.refs.Get(numberKey(mid))); err != nil || refs.changes > 0 {
		return err == nil, err
	}
	for i := range places {
		a, err := b.find(places[i].account)
		if err != nil {
			return false, err
		}
		if a.head.epoch == places[i].epoch && b.accounts.Get(entryKey(a.aid, places[i].seq)) != nil {
			return true, nil
		}
	}
	return false, nil
}

// Cursors implements [store.Store]. They are in order of incarnations.
func (s *Store) Cursors(ctx context.Context, name event.Account) ([]store.Cursor, error) {
	if err := store.CheckAccount(name); err != nil {
		return nil, err
	}
	var cursors []store.Cursor
	err := s.view(ctx, func(b *buckets) error {
		a, err := b.find(name)
		if err != nil || a.aid == 0 {
			return err
		}
		prefix := tagKeyFor(a.aid, tagCursor, 0)
		return scan(b.accounts, prefix, prefix, func(rest, row []byte) (bool, error) {
			i, err := number(rest, "cursor key")
			if err != nil {
				return false, err
			}
			c, err := decodeCursor(string(row))
			c.Account, c.Incarnation = name, event.Incarnation(i)
			cursors = append(cursors, c)
			return true, err
		})
	})
	if err != nil {
		return nil, err
	}
	return cursors, nil
}

// States implements [store.Store]. The order is by conversation and name.
func (s *Store) States(ctx context.Context, name event.Account, o store.StateOptions) (store.StatePage, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.StatePage{}, err
	}
	if err := o.Validate(); err != nil {
		return store.StatePage{}, err
	}
	after, ok := decodeStateCursor(o.Cursor)
	if !ok {
		return store.StatePage{}, &event.InvalidError{Field: "cursor", Reason: "not of this store"}
	}
	var page store.StatePage
	err := s.view(ctx, func(b *buckets) error {
		a, err := b.find(name)
		if err != nil || a.aid == 0 {
			return err
		}
		return b.registers(&page, a.aid, after, &o)
	})
	if err != nil {
		return store.StatePage{}, err
	}
	return page, nil
}

// registers puts registers into a page, beginning after the one with the given conversation, 0 and name.
func (b *buckets) registers(page *store.StatePage, aid uint64, after []byte, o *store.StateOptions) error {
	prefix := tagKeyFor(aid, tagState, len(o.Conversation)+1)
	base := len(prefix)
	if o.Conversation != "" {
		prefix = append(append(prefix, o.Conversation...), 0)
	}
	start := slices.Concat(prefix[:base], after)
	if bytes.Compare(start, prefix) < 0 {
		start = prefix
	}
	limit, size := min(o.Limit, maxPageEntries), 0
	var last []byte
	return scan(b.accounts, prefix, start, func(rest, row []byte) (bool, error) {
		key := slices.Concat(prefix[base:], rest)
		if bytes.Equal(key, after) {
			return true, nil
		}
		st, err := decodeState(string(row))
		if err != nil || o.Newer != 0 && st.seq <= o.Newer {
			return err == nil, err
		}
		if len(page.States) == limit || size >= maxPageBytes {
			page.Next = encodeStateCursor(last)
			return false, nil
		}
		conversation, name, ok := bytes.Cut(key, []byte{0})
		if !ok {
			return false, corrupt("register key")
		}
		data, err := b.value(&st.value)
		page.States = append(page.States, event.State{
			Conversation: event.ConversationID(conversation), Name: string(name), Number: st.number, Value: data,
			Seq: st.seq,
		})
		size += len(data)
		last = key
		return true, err
	})
}

// Conversations implements [store.Store]. The order is that of the identifiers' bytes.
func (s *Store) Conversations(ctx context.Context, name event.Account, o store.ConversationOptions) (store.ConversationPage, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.ConversationPage{}, err
	}
	if err := o.Validate(); err != nil {
		return store.ConversationPage{}, err
	}
	var page store.ConversationPage
	err := s.view(ctx, func(b *buckets) error {
		a, err := b.find(name)
		if err != nil || a.aid == 0 {
			return err
		}
		prefix := tagKeyFor(a.aid, tagOrdinal, 0)
		// The cursor is the last identifier and a line feed, which no identifier has, so that there is one for "" too.
		start := slices.Concat(prefix, []byte(max(o.Cursor, string(o.Conversation))))
		return scan(b.accounts, prefix, start, func(rest, row []byte) (bool, error) {
			c := event.ConversationID(rest)
			if o.Conversation != "" && c != o.Conversation {
				return false, nil
			}
			if len(page.Conversations) == min(o.Limit, maxPageEntries) {
				page.Next = string(page.Conversations[len(page.Conversations)-1].Conversation) + "\n"
				return false, nil
			}
			counted, uncounted, err := decodeCount(row)
			page.Conversations = append(page.Conversations, store.Conversation{
				Conversation: c, Counted: counted, Uncounted: uncounted,
			})
			return true, err
		})
	})
	if err != nil {
		return store.ConversationPage{}, err
	}
	return page, nil
}

// Accounts implements [store.Store]. The order is that of the names' bytes.
func (s *Store) Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error) {
	if err := store.CheckLimit(limit); err != nil {
		return nil, err
	}
	var list []event.Account
	for next := []byte(after); ; {
		seen := 0
		err := s.view(ctx, func(b *buckets) error {
			return scan(b.names, nil, next, func(name, v []byte) (bool, error) {
				if len(list) == limit || seen == scanNames {
					return false, nil
				}
				seen++
				next = append(bytes.Clone(name), 0)
				if string(name) == string(after) {
					return true, nil
				}
				used, err := b.used(v)
				if used {
					list = append(list, event.Account(name))
				}
				return true, err
			})
		})
		if err != nil {
			return nil, err
		}
		if seen < scanNames || len(list) == limit {
			return list, nil
		}
	}
}

// used reports whether an account has a record or an inbox.
func (b *buckets) used(v []byte) (bool, error) {
	aid, err := number(v, "account number")
	if err != nil {
		return false, err
	}
	h, err := decodeHead(string(b.accounts.Get(headKey(aid))))
	return h.record != 0 || h.seq != 0, err
}

// firstAfter is the key with which a scan of entries after seq begins.
func firstAfter(aid, seq uint64) []byte {
	if seq == ^uint64(0) {
		return tagKeyFor(aid, tagEntry+1, 0)
	}
	return binary.BigEndian.AppendUint64(tagKeyFor(aid, tagEntry, numberBytes), seq+1)
}
