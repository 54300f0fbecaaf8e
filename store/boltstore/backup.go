package boltstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// A backup is the pages of a file, followed by an end mark: what it is, how many bytes came before it (8, big-endian), and
// their SHA-256. Pages have no checksums of their own, and a copy that was cut short may look whole.
const (
	endMagic = "manydevice-bkup1"
	endBytes = len(endMagic) + 8 + sha256.Size
)

// Backup writes a copy of the store to w, as it is at one moment after the call, and returns how many bytes went out.
// Everything that was answered before is in it; of what comes meanwhile there is a beginning, whole batches only, in the
// order in which they were committed. [Restore] puts it back. Backups may run at the same time as anything else.
//
// Pages that the copy needs are used again only after it: the file grows by what is removed or changed meanwhile, at most
// by the size of its content. Write to a disk, and from there to what is slow. When the file has grown so far that less
// than twice the reserve is left for it, the backup gives up with [store.ErrFull]. So it does in a full file, before ends of
// logins and removals are refused because of it. ctx, Close and a failure of the store end it too. All this is looked at
// between two calls of w.Write. After an error, which may be w's own, what was written is of no use.
func (s *Store) Backup(ctx context.Context, w io.Writer) (int64, error) {
	out := &backup{ctx: ctx, s: s, w: w, sum: sha256.New()}
	if err := s.db.Backup(ctx, out.copy); err != nil {
		return out.n, fmt.Errorf("boltstore: backup: %w", err)
	}
	return out.n, nil
}

// backup is a backup that runs, as the writer that the pages go to.
type backup struct {
	ctx   context.Context
	s     *Store
	w     io.Writer
	sum   hash.Hash
	n     int64 // bytes that went out
	began int64 // size of the file at first
	err   error // why Write failed
}

func (b *backup) copy(tx *bolt.Tx) error {
	b.began = b.s.db.Stats().FileSize
	_, err := tx.WriteTo(b)
	if b.err != nil { // some of bbolt's errors do not wrap it
		return b.err
	}
	if err != nil {
		return err
	}
	end := binary.BigEndian.AppendUint64([]byte(endMagic), uint64(b.n))
	_, err = b.Write(b.sum.Sum(end))
	return err
}

// Write passes a part on, unless the backup has to end.
func (b *backup) Write(p []byte) (int, error) {
	if b.err = b.over(); b.err != nil {
		return 0, b.err
	}
	n, err := b.w.Write(p)
	n = min(max(n, 0), len(p))
	b.n += int64(n)
	b.sum.Write(p[:n]) // never fails
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	b.err = err
	return n, err
}

// over returns why the backup has to end, or nil.
func (b *backup) over() error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if err := b.s.db.Refusal(); err != nil {
		return err
	}
	k := b.s.db.Stats()
	keep := b.s.cfg.reserve() // which Room and DiskRoom leave aside already once
	grew := k.FileSize > b.began && (k.Room >= 0 && k.Room < keep || k.DiskRoom >= 0 && k.DiskRoom < keep)
	if grew || b.s.db.Squeezed() { // a file that is full does not grow
		return fmt.Errorf("%w: no page can be used again before the end of the backup", store.ErrFull)
	}
	return nil
}

// Restore makes the file path out of what [Store.Backup] wrote. All inboxes get new epochs, so that every device is told
// that its position no longer means anything. What was not whole leaves nothing behind: [ErrCorrupt] if it was cut short or
// changed, [ErrNotStore] if it is something else, [store.ErrSchema] if a newer release wrote it. A file of that name is
// left alone, with [fs.ErrExist]; so is a log that would become the file's. ctx ends it between two calls of r.Read. When it returns nil, the file is durable.
//
// Until then the file has a name of its own, path.restore.tmp- and a number. The end of the process may leave that one and its log
// behind: an Open of path removes them once they are a day old.
func Restore(ctx context.Context, path string, r io.Reader) error {
	if err := restore(ctx, path, r); err != nil {
		return fmt.Errorf("boltstore: restore: %w", err)
	}
	return nil
}

func restore(ctx context.Context, path string, r io.Reader) (err error) {
	if path == "" {
		return errors.New("path: empty")
	}
	if err := kv.Vacant(path); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+kv.RestoreSuffix+"*")
	if err != nil {
		return err
	}
	temp := f.Name()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	if err := errors.Join(receive(ctx, f, r), f.Close()); err != nil {
		return err
	}
	if err := renewFile(temp); err != nil {
		return err
	}
	return kv.Publish(temp, path)
}

// receive writes a backup to f, without its end mark, and checks that it is whole.
func receive(ctx context.Context, f *os.File, r io.Reader) error {
	from := bufio.NewReader(contextReader{ctx, r})
	head, err := from.Peek(kv.HeadBytes)
	if err != nil && err != io.EOF {
		return err
	}
	if err != nil || !kv.IsHead(head) {
		return fmt.Errorf("%w: no file of bbolt", ErrNotStore) // before any of it fills the disk
	}
	sum := sha256.New()
	in := &withoutEnd{w: io.MultiWriter(f, sum)}
	n, err := io.Copy(in, from)
	if err != nil {
		return err
	}
	length := n - int64(len(in.end))
	want := sum.Sum(binary.BigEndian.AppendUint64([]byte(endMagic), uint64(length)))
	if bytes.Equal(in.end, want) {
		return f.Sync()
	}
	if length > 0 && bytes.HasPrefix(in.end, want[:len(endMagic)+8]) {
		return fmt.Errorf("%w: other bytes than were written", ErrCorrupt)
	}
	if _, err := f.Write(in.end); err != nil {
		return err
	}
	if err := kv.Inspect(kv.Options{Path: f.Name(), Tables: tables, LockTimeout: defaultLockTimeout}); errors.Is(err, ErrNotStore) {
		return err
	}
	return fmt.Errorf("%w: backup was cut short", ErrCorrupt)
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// withoutEnd passes on all but the last endBytes bytes.
type withoutEnd struct {
	w   io.Writer
	end []byte
}

func (e *withoutEnd) Write(p []byte) (int, error) {
	e.end = append(e.end, p...)
	if n := len(e.end) - endBytes; n > 0 {
		if _, err := e.w.Write(e.end[:n]); err != nil {
			return 0, err
		}
		e.end = append(e.end[:0], e.end[n:]...)
	}
	return len(p), nil
}

// renewFile checks a file and changes the epochs of all its inboxes.
func renewFile(path string) error {
	cfg := Config{NewIncarnation: true, MaxSize: -1, Memory: minMemory}.withDefaults()
	check := func(rows map[string][]byte) error { _, err := readMeta(rows, false); return err }
	if err := kv.Settle(kv.Options{Path: path, Tables: tables, LockTimeout: cfg.LockTimeout, Meta: check}); err != nil {
		return err
	}
	s, err := open(path, cfg)
	if err != nil {
		return err
	}
	return s.Close(context.Background())
}
