package boltstore

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// FuzzCutMessage checks that a message whose payload is found in its row is the one that is decoded.
func FuzzCutMessage(f *testing.F) {
	m := newMessage(&store.Message{ID: "m", Kind: "k", From: "f", Conversation: "c"}, 5)
	for _, row := range [][]byte{
		messageRow(m, []byte("payload")), messageRow(m, nil), appendBlob(m.appendHeader(nil), 9, 3), {},
		binary.AppendUvarint(m.appendHeader(nil), math.MaxUint64),
	} {
		f.Add(row)
		f.Add(append(row, "places"...))
		f.Add(row[:len(row)/2])
	}
	f.Fuzz(func(t *testing.T, row []byte) {
		want, err := decodeMessage(string(row))
		c, ok := cutMessage(row)
		require.Equal(t, err == nil && want.payload.blob == 0, ok)
		if !ok {
			return
		}
		require.Equal(t, want.payload.inline, string(row[c.payload[0]:c.payload[1]]))
		require.Equal(t, [...]uint64{uint64(want.flags), want.time, want.expires, want.of, want.inboxes}, c.numbers)
		var one, other event.Entry
		want.fill(&one)
		c.fill(&other, string(row[:c.payload[0]]))
		require.Equal(t, one, other)
	})
}

func TestPageMemory(t *testing.T) {
	r := pageReader{left: 3}
	a, b := r.keepBody([]byte("aa")), r.keepBody([]byte("bb"))
	require.Equal(t, 6, cap(r.body), "room for those to come")
	require.Equal(t, 2, cap(a), "whoever appends to a payload does not reach the next")
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
