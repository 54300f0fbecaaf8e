package event

import "unicode/utf8"

// appendString appends s as a JSON string. Beside what JSON demands it escapes the characters U+0085, U+2028 and U+2029,
// at which some readers of lines split.
func appendString[T string | []byte](dst []byte, s T) []byte {
	return appendText(dst, s, plainBytes(s))
}

// appendText is appendString for who knows how many bytes at the begin are there as they are.
func appendText[T string | []byte](dst []byte, s T, plain int) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := plain; i < len(s); {
		if n := plainBytes(s[i:]); n > 0 {
			i += n
			continue
		}
		c := s[i]
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if (r != utf8.RuneError || size > 1) && r != 0x85 && r != 0x2028 && r != 0x2029 {
				i += size
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch r {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		case utf8.RuneError:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		default:
			dst = append(dst, '\\', 'u', hex[r>>12], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
		i += size
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// plainBytes returns how many bytes at the begin of s are ASCII that a JSON string holds as it is.
func plainBytes[T string | []byte](s T) int {
	i := 0
	for i+8 <= len(s) && isPlain(word(s, i)) {
		i += 8
	}
	for i < len(s) && s[i] >= ' ' && s[i] != '"' && s[i] != '\\' && s[i] < utf8.RuneSelf {
		i++
	}
	return i
}

// word returns the eight bytes of s from i on, the first as the lowest. The compiler makes one load of it.
func word[T string | []byte](s T, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// isPlain reports whether eight bytes are ASCII that a JSON string holds as it is. Where one of them is not, the highest
// bit of it is set below: by itself, or because something was taken from it that is more than it is. What is borrowed
// for that only changes bytes behind it.
func isPlain(w uint64) bool {
	const each = 0x0101010101010101
	quote, backslash := w^each*'"', w^each*'\\'
	return (w|(w-each*' ')|(quote-each)|(backslash-each))&(each<<7) == 0
}
