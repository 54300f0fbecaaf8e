package event

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxCleanBytes is how long a text of [CleanName] is at most. Five of them (name, model, OS, app version and IP of a device)
// leave 224 bytes for an extension of the host's within the 1,024 bytes of a session.Description.
const MaxCleanBytes = 160

// CleanName makes a cosmetic text that a client sent fit to be shown and stored: the name or model of a device, its
// operating system, an app's version, an IP address, a user agent. The engine does it to every such text that it is given,
// so that none refuses a login; a host needs it for texts that it keeps or compares itself. What it returns has at most 128
// characters and [MaxCleanBytes] bytes, and passes [CheckName]. It may be empty. To clean a clean text changes nothing.
//
//   - Each run of bytes that are no UTF-8 becomes one U+FFFD.
//   - Each run of white space, line ends and tabs included, becomes one space; at both ends it goes.
//   - Other control characters go, and so do the characters that embed, override or isolate the direction of text. The
//     plain direction marks stay.
//   - What is too long is cut at its end. No character is cut in half, nor are combining marks, variation selectors, skin
//     tones, tags, letters of a Korean syllable or joined emoji cut from what they belong to: the whole of it goes. Beyond 16
//     such characters in a row it is cut between two of them. Pairs of regional indicators (flags) may be parted.
//
// It is for texts that nothing is looked up by. Identifiers are never changed: see [CheckID].
func CleanName(s string) string { return clean(s, MaxNameRunes, MaxCleanBytes) }

// CleanText is [CleanName] for a text with a bound of its own: what it returns has at most so many bytes, and as many
// characters as fit. It cleans the notes of hosts.
func CleanText(s string, bytes int) string { return clean(s, max(bytes, 0), max(bytes, 0)) }

func clean(s string, runes, bytes int) string {
	if isClean(s, min(runes, bytes)) {
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
		if b.Len() > bytes+utf8.UTFMax { // a cut looks at the character behind it
			break // the rest is cut off whatever it is
		}
	}
	return cut(b.String(), runes, bytes)
}

// maxExtenders is how many combining characters are taken for one with what is before them. Real text has at most a few;
// a family emoji has 10 characters.
const maxExtenders = 16

// isClean is a quick look at texts that are as they should be.
func isClean(s string, most int) bool {
	if len(s) > most {
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

// cut cuts a text of valid UTF-8 to its bounds.
func cut(s string, runes, bytes int) string {
	end, n := len(s), 0
	for i, r := range s {
		if n == runes || i+utf8.RuneLen(r) > bytes {
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
// joiners, skin tones, the tags of flags such as that of Wales, and the vowels and final consonants of Korean that is written in
// letters, as file systems do. Source: Unicode Standard Annex 29, rules GB6 to GB9a and GB11, as far as tables of Go's library go.
func extends(r rune) bool {
	return unicode.Is(unicode.M, r) || r == zeroWidthJoiner || r == '\u200C' || r >= 0x1F3FB && r <= 0x1F3FF ||
		r >= 0xE0020 && r <= 0xE007F || r >= 0x1160 && r <= 0x11FF || r >= 0xD7B0 && r <= 0xD7FB
}
