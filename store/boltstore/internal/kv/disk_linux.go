package kv

import (
	"errors"
	"os"
	"syscall"
)

// allocate gives a file blocks from its end up to a size, which it then has. Where it cannot, the error is errors.ErrUnsupported.
func allocate(f *os.File, from, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, from, size-from)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
