package event_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// A token's successor is the same each time and on each node, in the form of a token, and takes both the token and the nonce.
func TestResumeToken_Successor(t *testing.T) {
	token := event.ResumeTokenOf(strings.Repeat("a2", 26))
	var nonce [32]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	next := token.Successor(nonce)
	require.Equal(t, event.ResumeTokenOf("ozzvsdeo4bbwpqgqaubl4x5e4lga4bo653qrnwago4yc5nqd4opq"), next, "HMAC-SHA256 by another implementation")
	require.NoError(t, next.Validate())
	require.NotEqual(t, next, event.NewResumeToken().Successor(nonce))
	nonce[31]++
	require.NotEqual(t, next, token.Successor(nonce))
}
