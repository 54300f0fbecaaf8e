package event

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every byte at every place among others that are just about plain.
func TestIsPlain(t *testing.T) {
	for c := range 256 {
		for at := range 8 {
			for _, other := range []byte{' ', '!', '#', '[', ']', '~', 0x7f} {
				b := bytes.Repeat([]byte{other}, 8)
				b[at] = byte(c)
				want := c >= ' ' && c != '"' && c != '\\' && c < 0x80
				require.Equal(t, want, isPlain(word(b, 0)), "%q", b)
				require.Equal(t, want, isPlain(word(string(b), 0)), "%q", b)
			}
		}
	}
}
