package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
)

func TestLiveness_String(t *testing.T) {
	require.Equal(t, "cannot tell live dead Liveness(9)",
		store.CannotTell.String()+" "+store.Live.String()+" "+store.Dead.String()+" "+store.Liveness(9).String())
}
