package fanout

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// TestProtocolDoc_Limits: the limits in docs/protocol.md are those of the code.
func TestProtocolDoc_Limits(t *testing.T) {
	page, err := os.ReadFile("../docs/protocol.md")
	require.NoError(t, err)
	cfg, err := Config{}.withDefaults()
	require.NoError(t, err)
	for _, row := range []string{
		fmt.Sprintf("frame from the engine, from a client | %d MiB, %d KiB", event.MaxFrameBytes>>20, event.MaxClientFrameBytes>>10),
		fmt.Sprintf("ids; names, `code`, `nonce` | %d bytes; %d characters", event.MaxIDBytes, event.MaxNameRunes),
		fmt.Sprintf("`data` of a claim | %d bytes, 512 bytes, %d KiB", store.MaxKeyBytes, MaxClaimBytes>>10),
		fmt.Sprintf("payload of a message | %d KiB", MaxPayloadBytes>>10),
		fmt.Sprintf("memory of client message IDs | %d h, 16,384 of an account", idempotencyHours/time.Hour),
		fmt.Sprintf("entries sent ahead of acknowledgements | %d, and %d MiB of payloads", cfg.Window, cfg.WindowBytes>>20),
		fmt.Sprintf("wait for an acknowledgement or `resetAck` | %d s", cfg.AckWait/time.Second),
		fmt.Sprintf("live-only events that wait for a connection, and how long | %d, %d s", cfg.LiveRing, cfg.LiveLife/time.Second),
	} {
		require.Contains(t, string(page), row+" |\n")
	}
	require.Equal(t, 16_384, idempotencyMax)
	require.Contains(t, string(page), fmt.Sprintf("forgets all but the %d highest", store.MaxUncounted))
}
