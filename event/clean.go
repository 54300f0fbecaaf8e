package event

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxCleanBytes is how long a text of [CleanName] is at most. Five of them (name, model, OS, app version and IP of a device)
// leave more than 200 bytes for an extension of the host's within the 1,024 bytes of a session.Description.
const MaxCleanBytes = 160

// CleanName makes a cosmetic text that a client sent fit to be shown and stored: the name or model of a device, its
// operating system, an app's version, an IP address, a user agent. What it returns passes [CheckName] and has at most 128
// characters and [MaxCleanBytes] bytes, so that a host can pass on what a client says without a refused login. It may be
// empty. To clean a clean text changes nothing.
//
//   - Each run of bytes that are no UTF-8 becomes one U+FFFD.
//   - Each run of white space, line ends and tabs included, becomes one space; at both ends it goes.
//   - Other control characters go, and so do the characters that embed, override or isolate the direction of text. The
//     plain direction marks stay.
//   - What is too long is cut at its end. No character is cut in half, nor are combining marks, variation selectors, skin
//     tones or joined emoji cut from what they belong to: the whole of it goes. Beyond 16 such characters in a row it is
//     cut between two of them. Pairs of regional indicators (flags) may be parted.
//
// It is for texts that nothing is looked up by. Identifiers are never changed: see [CheckID].
func CleanName(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	space := false // before the next character
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case unicode.IsControl(r) || isBidiControl(r):
			continue
		case space:
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
		if b.Len() > cleanAhead {
			break // the rest is cut off whatever it is
		}
	}
	return cutName(b.String())
}

// maxExtenders is how many combining characters are taken for one with what is before them. Real text has at most a few;
// a family emoji has 10 characters.
const maxExtenders = 16

// cleanAhead is how many bytes are cleaned at most. A cut looks at the character behind it.
const cleanAhead = MaxCleanBytes + utf8.UTFMax

// isClean is a quick look at texts that are as they should be.
func isClean(s string) bool {
	if len(s) > MaxNameRunes {
		return false
	}
	before := byte(' ')
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' || c == ' ' && before == ' ' {
			return false
		}
		before = c
	}
	return s == "" || before != ' '
}

// cutName cuts a text of valid UTF-8 to its bounds.
func cutName(s string) string {
	end, n := len(s), 0
	for i, r := range s {
		if n == MaxNameRunes || i+utf8.RuneLen(r) > MaxCleanBytes {
			end = i
			break
		}
		n++
	}
	if end == len(s) {
		return s
	}
	at := end
	for range maxExtenders {
		next, _ := utf8.DecodeRuneInString(s[at:])
		last, size := utf8.DecodeLastRuneInString(s[:at])
		if !extends(next) && last != zeroWidthJoiner {
			end = at
			break
		}
		at -= size
	}
	return strings.TrimRight(s[:end], " ")
}

const zeroWidthJoiner = '\u200D'

// extends reports whether a character belongs to the one before it: combining marks, variation selectors among them, the
// joiner, and skin tones. Source: Unicode Standard Annex 29, rules GB9, GB9a and GB11, as far as tables of Go's library go.
func extends(r rune) bool {
	return unicode.Is(unicode.M, r) || r == zeroWidthJoiner || r >= 0x1F3FB && r <= 0x1F3FF
}
