package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func TestMerge(t *testing.T) {
	old := event.State{Conversation: "c", Name: "n", Number: 5, Value: []byte("v"), Seq: 9}
	for _, c := range []struct {
		name    string
		old     *event.State
		rule    store.MergeRule
		number  uint64
		value   string
		want    event.State
		changed bool
	}{
		{name: "max: new", rule: store.MergeMax, number: 3, want: event.State{Number: 3}, changed: true},
		{name: "max: new and zero", rule: store.MergeMax, changed: true},
		{name: "max: higher", old: &old, rule: store.MergeMax, number: 6, value: "w",
			want: event.State{Number: 6, Value: []byte("w"), Seq: 9}, changed: true},
		{name: "max: equal, other value", old: &old, rule: store.MergeMax, number: 5, value: "w", want: old},
		{name: "max: lower", old: &old, rule: store.MergeMax, number: 4, value: "v", want: old},
		{name: "last: new", rule: store.MergeLast, value: "w", want: event.State{Value: []byte("w")}, changed: true},
		{name: "last: same", old: &old, rule: store.MergeLast, number: 5, value: "v", want: old},
		{name: "last: lower number", old: &old, rule: store.MergeLast, number: 4, value: "v",
			want: event.State{Number: 4, Value: []byte("v"), Seq: 9}, changed: true},
		{name: "last: other value", old: &old, rule: store.MergeLast, number: 5, value: "w",
			want: event.State{Number: 5, Value: []byte("w"), Seq: 9}, changed: true},
		{name: "last: emptied", old: &old, rule: store.MergeLast, number: 5,
			want: event.State{Number: 5, Seq: 9}, changed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := store.StateUpdate{Conversation: "c", Name: "n", Merge: c.rule, Number: c.number}
			if c.value != "" {
				u.Value = []byte(c.value)
			}
			c.want.Conversation, c.want.Name = "c", "n"
			got, changed := store.Merge(c.old, u)
			require.Equal(t, c.changed, changed)
			require.Equal(t, c.want, got)
			require.Equal(t, event.State{Conversation: "c", Name: "n", Number: 5, Value: []byte("v"), Seq: 9}, old)
		})
	}
}

// TestMerge_Order checks that markers do not depend on the order in which updates come, which stores that complete a
// batch later rely on.
func TestMerge_Order(t *testing.T) {
	updates := []uint64{7, 0, 12, 12, 3}
	for i := range updates {
		var state *event.State
		for j := range updates {
			next, _ := store.Merge(state, store.StateUpdate{Name: "n", Number: updates[(i+j)%len(updates)]})
			state = &next
		}
		require.EqualValues(t, 12, state.Number)
	}
}
