package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPatches_Apply: each patch finds its text once, changes something, and has a name of its own.
func TestPatches_Apply(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			require.False(t, names[m.name], "the name is taken")
			names[m.name] = true
			require.NotEmpty(t, m.edits)
			_, err := m.patch("../../memstore")
			require.NoError(t, err)
			for _, e := range m.edits {
				require.NotEqual(t, e.old, e.new)
			}
		})
	}
	require.GreaterOrEqual(t, len(mutants), 50)
}
