package policy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/policy"
)

// docs/policy.md names every preset, with its summary's call, and every script of another system.
func TestA22_Documented(t *testing.T) {
	b, err := os.ReadFile("../docs/policy.md")
	require.NoError(t, err)
	names := make(map[string]bool)
	for _, p := range policy.Presets() {
		newPolicy(t, p.Rules)
		require.False(t, names[p.Name], p.Name)
		names[p.Name] = true
		require.Contains(t, string(b), "| `"+p.Name+"` | `Preset", "preset %s", p.Name)
	}
	scripts, err := filepath.Glob("testdata/vendor_*.txt")
	require.NoError(t, err)
	require.Len(t, scripts, 10)
	for _, s := range scripts {
		require.Contains(t, string(b), filepath.Base(s))
	}
}

// The rules that the page shows as JSON are ones that can be read, and most rows name a preset or show some.
func TestA22_SnippetsCanBeRead(t *testing.T) {
	b, err := os.ReadFile("../docs/policy.md")
	require.NoError(t, err)
	found := regexp.MustCompile("`(\\{\"[^`]*\\})`").FindAllStringSubmatch(string(b), -1)
	require.Greater(t, len(found), 5)
	for _, m := range found {
		rules, err := policy.ParseJSON([]byte(m[1]))
		require.NoError(t, err, m[1])
		newPolicy(t, rules)
	}
	names := make(map[string]bool)
	for _, p := range policy.Presets() {
		names[p.Name] = true
	}
	for _, m := range regexp.MustCompile("preset `([a-z_]+)`").FindAllStringSubmatch(string(b), -1) {
		require.True(t, names[m[1]], "preset %s", m[1])
	}
}
