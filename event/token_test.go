package event_test

import (
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
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

// TestI24_ATokenIsHandedOutByAnExplicitStep (K10.5): what encodes a token by itself writes a placeholder, which nothing takes
// for a token: a host that forgot Reveal learns it from the first client that comes back.
func TestI24_ATokenIsHandedOutByAnExplicitStep(t *testing.T) {
	type answer struct {
		Token event.ResumeToken `json:"token"`
		Next  event.ResumeToken `json:"next,omitzero"`
	}
	token := event.NewResumeToken()
	b, err := json.Marshal(answer{Token: token})
	require.NoError(t, err)
	require.JSONEq(t, `{"token":"[resume token]"}`, string(b))

	var got answer
	err = json.Unmarshal(b, &got)
	requireInvalid(t, err, "resume token", token.Reveal())
	require.ErrorContains(t, err, "without Reveal")
	requireInvalid(t, event.ResumeTokenOf("[resume token]").Validate(), "resume token", token.Reveal())
	require.ErrorContains(t, event.ResumeTokenOf("[resume token]").Validate(), "without Reveal")

	require.NoError(t, json.Unmarshal([]byte(`{"token":"`+token.Reveal()+`"}`), &got), "reading needs no step")
	require.True(t, got.Token == token)
	require.NoError(t, json.Unmarshal([]byte(`{"token":"x"}`), &got), "a wrong one is for Validate to refuse")
	requireInvalid(t, got.Token.Validate(), "resume token", "")
	require.ErrorContains(t, gob.NewEncoder(io.Discard).Encode(answer{Token: token}), "no exported fields", "other encoders fail")
}

// A client does not take the placeholder for its token, whether the host's encoder or ours was meant to write the frame.
func TestI24_NoClientKeepsThePlaceholder(t *testing.T) {
	text := `{"t":"welcome","login":"7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o","position":{"epoch":"1","seq":"0"},"head":"0","token":"[resume token]"}`
	_, err := event.DecodeFrame([]byte(text))
	require.ErrorContains(t, err, "without Reveal")
	_, err = event.DecodeFrame([]byte(strings.Replace(text, "[resume token]", "any other", 1)))
	require.NoError(t, err)
}

// recorder keeps what a failed assertion says.
type recorder struct{ strings.Builder }

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(&r.Builder, format, args...) }

// TestI24_NothingThatFollowsPointersShowsASecret (K10.5): testify shows how two values differ by a dump that calls no methods and
// follows each pointer, so the output of a host's tests would have the tokens.
func TestI24_NothingThatFollowsPointersShowsASecret(t *testing.T) {
	type held struct {
		Name  string
		Token event.ResumeToken
		next  *event.ResumeToken
		key   event.IDKey
	}
	all := make([]held, 2)
	for i := range all {
		next := event.NewResumeToken()
		all[i] = held{strings.Repeat("x", i), event.NewResumeToken(), &next, event.NewIDKey()}
	}
	var r recorder
	require.False(t, assert.Equal(&r, all[0], all[1]))
	require.False(t, assert.Equal(&r, all[0].Token, all[1].Token))
	require.False(t, assert.Contains(&r, all[:1], all[1]))
	require.Contains(t, r.String(), "Diff:")
	for _, h := range all {
		key := h.key.Reveal()
		for _, secret := range []string{h.Token.Reveal(), h.next.Reveal(), string(key[:]), strings.Trim(fmt.Sprintf("%q", key[:]), `"`), fmt.Sprintf("%x", key)} {
			require.NotContains(t, r.String(), secret)
		}
	}
}

// The zero token is none, whichever way it comes to be, and tokens of one text are equal.
func TestResumeToken_Zero(t *testing.T) {
	var none event.ResumeToken
	for _, token := range []event.ResumeToken{none, event.ResumeTokenOf(""), {}} {
		require.True(t, token.IsZero())
		require.True(t, token == none)
		require.Empty(t, token.Reveal())
		require.Empty(t, fmt.Sprint(token))
		require.Error(t, token.Validate())
	}
	require.NoError(t, json.Unmarshal([]byte(`""`), &none))
	require.True(t, none.IsZero())
	token := event.NewResumeToken()
	require.False(t, token.IsZero())
	require.True(t, token == event.ResumeTokenOf(token.Reveal()))
	require.False(t, token == event.NewResumeToken())
	require.NoError(t, json.Unmarshal([]byte(`null`), &token))
}

// The bytes of a store's key come back as they were, and no others do.
func TestIDKey(t *testing.T) {
	key := event.NewIDKey()
	require.True(t, event.IDKeyOf(key.Reveal()) == key)
	require.False(t, key == event.NewIDKey())
	require.Zero(t, event.IDKeyOf([32]byte{}))
	require.Zero(t, event.IDKey{}.Reveal())
	require.True(t, event.NewIssuer(event.IDKeyOf(key.Reveal())).Issued(event.NewIssuer(key).Issue()))
	require.False(t, event.NewIssuer(event.NewIDKey()).Issued(event.NewIssuer(key).Issue()))
}
