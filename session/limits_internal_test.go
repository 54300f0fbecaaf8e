package session

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestProtocolDoc_Limits: the limits in docs/protocol.md are those of the code.
func TestProtocolDoc_Limits(t *testing.T) {
	page, err := os.ReadFile("../docs/protocol.md")
	require.NoError(t, err)
	for _, text := range []string{
		fmt.Sprintf("silence before a connection counts as lost | %d s |", Config{}.withDefaults().IdleTimeout/time.Second),
		fmt.Sprintf("512 bytes, %d bytes, 4 KiB |", maxNote),
	} {
		require.Contains(t, string(page), text)
	}
}
