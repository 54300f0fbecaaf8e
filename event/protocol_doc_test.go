package event_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// fenced returns the lines of the page's code blocks of one language.
func fenced(page, language string) []string {
	var lines []string
	block, inside := "", false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		if mark, ok := strings.CutPrefix(line, "```"); ok {
			block, inside = mark, !inside
		} else if inside && block == language {
			lines = append(lines, line)
		}
	}
	return lines
}

func readProtocol(t *testing.T) string {
	b, err := os.ReadFile(filepath.Join("..", "docs", "protocol.md"))
	require.NoError(t, err)
	return string(b)
}

// TestProtocolDoc_Examples holds the page to its word: every example is what the encoding writes.
func TestProtocolDoc_Examples(t *testing.T) {
	page := readProtocol(t)
	seen := map[string]int{}
	for _, line := range fenced(page, "") {
		requireExample(t, seen, line[2:], line[:2] == "> ")
	}
	require.Greater(t, len(seen), 8)
	for _, line := range fenced(page, "json") {
		var head struct{ T string }
		require.NoError(t, json.Unmarshal([]byte(line), &head), line)
		if head.T == "" {
			requirePayload(t, line)
			continue
		}
		_, err := event.DecodeClientFrame([]byte(line))
		requireExample(t, seen, line, err == nil)
	}
	require.Len(t, seen, 14, "every frame has an example")
}

func requireExample(t *testing.T, seen map[string]int, line string, fromClient bool) {
	if fromClient {
		f, err := event.DecodeClientFrame([]byte(line))
		require.NoError(t, err, line)
		again, err := event.AppendClientFrame(nil, f)
		require.NoError(t, err)
		require.Equal(t, line, string(again))
		seen[fmt.Sprintf("%T", f)]++
		return
	}
	f, err := event.DecodeFrame([]byte(line))
	require.NoError(t, err, line)
	again, err := event.AppendFrame(nil, f)
	require.NoError(t, err)
	require.Equal(t, line, string(again))
	seen[fmt.Sprintf("%T", f)]++
}

// requirePayload checks an example of a payload: it is exactly one of the types of the package.
func requirePayload(t *testing.T, line string) {
	for _, v := range []any{&event.ReadMark{}, &event.Receipt{}, &event.DeviceChange{}, &event.Claim{}, &event.Operation{}} {
		if json.Unmarshal([]byte(line), v) != nil {
			continue
		}
		if again, err := json.Marshal(v); err == nil && string(again) == line {
			return
		}
	}
	require.Fail(t, "payload of no type", line)
}

func TestProtocolDoc_Tables(t *testing.T) {
	page := readProtocol(t)
	for _, r := range event.Reasons() {
		ends := "connection"
		if r.EndsLogin {
			ends = "login"
		}
		require.Contains(t, page, fmt.Sprintf("| `%s` | %s | `%s` | %s", r.Reason, ends, r.Retry, strings.Split(r.Meaning, ";")[0]),
			"%s", r.Reason)
	}
	for _, text := range []string{"4,194,304", "4,096", "<!-- quickstart requests -->"} {
		require.Contains(t, page, text)
	}
	require.Equal(t, 4_194_304, event.MaxFrameBytes)
	require.Equal(t, 4_096, event.MaxClientFrameBytes)
	for _, v := range readVectors(t).Valid {
		require.Contains(t, page, "`"+v.Means.Frame+"`")
	}
}
