package event_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// K12.6: what clients call themselves never refuses a login.
func TestCleanName_MakesAnyTextFitToShow(t *testing.T) {
	family := "\U0001F468\u200d\U0001F469\u200d\U0001F467"
	tests := []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"plain", "Ann's iPhone", "Ann's iPhone"},
		{"other script", "анна 你好 \U0001F44B", "анна 你好 \U0001F44B"},
		{"line end behind", "Pixel 9\r\n", "Pixel 9"},
		{"line end and tabs within", "Pixel\r\n\t9", "Pixel 9"},
		{"spaces all around", "  Pixel   9 ", "Pixel 9"},
		{"spaces of other scripts", "\u3000a\u00a0\u2028b\u0085", "a b"},
		{"isolates around it", "\u2068Ann\u2069", "Ann"},
		{"override", "gpj.\u202eexe", "gpj.exe"},
		{"plain direction marks", "a\u200eb\u200f\u061c", "a\u200eb\u200f\u061c"},
		{"controls", "a\x00b\x1b[31m\x7f\u009f", "ab[31m"},
		{"control between spaces", "a \x00 b", "a b"},
		{"only what goes", "\x00 \u202e\n", ""},
		{"not UTF-8", "a\xff\xfeb\xe2\x80", "a\uFFFDb\uFFFD"},
		{"user agent", strings.Repeat("Mozilla/5.0 ", 16), strings.Repeat("Mozilla/5.0 ", 10) + "Mozilla/"},
		{"cut before a space", strings.Repeat("a", 127) + " b", strings.Repeat("a", 127)},
		{"Chinese", strings.Repeat("手", 128), strings.Repeat("手", 53)},
		{"four bytes each", strings.Repeat("\U0001F44B", 128), strings.Repeat("\U0001F44B", 40)},
		{"accent at the cut", strings.Repeat("a", 127) + "e\u0301\u0302", strings.Repeat("a", 127)},
		{"accent within", strings.Repeat("a", 126) + "e\u0301", strings.Repeat("a", 126) + "e\u0301"},
		{"skin tone at the cut", strings.Repeat("a", 127) + "\U0001F44B\U0001F3FD", strings.Repeat("a", 127)},
		{"variation selector at the cut", strings.Repeat("a", 127) + "\u2764\ufe0f", strings.Repeat("a", 127)},
		{"flag of Wales at the cut", strings.Repeat("a", 124) + "\U0001F3F4\U000E0067\U000E0062\U000E0077\U000E006C\U000E0073\U000E007F", strings.Repeat("a", 124)},
		{"Korean in letters at the cut", strings.Repeat("a", 126) + "\u1100\u1161\u11a8", strings.Repeat("a", 126)},
		{"family at the cut", strings.Repeat("a", 125) + family, strings.Repeat("a", 125)},
		{"family at the cut, behind a joiner", strings.Repeat("a", 126) + family, strings.Repeat("a", 126)},
		{"more marks than text has", "a" + strings.Repeat("\u0301", 200), "a" + strings.Repeat("\u0301", 79)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := event.CleanName(tt.in)
			require.Equal(t, tt.want, got)
			checkClean(t, got)
		})
	}
	for _, tt := range hostile {
		checkClean(t, event.CleanName(tt.text))
	}
}

func checkClean(t *testing.T, got string) {
	t.Helper()
	require.NoError(t, event.CheckName("name", got))
	require.LessOrEqual(t, len(got), event.MaxCleanBytes)
	require.LessOrEqual(t, utf8.RuneCountInString(got), event.MaxNameRunes)
	require.Equal(t, got, event.CleanName(got), "to clean a clean text changes nothing")
	require.Equal(t, strings.TrimSpace(got), got)
}

// FuzzCleanName checks that what comes out always passes as a name, is within its bounds, and stays as it is.
func FuzzCleanName(f *testing.F) {
	for _, s := range []string{
		"", "a", " a\n", strings.Repeat("手", 128), "e\u0301\u200d\U0001F3FD", "\xff\u202e", strings.Repeat("\u0301", 300),
		strings.Repeat("a", 127) + "\u200d\u200d \u0301", strings.Repeat(" \x00", 200) + "x", strings.Repeat("a\u200d", 90),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := event.CleanName(s)
		checkClean(t, got)
		if s != "" && got == s {
			require.NoError(t, event.CheckName("name", s))
		}
	})
}

// CleanText is CleanName with another bound, which no character is cut in half for.
func TestCleanText_HasItsOwnBound(t *testing.T) {
	for _, tt := range []struct {
		in    string
		bytes int
		want  string
	}{
		{"bye,\r\nAnn", 512, "bye, Ann"}, {strings.Repeat("手", 300), 512, strings.Repeat("手", 170)}, {strings.Repeat("a", 600), 512, strings.Repeat("a", 512)},
		{"手手", 5, "手"}, {"手", 2, ""}, {"e\u0301x", 2, ""}, {"a b", 2, "a"}, {"a", 0, ""}, {"a", -1, ""}, {"", 0, ""}, {"\u0301", 1, ""},
	} {
		got := event.CleanText(tt.in, tt.bytes)
		require.Equal(t, tt.want, got)
		require.Equal(t, got, event.CleanText(got, tt.bytes), "to clean a clean text changes nothing")
	}
	for _, tt := range hostile {
		require.Equal(t, event.CleanName(tt.text), event.CleanText(event.CleanName(tt.text), event.MaxCleanBytes))
	}
}
