package event

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"unique"
)

// ResumeToken is the secret with which a device comes back to its login: 256 random bits as 52 characters of lowercase
// base32. The zero value is no token. Tokens can be compared with ==.
//
// Nothing shows a token by itself. It prints as a placeholder by every verb of fmt, in every log handler and encoded as
// text, JSON or XML, whatever holds it, in an unexported field too. [ResumeToken.Reveal] returns the text, so a host that
// hands a login to its client takes that step:
//
//	answer := map[string]string{"login": string(res.Session.Login), "token": res.Token.Reveal()}
//
// One that forgets it sends the placeholder. [ResumeToken.Validate] refuses that, and so all calls that take a token, and
// so does decoding a ResumeToken from JSON. Other encoders, such as encoding/gob, fail.
type ResumeToken struct {
	text hidden
}

// hidden is a masked text behind a pointer. What prints fields without their methods, as fmt does with unexported ones, shows
// where it is. The pointer must be to a string: fmt follows pointers to structs, arrays, slices and maps if a verb does not suit
// them. What follows every pointer, as the dumps do with which testify shows a difference, finds the mask. The zero value is
// no text.
type hidden = unique.Handle[string]

func hide(text string) hidden { return unique.Make(masked(text)) }

func reveal(h hidden) string { return masked(h.Value()) }

// mask is drawn once in a process. It keeps texts out of what is printed, not from those who look for them.
var mask = sync.OnceValue(func() (m [64]byte) {
	rand.Read(m[:])
	return m
})

// masked puts the mask on a text, or takes it off.
func masked(text string) string {
	m := mask()
	b := append(make([]byte, 0, len(m)), text...)
	for i := range b {
		b[i] ^= m[i%len(m)]
	}
	return string(b)
}

const tokenPlaceholder = "[resume token]"

// ResumeTokenOf takes a text for a token, as it came from a client. It is not checked; see [ResumeToken.Validate].
func ResumeTokenOf(text string) ResumeToken {
	if text == "" {
		return ResumeToken{}
	}
	return ResumeToken{hide(text)}
}

// NewResumeToken returns a fresh secret of 256 bits from crypto/rand.
func NewResumeToken() ResumeToken {
	var b [32]byte
	rand.Read(b[:])
	return ResumeTokenOf(base32Lower.EncodeToString(b[:]))
}

// Reveal returns the text of the token, for its owner and nobody else; empty if there is none.
func (t ResumeToken) Reveal() string {
	if t.IsZero() {
		return ""
	}
	return reveal(t.text)
}

// IsZero reports whether there is no token.
func (t ResumeToken) IsZero() bool { return t == ResumeToken{} }

// Validate reports whether t has the form of a resume token.
func (t ResumeToken) Validate() error {
	switch text := t.Reveal(); {
	case text == tokenPlaceholder:
		return &InvalidError{Field: "resume token", Reason: "a placeholder: the token was printed or encoded without Reveal"}
	case !isBase32(text, resumeTokenBytes):
		return &InvalidError{Field: "resume token", Reason: "want 52 characters of lowercase base32"}
	}
	return nil
}

// String hides the token: it returns a placeholder, or nothing if there is no token.
func (t ResumeToken) String() string {
	if t.IsZero() {
		return ""
	}
	return tokenPlaceholder
}

// GoString hides the token.
func (t ResumeToken) GoString() string { return t.String() }

// Format hides the token whatever the verb.
func (t ResumeToken) Format(s fmt.State, _ rune) { io.WriteString(s, t.String()) }

// LogValue hides the token.
func (t ResumeToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the token, from encoding/json and encoding/xml too.
func (t ResumeToken) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes a text for the token, as [ResumeTokenOf] does. An [*InvalidError] if it is the placeholder.
func (t *ResumeToken) UnmarshalText(text []byte) error {
	*t = ResumeTokenOf(string(text))
	if t.Reveal() == tokenPlaceholder {
		return t.Validate()
	}
	return nil
}

// IDKey is the key that a store's message IDs are sealed with; see [Issuer]. With it one can make IDs that pass for the
// store's. It prints as a placeholder, as a [ResumeToken] does. The zero value is no key. Keys can be compared with ==.
type IDKey struct {
	bytes hidden
}

const keyPlaceholder = "[ID key]"

// IDKeyOf returns the key of 32 bytes, which must come from crypto/rand. All zero: no key.
func IDKeyOf(b [32]byte) IDKey {
	if b == [32]byte{} {
		return IDKey{}
	}
	return IDKey{hide(string(b[:]))}
}

// NewIDKey returns a fresh key from crypto/rand.
func NewIDKey() IDKey {
	var b [32]byte
	rand.Read(b[:])
	return IDKeyOf(b)
}

// Reveal returns the bytes of the key, for the store that keeps it.
func (k IDKey) Reveal() [32]byte {
	if k == (IDKey{}) {
		return [32]byte{}
	}
	return [32]byte([]byte(reveal(k.bytes)))
}

// String hides the key.
func (IDKey) String() string { return keyPlaceholder }

// GoString hides the key.
func (IDKey) GoString() string { return keyPlaceholder }

// Format hides the key whatever the verb.
func (IDKey) Format(s fmt.State, _ rune) { io.WriteString(s, keyPlaceholder) }

// LogValue hides the key.
func (IDKey) LogValue() slog.Value { return slog.StringValue(keyPlaceholder) }

// MarshalText hides the key, from encoding/json and encoding/xml too.
func (IDKey) MarshalText() ([]byte, error) { return []byte(keyPlaceholder), nil }
