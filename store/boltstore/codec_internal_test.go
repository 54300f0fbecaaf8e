package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func TestCodecRoundTrip(t *testing.T) {
	long := strings.Repeat("k", store.MaxKeyBytes)
	for _, h := range []head{
		{generation: 1},
		{generation: math.MaxUint32, seq: math.MaxUint64, trim: 7, entries: 3, bytes: 1 << 40, attempts: 9, revision: 5, record: 4, recount: 8},
	} {
		got, err := decodeHead(h.append(nil, 77), 77)
		require.NoError(t, err)
		require.Equal(t, h, got)
		_, err = decodeHead(h.append(nil, 77), 78)
		require.ErrorIs(t, err, ErrCorrupt, "another account's")
	}
	for _, e := range []entry{
		{message: []byte("m")},
		{message: []byte("m"), flags: math.MaxUint16, ordinal: 3, countedIn: []byte("talk"), size: store.MaxPayloadBytes, key: long, clientID: "c",
			origin: "o", targets: []event.Incarnation{1, math.MaxUint64}},
	} {
		got, err := decodeEntry(e.append(nil))
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	now := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for _, m := range []store.Message{
		{ID: "m", Kind: "k", From: "f"},
		{ID: "m", Kind: "k", From: "f", Conversation: "c", Flags: math.MaxUint16, Expires: now, Payload: []byte("p")},
		{ID: "m", Kind: "k", From: "f", Expires: time.UnixMilli(0)},
	} {
		want := newMessage(&m, uint64(now.UnixMilli()))
		want.payload, want.places, want.of = append([]byte{}, m.Payload...), []byte("places"), []byte("of")
		got, err := decodeMessage(want.append(nil))
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.True(t, m.Expires.Equal(expiry(got.expires)))
		require.Equal(t, m.Expires.IsZero(), expiry(got.expires).IsZero())
	}
	for _, a := range []attempt{
		{digest: bytes.Repeat([]byte("d"), digestBytes), expires: 1},
		{digest: bytes.Repeat([]byte("d"), digestBytes), expires: 1, id: "m", placed: true, place: place{generation: 2, seq: 3, ordinal: 4}},
	} {
		got, err := decodeAttempt(a.append(nil))
		require.NoError(t, err)
		require.Equal(t, a, got)
		at, err := attemptExpiry(a.append(nil))
		require.NoError(t, err)
		require.Equal(t, a.expires, at)
	}
	data, err := decodeRecord([]byte{recordMark, 'd'})
	require.NoError(t, err)
	require.Equal(t, "d", string(data))
	for _, bad := range [][]byte{nil, {}, {recordMark + 1, 'd'}} {
		_, err := decodeRecord(bad)
		require.ErrorIs(t, err, ErrCorrupt)
	}
}

func TestCodecKeysAreInOrder(t *testing.T) {
	keys := func(all ...[]byte) [][]byte { return all }
	for _, keys := range [][][]byte{
		keys(entryRow(nil, 1), entryRow(nil, 255), entryRow(nil, 256), entryRow(nil, math.MaxUint64)),
		keys(stateRow(nil, "", "z"), stateRow(nil, "a", "a"), stateRow(nil, "a", "b"), stateRow(nil, "a!", "a"), stateRow(nil, "aa", "")),
		keys(cursorRow(nil, 9), entryRow(nil, 0), handRow, attemptRow(nil, "", "a"), attemptRow(nil, "d", "a"), keyRow(nil, "k"),
			countRow(nil, "c"), recordRow, stateRow(nil, "", "s")),
	} {
		for i := range len(keys) - 1 {
			require.Negative(t, bytes.Compare(keys[i], keys[i+1]), "%q %q", keys[i], keys[i+1])
		}
	}
}

// The key of a message follows from its ID, and the ID from the key. Messages of one issuer are next to each other.
func TestMessageKeys(t *testing.T) {
	k := messageKeys{event.NewIssuer(event.NewIDKey())}
	foreign := event.NewIssuer(event.NewIDKey()).Issue()
	first, second := k.issuer.Issue(), k.issuer.Issue()
	for _, id := range []event.MessageID{first, second, foreign, "m", event.MessageID(strings.Repeat("x", event.MaxIDBytes))} {
		require.Equal(t, id, k.id(k.key(nil, id)))
	}
	a, b := k.key(nil, first), k.key(nil, second)
	require.Equal(t, binary.BigEndian.Uint64(a[5:])+1, binary.BigEndian.Uint64(b[5:]))
	require.Equal(t, a[:5], b[:5])
	for _, bad := range []string{"", "\x01", "\x02", "\x02\x00", "\x02m", "\x03m\x00", "\x01123456789012345"} {
		require.Empty(t, k.id([]byte(bad)), "%q", bad)
	}
	// No key begins with another one: rows of a message are told apart from those of all others.
	require.False(t, bytes.HasPrefix(k.key(nil, "mm"), k.key(nil, "m")))
}

func TestCutAccount(t *testing.T) {
	part := append([]byte("ann"), generation(7)...)
	for _, want := range []string{"", "e", "e\x00\x00"} {
		name, generation, rest, ok := cutAccount(append(bytes.Clone(part), want...))
		require.True(t, ok)
		require.EqualValues(t, "ann", name)
		require.EqualValues(t, 7, generation)
		require.Equal(t, want, string(rest))
	}
	for _, bad := range []string{"", "ann", "\x00\x00\x00\x00\x07", "annn\x00\x00\x00\x07"} {
		_, _, _, ok := cutAccount([]byte(bad))
		require.False(t, ok, "%q", bad)
	}
}

// decoders are all decoders of rows, keys and cursors, with an encoder for what they return.
var decoders = []struct {
	name   string
	decode func([]byte) (any, []byte, error)
}{
	{"head", func(b []byte) (any, []byte, error) { h, err := decodeHead(b, 7); return h, h.append(nil, 7), err }},
	{"entry", func(b []byte) (any, []byte, error) { e, err := decodeEntry(b); return e, e.append(nil), err }},
	{"message", func(b []byte) (any, []byte, error) { m, err := decodeMessage(b); return m, m.append(nil), err }},
	{"places", func(b []byte) (any, []byte, error) {
		p, err := decodePlaces(b)
		var again []byte
		for i := range p {
			again = p[i].append(again)
		}
		return p, again, err
	}},
	{"attempt", func(b []byte) (any, []byte, error) { a, err := decodeAttempt(b); return a, a.append(nil), err }},
	{"register", func(b []byte) (any, []byte, error) { r, err := decodeState(b); return r, r.append(nil), err }},
	{"cursor", func(b []byte) (any, []byte, error) { c, err := decodeCursor(b); return c, appendCursor(nil, &c), err }},
	{"count", func(b []byte) (any, []byte, error) {
		n, list, err := decodeCount(b)
		return [2]any{n, list}, appendCount(nil, n, list), err
	}},
	{"references", func(b []byte) (any, []byte, error) { r, err := decodeReferences(b); return r, r.append(nil), err }},
	{"number", func(b []byte) (any, []byte, error) {
		n, err := number(b, "number")
		return n, binary.BigEndian.AppendUint64(nil, n), err
	}},
	{"record", func(b []byte) (any, []byte, error) {
		d, err := decodeRecord(b)
		return d, append([]byte{recordMark}, d...), err
	}},
}

// FuzzDecoders checks that no row makes a decoder panic or read beyond it, and that what it accepts means the same when
// encoded again.
func FuzzDecoders(f *testing.F) {
	e := entry{message: []byte("m"), flags: 1, ordinal: 2, countedIn: []byte("t"), size: 3, key: "k", clientID: "c", origin: "o", targets: []event.Incarnation{4}}
	p := place{account: "a", generation: 1, seq: 2, ordinal: 3}
	a := attempt{digest: bytes.Repeat([]byte("d"), digestBytes), expires: 9, id: "m", placed: true, place: p}
	m := newMessage(&store.Message{ID: "m", Kind: "k", From: "f"}, 5)
	m.payload, m.places = []byte("p"), p.append(nil)
	s := state{seq: 1, number: 2, value: []byte("v")}
	h := head{generation: 1, seq: 9, trim: 3}
	for i, row := range [][]byte{
		h.append(nil, 7), e.append(nil), m.append(nil), p.append(nil), a.append(nil), s.append(nil),
		appendCursor(nil, &store.Cursor{Seq: 1, Sent: 2}), appendCount(nil, 5, []uint64{2, 3}),
		references{inboxes: 2, changes: 1}.append(nil), binary.BigEndian.AppendUint64(nil, 5), {recordMark, 5},
	} {
		f.Add(byte(i), row)
		f.Add(byte(i), append(bytes.Clone(row), 0xff))
		f.Add(byte(i), binary.AppendUvarint(bytes.Clone(row[:len(row)/2]), math.MaxUint64))
	}
	f.Fuzz(func(t *testing.T, kind byte, row []byte) {
		d := decoders[int(kind)%len(decoders)]
		v, again, err := d.decode(row)
		if err != nil {
			require.True(t, errors.Is(err, ErrCorrupt), d.name)
			return
		}
		v2, _, err := d.decode(again)
		require.NoError(t, err, d.name)
		require.True(t, reflect.DeepEqual(v, v2), "%s: %v, again %v", d.name, v, v2)
	})
}

// FuzzCutMessage checks that a message whose payload is found in its row is the one that is decoded.
func FuzzCutMessage(f *testing.F) {
	m := newMessage(&store.Message{ID: "m", Kind: "k", From: "f", Conversation: "c"}, 5)
	apart, changes, full := m, m, m
	apart.apart, changes.of, full.payload = true, []byte("of"), []byte("payload")
	for _, row := range [][]byte{
		m.append(nil), apart.append(nil), changes.append(nil), full.append(nil), {},
		binary.AppendUvarint(m.append(nil), math.MaxUint64),
	} {
		f.Add(row)
		f.Add(append(bytes.Clone(row), "places"...))
		f.Add(row[:len(row)/2])
	}
	f.Fuzz(func(t *testing.T, row []byte) {
		want, err := decodeMessage(row)
		c, ok := cutMessage(row)
		require.Equal(t, err == nil && !want.apart, ok)
		if !ok {
			return
		}
		require.Equal(t, string(want.payload), string(row[c.payload[0]:c.payload[1]]))
		require.Equal(t, [...]uint64{uint64(want.flags), want.time, want.expires, want.inboxes}, c.numbers)
		var one, other event.Entry
		want.fill(&one)
		c.fill(&other, string(row[:c.payload[0]]))
		require.Equal(t, one, other)
	})
}

// FuzzStateCursor checks that any cursor of a caller's is either refused or a key in the registers' range.
func FuzzStateCursor(f *testing.F) {
	for _, s := range []string{"", "talk\nread", "\nread", "\n", "\x00", "a\nb\nc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, ok := decodeStateCursor(s)
		if !ok || s == "" {
			return
		}
		require.Contains(t, s, "\n")
		require.Contains(t, key, "\x00")
		if !strings.Contains(s, "\x00") { // no cursor that was given out does
			require.Equal(t, s, encodeStateCursor([]byte(key)))
		}
	})
}

func TestPageMemory(t *testing.T) {
	r := pageReader{left: 3}
	a, b := r.keepBody([]byte("aa")), r.keepBody([]byte("bb"))
	require.Equal(t, 6, cap(r.body), "room for those to come")
	require.Equal(t, 2, cap(a), "an append to a payload does not reach the next")
	long := r.keepBody(make([]byte, bodyBlock))
	require.Equal(t, []string{"aa", "bb", "cc"}, []string{string(a), string(b), string(r.keepBody([]byte("cc")))})
	require.Len(t, long, bodyBlock)
	r.left = 1_000_000
	require.Len(t, r.keepBody(make([]byte, 100)), 100)
	require.LessOrEqual(t, cap(r.body), bodyBlock)
	r.left = 0
	c, d := r.keepText([]byte("c")), r.keepText(make([]byte, 2*textBlock))
	require.Equal(t, "c", c)
	require.Len(t, d, 2*textBlock)
}
