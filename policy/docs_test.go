package policy_test

import (
	"os"
	"path/filepath"
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
