//go:build linux || darwin

package kv

import "syscall"

// statFree returns the bytes that the file system of path has for us.
func statFree(path string) (int64, bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}
