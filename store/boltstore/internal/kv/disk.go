package kv

import (
	"errors"
	"os"
)

// writeZeros writes zeros to a file from its end up to a size, and has them durable. If it fails, the file is as long as before.
func writeZeros(f *os.File, from, size int64) error {
	zeros := make([]byte, min(1<<20, size-from))
	for at := from; at < size; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
		if at += int64(n); err != nil {
			return errors.Join(err, f.Truncate(from))
		}
	}
	return f.Sync()
}
