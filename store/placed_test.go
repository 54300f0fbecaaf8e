package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
)

func TestNewPlaced(t *testing.T) {
	require.Nil(t, store.NewPlaced(nil))
	for _, inboxes := range [][]int{{0}, {1}, {2}, {3}, {1, 2, 40}} {
		messages := make([]store.Message, len(inboxes))
		for i, n := range inboxes {
			messages[i].To = make([]store.Inbox, n)
		}
		placed := store.NewPlaced(messages)
		require.Len(t, placed, len(inboxes))
		for i, n := range inboxes {
			require.Len(t, placed[i].To, n)
			require.Equal(t, n, cap(placed[i].To), "what is appended reaches nobody else's")
		}
	}
}
