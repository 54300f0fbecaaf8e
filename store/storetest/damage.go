package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Damage says what [Harness.Damage] makes unreadable.
type Damage struct {
	// Bytes are 64 printable characters. They stand in what is to be damaged, one or more times, and in nothing else that the
	// store holds: a harness for a store in files finds them there, see [FlipBits], whatever the layout is.
	Bytes []byte
	// Account has it, and Method reads it: Load its record, States a register, Read the payload of an entry.
	Account event.Account
	Method  Method
}

func damage(h *Harness) string {
	return unless(h.Damage != nil && h.Corrupt != nil, "Harness.Damage and Harness.Corrupt are not set")
}

// needle returns the bytes of a damage, which are others each time.
func (f *fixture) needle() []byte {
	n := bytes.Repeat([]byte{'#'}, 64)
	copy(n, fmt.Sprint("damaged/", f.issuer.Issue()))
	return n
}

var damageRules = []rule{
	{name: "damage: of a payload, an error for those who read it", skip: damage, check: func(f *fixture) { checkDamaged(f, 3) }},
	{name: "damage: of a long payload, an error for those who read it", skip: damage, check: func(f *fixture) { checkDamaged(f, 3000) }},
	{name: "damage: of a record, an error for those who load it", skip: damage, check: func(f *fixture) {
		n := f.needle()
		rev := f.record("ann", 0, string(n))
		list := f.fill("ann", 3)
		f.neighbours()
		f.s = f.h.Damage(f.t, f.s, Damage{Bytes: n, Account: "ann", Method: Load})
		for range 2 {
			_, err := f.s.Load(f.ctx, "ann")
			require.ErrorIs(f.t, err, f.h.Corrupt)
			f.covers("ann", store.ReadOptions{Limit: 10}, list)
			f.unharmed()
		}
		if err := f.s.Delete(f.ctx, "ann", rev); err != nil { // a store may no longer know the revision
			require.ErrorIs(f.t, err, f.h.Corrupt)
		}
		f.unharmed()
	}},
	{name: "damage: of a register, an error for those who ask for it", skip: damage, check: func(f *fixture) {
		n := f.needle()
		f.set("ann", marker(5), setting(string(n)))
		list := f.fill("ann", 3)
		f.neighbours()
		f.s = f.h.Damage(f.t, f.s, Damage{Bytes: n, Account: "ann", Method: States})
		for range 2 {
			_, err := f.s.States(f.ctx, "ann", store.StateOptions{Limit: 10})
			require.ErrorIs(f.t, err, f.h.Corrupt)
			f.covers("ann", store.ReadOptions{Limit: 10}, list)
			f.unharmed()
		}
	}},
}

// checkDamaged damages a payload that is the needle, several times over.
func checkDamaged(f *fixture, times int) {
	n := f.needle()
	before := f.fill("ann", 3)
	m := f.message("ann", "ann", "bob")
	m.Payload = bytes.Repeat(n, times)
	places := map[event.Account]uint64{}
	for _, p := range f.commit(f.batch("ann", m)).Messages[0].To {
		places[p.Account] = p.Seq
	}
	after := f.fill("ann", 3)
	f.fill("bob", 1)
	f.neighbours()
	f.s = f.h.Damage(f.t, f.s, Damage{Bytes: n, Account: "ann", Method: Read})
	for range 2 {
		for account, seq := range places {
			_, err := f.s.Read(f.ctx, account, store.ReadOptions{After: seq - 1, Limit: 1})
			require.ErrorIs(f.t, err, f.h.Corrupt)
		}
		_, err := f.s.Read(f.ctx, "ann", store.ReadOptions{Limit: 100})
		require.ErrorIs(f.t, err, f.h.Corrupt, "a page with it is no page without it")
		require.Equal(f.t, before, seqs(f.page("ann", store.ReadOptions{Limit: 3}).Entries))
		f.covers("ann", store.ReadOptions{After: after[0] - 1, Limit: 10}, after)
		f.unharmed()
		after = append(after, f.fill("ann", 1)...) // its account goes on
	}
	// The way out is to remove it.
	f.void("ann", places["ann"])
	f.trim("bob", f.head("bob").Seq, 10)
	f.covers("ann", store.ReadOptions{Limit: 100}, slices.Concat(before, after))
	require.Empty(f.t, f.all("bob"))
	f.unharmed()
}

// neighbours writes what is not to be damaged.
func (f *fixture) neighbours() {
	f.t.Helper()
	for _, a := range []event.Account{"an", "anna", "cat"} {
		f.record(a, 0, "record of "+string(a))
		f.set(a, marker(7), setting("setting of "+string(a)))
		f.fill(a, 20)
		f.save(store.Cursor{Account: a, Incarnation: 1, Seq: 3})
	}
}

// unharmed reads what neighbours wrote, writes a little, and checks that the store has not failed. If the store is durable it
// then closes it in good order and opens it again, which damage must not stop.
func (f *fixture) unharmed() {
	f.t.Helper()
	for _, a := range []event.Account{"an", "anna", "cat"} {
		require.Equal(f.t, "record of "+string(a), string(f.load(a).Data))
		states := f.states(a, store.StateOptions{})
		require.Len(f.t, states, 2)
		require.Equal(f.t, "setting of "+string(a), string(states[0].Value))
		require.EqualValues(f.t, 7, states[1].Number)
		require.Len(f.t, f.all(a), 20)
		require.Contains(f.t, f.cursors(a), event.Incarnation(1))
		f.void(a, f.fill(a, 1)...)
	}
	require.Subset(f.t, f.accounts(2), []event.Account{"an", "anna", "cat"})
	f.notFailed()
	if f.h.Capabilities.Durable {
		f.s = f.h.Reopen(f.t, f.s)
	}
}

// FlipBits is help for [Harness.Damage] of a store in files: it changes one bit in each place where the bytes stand in one of
// the files, which are closed. Files that are not there are passed over, but the bytes must stand somewhere. It expects them
// as they are: not compressed, not enciphered, and in one piece.
func FlipBits(t *testing.T, data []byte, files ...string) {
	t.Helper()
	n := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		info, err := os.Stat(name)
		require.NoError(t, err)
		for at := bytes.Index(text, data); at >= 0; at = bytes.Index(text, data) {
			text[at+len(data)/2] ^= 1
			n++
		}
		require.NoError(t, os.WriteFile(name, text, info.Mode().Perm()))
	}
	require.Positive(t, n, "what is to be damaged is in none of the files")
}
