package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func messageRow(m message, payload []byte) []byte { return appendInline(m.appendHeader(nil), payload) }

func TestCodecRoundTrip(t *testing.T) {
	long := strings.Repeat("k", store.MaxKeyBytes)
	for _, h := range []head{
		{epoch: 1},
		{epoch: math.MaxUint32, seq: math.MaxUint64, trim: 7, entries: 3, bytes: 1 << 40, attempts: 9, revision: 5, record: 4, oldest: 8},
	} {
		d := decoder{rest: string(h.append(nil))}
		got := d.head()
		require.NoError(t, d.done("head"))
		require.Equal(t, h, got)
	}
	for _, e := range []entry{
		{mid: 1},
		{mid: math.MaxUint64, flags: math.MaxUint16, ordinal: 3, size: store.MaxPayloadBytes, key: long, clientID: "c",
			origin: "o", targets: []event.Incarnation{1, math.MaxUint64}},
	} {
		got, err := decodeEntry(string(e.append(nil)))
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
		got, err := decodeMessage(string(messageRow(want, m.Payload)))
		require.NoError(t, err)
		want.payload = value{size: len(m.Payload), inline: string(m.Payload)}
		require.Equal(t, want, got)
		require.True(t, m.Expires.Equal(expiry(got.expires)))
		require.Equal(t, m.Expires.IsZero(), expiry(got.expires).IsZero())
	}
	for _, a := range []attempt{
		{digest: strings.Repeat("d", 32), expires: 1},
		{digest: strings.Repeat("d", 32), expires: 1, id: "m", placed: true, place: place{epoch: 2, seq: 3, ordinal: 4}},
	} {
		got, err := decodeAttempt(a.encode())
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	v, err := decodeRecord(string(appendBlob(nil, 5000, 9)))
	require.NoError(t, err)
	require.Equal(t, value{size: 5000, blob: 9}, v)
}

func TestCodecPlacesInRows(t *testing.T) {
	for _, n := range []int{1, 40, 1000} {
		var want, got []place
		for i := range n {
			name := strings.Repeat("x", 1+i%event.MaxIDBytes)
			want = append(want, place{account: event.Account(name), epoch: uint32(i), seq: math.MaxUint64 - uint64(i), ordinal: uint64(i)})
		}
		for _, row := range encodePlaces(want) {
			require.LessOrEqual(t, len(row), rowMax)
			places, err := decodePlaces(string(row))
			require.NoError(t, err)
			got = append(got, places...)
		}
		require.Equal(t, want, got)
	}
}

func TestCodecKeysAreInOrder(t *testing.T) {
	for _, keys := range [][]string{
		{numberRow(tagEntry, 1), numberRow(tagEntry, 255), numberRow(tagEntry, 256), numberRow(tagEntry, math.MaxUint64)},
		{stateRow("", "z"), stateRow("a", "a"), stateRow("a", "b"), stateRow("a!", "a"), stateRow("aa", "")},
		{cursorRow(9), deadRow(1), numberRow(tagEntry, 0), attemptRow("", "a"), attemptRow("d", "a"), keyRow("k"), countRow("c"), recordRow(), stateRow("", "s")},
	} {
		for i := range len(keys) - 1 {
			require.Less(t, keys[i], keys[i+1], "%d", i)
			require.Negative(t, bytes.Compare(runKey(7, keys[i]), runKey(7, keys[i+1])), "%d", i)
		}
		require.Negative(t, bytes.Compare(runKey(7, keys[len(keys)-1]), runKey(8, keys[0])))
	}
}

// decoders are all decoders of rows, keys and cursors, with an encoder for what they return.
var decoders = []struct {
	name   string
	decode func(string) (any, []byte, error)
}{
	{"slot", func(s string) (any, []byte, error) {
		h, err := decodeSlot(s)
		var b block
		b[0] = h
		var again []byte
		if e := b.encode(); h.epoch != 0 {
			again = e[5:]
		}
		return h, again, err
	}},
	{"entry", func(s string) (any, []byte, error) { e, err := decodeEntry(s); return e, e.append(nil), err }},
	{"message", func(s string) (any, []byte, error) {
		m, err := decodeMessage(s)
		if m.payload.blob != 0 {
			return m, append(appendBlob(m.appendHeader(nil), m.payload.size, m.payload.blob), m.places...), err
		}
		return m, append(messageRow(m, []byte(m.payload.inline)), m.places...), err
	}},
	{"places", func(s string) (any, []byte, error) {
		p, err := decodePlaces(s)
		var b []byte
		for i := range p {
			b = p[i].append(b)
		}
		return p, b, err
	}},
	{"attempt", func(s string) (any, []byte, error) { a, err := decodeAttempt(s); return a, []byte(a.encode()), err }},
	{"register", func(s string) (any, []byte, error) {
		r, err := decodeState(s)
		if r.value.blob != 0 {
			return r, appendBlob(r.encodeHeader(), r.value.size, r.value.blob), err
		}
		return r, appendInline(r.encodeHeader(), []byte(r.value.inline)), err
	}},
	{"cursor", func(s string) (any, []byte, error) {
		c, err := decodeCursor(s)
		return c, []byte(encodeCursor(&c)), err
	}},
	{"number", func(s string) (any, []byte, error) {
		n, err := number([]byte(s), "number")
		return n, numberKey(n), err
	}},
	{"count", func(s string) (any, []byte, error) {
		n, list, err := decodeCount(s)
		return [2]any{n, list}, []byte(encodeCount(n, list)), err
	}},
	{"references", func(s string) (any, []byte, error) { r, err := decodeReferences(s); return r, r.encode(), err }},
	{"heads", func(s string) (any, []byte, error) {
		b, err := decodeBlock([]byte(s))
		return b, b.encode(), err
	}},
}

// FuzzCutSlot checks that one slot of a block is found as by who reads them all.
func FuzzCutSlot(f *testing.F) {
	var b block
	for i := range b {
		if i%3 != 1 {
			b[i] = slot{head: head{epoch: 1, seq: uint64(i) << i}, folds: folds{last: uint64(i)}}
		}
	}
	f.Add(b.encode())
	f.Add(b.encode()[:50])
	f.Add([]byte{0, 0, 0, 1})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, row []byte) {
		all, err := decodeBlock(row)
		for i := range blockHeads {
			encoded, bad := cutSlot(row, i)
			switch {
			case err != nil: // this one may be all right
			case encoded == nil:
				require.NoError(t, bad)
				require.Zero(t, all[i])
			default:
				one, bad := decodeSlot(string(encoded))
				require.NoError(t, bad)
				require.Equal(t, all[i], one)
			}
		}
	})
}

// FuzzDecoders checks that no row makes a decoder panic or read beyond it, and that what it accepts means the same when
// encoded again.
func FuzzDecoders(f *testing.F) {
	e := entry{mid: 7, flags: 1, ordinal: 2, size: 3, key: "k", clientID: "c", origin: "o", targets: []event.Incarnation{4}}
	p := place{account: "a", epoch: 1, seq: 2, ordinal: 3}
	a := attempt{digest: strings.Repeat("d", 32), expires: 9, id: "m", placed: true, place: p}
	m := newMessage(&store.Message{ID: "m", Kind: "k", From: "f"}, 5)
	s := state{seq: 1, number: 2}
	h := head{epoch: 1, seq: 9, trim: 3}
	for i, row := range [][]byte{
		append(h.append(nil), 5, 3), e.append(nil), messageRow(m, []byte("p")), p.append(nil), []byte(a.encode()),
		appendInline(s.encodeHeader(), []byte("v")), []byte(encodeCursor(&store.Cursor{Seq: 1, Sent: 2})), numberKey(5),
		[]byte(encodeCount(5, []uint64{2, 3})), references{inboxes: 2, changes: 1}.encode(),
		(&block{3: {head: h, folds: folds{last: 5, bits: 3}}}).encode(),
	} {
		f.Add(byte(i), row)
		f.Add(byte(i), append(row, 0xff))
		f.Add(byte(i), binary.AppendUvarint(row[:len(row)/2], math.MaxUint64))
	}
	f.Fuzz(func(t *testing.T, kind byte, row []byte) {
		d := decoders[int(kind)%len(decoders)]
		v, again, err := d.decode(string(row))
		if err != nil {
			require.True(t, errors.Is(err, ErrCorrupt), d.name)
			return
		}
		v2, _, err := d.decode(string(again))
		require.NoError(t, err, d.name)
		require.True(t, reflect.DeepEqual(v, v2), "%s: %v, again %v", d.name, v, v2)
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
			require.Equal(t, s, encodeStateCursor(key))
		}
	})
}

// FuzzCheckFile checks that no file makes the look at it panic.
func FuzzCheckFile(f *testing.F) {
	const page = 1024
	f.Add([]byte{}, uint16(0), byte(0))
	f.Add(bytes.Repeat([]byte{1, 0, 2}, 3000), uint16(16), byte(4))
	f.Fuzz(func(t *testing.T, content []byte, at uint16, change byte) {
		file := testFile(page)
		file = append(file, content...)
		if i := 2*page + int(at); i < len(file) {
			file[i] ^= change
		}
		err := checkFile(bytes.NewReader(file), int64(len(file)), page)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	})
}

// testFile makes a file of two meta pages, a branch page and two leaf pages.
func testFile(page int) []byte {
	order := binary.NativeEndian
	b := make([]byte, 5*page)
	for i := range 5 {
		order.PutUint64(b[i*page:], uint64(i))
	}
	for i := range 2 {
		m := b[i*page+pageHeader:]
		order.PutUint32(m, metaMagic)
		order.PutUint64(m[16:], 2) // root
		order.PutUint64(m[32:], noFreelistPage)
		order.PutUint64(m[40:], 5) // end
		order.PutUint64(m[48:], uint64(i))
		h := fnv.New64a()
		h.Write(m[:56])
		order.PutUint64(m[56:], h.Sum64())
	}
	branch := b[2*page:]
	order.PutUint16(branch[8:], branchPage)
	order.PutUint16(branch[10:], 2)
	for i := range 2 {
		e := branch[pageHeader+i*elementBytes:]
		order.PutUint32(e, uint32((2-i)*elementBytes+i)) // "a", "b" behind the elements
		order.PutUint32(e[4:], 1)
		order.PutUint64(e[8:], uint64(3+i))
		branch[pageHeader+2*elementBytes+i] = 'a' + byte(i)
		leaf := b[(3+i)*page:]
		order.PutUint16(leaf[8:], leafPage)
		order.PutUint16(leaf[10:], 1)
		e = leaf[pageHeader:]
		order.PutUint32(e[4:], elementBytes)
		order.PutUint32(e[8:], 1)
		order.PutUint32(e[12:], 20)
		leaf[pageHeader+elementBytes] = 'a' + byte(i)
	}
	return b
}

func TestCheckFile(t *testing.T) {
	const page = 1024
	order := binary.NativeEndian
	check := func(change func(b []byte)) error {
		b := testFile(page)
		change(b)
		return checkFile(bytes.NewReader(b), int64(len(b)), page)
	}
	require.NoError(t, check(func([]byte) {}))
	require.NoError(t, check(func(b []byte) { clear(b[:page]) }), "one meta page is enough")
	for name, change := range map[string]func(b []byte){
		"no meta page":        func(b []byte) { clear(b[:2*page]) },
		"wrong page number":   func(b []byte) { b[3*page]++ },
		"wrong type":          func(b []byte) { b[3*page+8] = 0x04 },
		"empty branch":        func(b []byte) { order.PutUint16(b[2*page+10:], 0) },
		"too many elements":   func(b []byte) { order.PutUint16(b[3*page+10:], 64) },
		"too many pages":      func(b []byte) { order.PutUint32(b[3*page+12:], 9) },
		"page used twice":     func(b []byte) { order.PutUint64(b[2*page+pageHeader+8:], 4) },
		"page refers to self": func(b []byte) { order.PutUint64(b[2*page+pageHeader+8:], 2) },
		"page beyond the end": func(b []byte) { order.PutUint64(b[2*page+pageHeader+8:], 5) },
		"page is a meta page": func(b []byte) { order.PutUint64(b[2*page+pageHeader+8:], 1) },
		"key beyond the page": func(b []byte) { order.PutUint32(b[3*page+pageHeader+8:], page) },
		"value beyond":        func(b []byte) { order.PutUint32(b[3*page+pageHeader+12:], math.MaxUint32) },
		"key in the elements": func(b []byte) { order.PutUint32(b[3*page+pageHeader+4:], 3) },
		"keys out of order":   func(b []byte) { b[2*page+pageHeader+2*elementBytes] = 'c' },
		"bucket elsewhere": func(b []byte) {
			order.PutUint32(b[3*page+pageHeader:], bucketElement)
			order.PutUint64(b[3*page+pageHeader+elementBytes+1:], 77)
		},
		"short inline bucket": func(b []byte) { order.PutUint32(b[3*page+pageHeader:], bucketElement) },
	} {
		require.ErrorIs(t, check(change), ErrCorrupt, name)
	}
	b := testFile(page)
	require.ErrorIs(t, checkFile(bytes.NewReader(b), 4*page, page), ErrCorrupt, "cut short")
}
