package memstore_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

// FuzzCursors checks that any cursor of a caller's is either refused or a place from which registers, or counts, go on in order.
func FuzzCursors(f *testing.F) {
	s := memstore.New(memstore.Config{})
	_, err := s.Commit(f.Context(), store.Batch{Account: "ann", Now: time.UnixMilli(1), States: []store.StateUpdate{
		{Conversation: "", Name: "a"}, {Conversation: "c1", Name: "a"}, {Conversation: "c1", Name: "c"}, {Conversation: "c2", Name: "b"},
	}})
	require.NoError(f, err)
	for _, c := range []string{"", "\n", "c1\na", "c1\nb", "c2\n", "nonsense", "\xff\n\n", "c1"} {
		f.Add(c, "")
		f.Add(c, "c1")
	}
	f.Fuzz(func(t *testing.T, cursor, conversation string) {
		one := event.ConversationID(conversation)
		page, err := s.States(t.Context(), "ann", store.StateOptions{Conversation: one, Limit: 2, Cursor: cursor})
		if err != nil {
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(t, ok, "%v", err)
		}
		require.True(t, slices.IsSortedFunc(page.States, func(a, b event.State) int {
			return slices.Compare([]string{string(a.Conversation), a.Name}, []string{string(b.Conversation), b.Name})
		}))
		for _, st := range page.States {
			require.True(t, one == "" || st.Conversation == one)
		}
		_, err = s.Conversations(t.Context(), "ann", store.ConversationOptions{Conversation: one, Limit: 2, Cursor: cursor})
		if err != nil {
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(t, ok, "%v", err)
		}
	})
}
