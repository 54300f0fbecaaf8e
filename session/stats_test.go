package session_test

import "github.com/manydevice/manydevice/session"

// skips returns how many calls of hooks were left out.
func skips(reg *session.Registry) uint64 {
	n := uint64(0)
	for _, h := range reg.Stats().Hooks {
		n += h.Skipped
	}
	return n
}
