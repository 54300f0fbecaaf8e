package kv

import (
	"errors"
	"os"
	"syscall"
)

// allocate gives a file blocks from its end up to a size, which it then has.
func allocate(f *os.File, from, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, from, size-from)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return writeZeros(f, from, size)
		case err != nil:
			return errors.Join(err, f.Truncate(from)) // it may have given a part
		}
		return f.Sync()
	}
}
