package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/manydevice/manydevice/internal/trace"
)

// Where a file is, and which users may open it.
//
//  1. A symbolic link to a file is followed, and the log lies next to the file itself, so that all names of one file lead to one
//     log. A link that leads to nothing is refused: what it would make, and where, was for someone else to say.
//  2. The file and its log are regular files. If others than the owner may read or write one, it is narrowed to the owner, and
//     the log says so; if that cannot be done, Open fails.
//  3. A new file is made under a name of its own (path.new.tmp-123), which must not be there, and linked to its name, which does not replace
//     anything. What a crash has left under such a name is removed by a later Open once it is a day old.

// resolve returns the path of the file itself.
func resolve(path string) (string, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return path, err
	}
	to, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is a symbolic link that leads to nothing: %w", filepath.Base(path), fs.ErrNotExist)
	}
	return to, err
}

// narrow takes away what others than the owner may do with a file. It is no error if the file is not there.
func narrow(path string, log Logger) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no regular file", ErrNotStore, filepath.Base(path))
	case runtime.GOOS == "windows" || st.Mode().Perm()&0o077 == 0:
		return nil
	}
	if err := os.Chmod(path, st.Mode().Perm()&0o700); err != nil {
		return fmt.Errorf("others may use %s, and that cannot be changed: %w", filepath.Base(path), err)
	}
	log.Warn("boltstore: others could use the file; now only the owner can", "file", filepath.Base(path), "mode", st.Mode().Perm().String())
	return nil
}

// locate makes Path that of the file itself, and narrows its mode, before it is opened.
func (o *Options) locate() error {
	path, err := resolve(o.Path)
	if err != nil {
		return err
	}
	o.Path = path
	for _, suffix := range append(walNames[:], "") {
		if err := narrow(o.Path+suffix, o.Logger); err != nil {
			return err
		}
	}
	return nil
}

// staleAfter is how old a file must be that a crash has left, so that none is removed that another process is making.
const staleAfter = 24 * time.Hour

// removeStale removes what crashes have left of files that were being made.
func removeStale(path string, log Logger) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range list {
		if !temporary(e.Name(), base) || !e.Type().IsRegular() {
			continue
		}
		if st, err := e.Info(); err != nil || time.Since(st.ModTime()) < staleAfter {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			log.Warn("boltstore: left by a crash, and cannot be removed", "file", e.Name(), trace.Err(err))
			continue
		}
		log.Info("boltstore: removed what a crash has left", "file", e.Name())
	}
}

// temporaryName is what follows the name that a file will have. What is made by Salvage or Restore is opened under such a name, and so
// has a log, and may itself be under way.
var temporaryName = regexp.MustCompile(`^(\.(new|restore)\.tmp-[0-9]+)+(-wal2?)?$`)

// temporary reports whether a name is one under which a file with that base name is made, or that of its log.
func temporary(name, base string) bool {
	return temporaryName.MatchString(strings.TrimPrefix(name, base)) && strings.HasPrefix(name, base)
}
