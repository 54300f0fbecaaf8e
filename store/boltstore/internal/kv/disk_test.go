package kv

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// fault makes calls to the disk fail.
type fault struct {
	disk

	mu    sync.Mutex
	calls map[string]int
	// fails is called with the kind of a call and its number among those of the kind, from 1. It may return an error, and whether
	// the call is done nevertheless: 0 not at all, 1 whole, in between a part of what is written.
	fails  func(kind string, n int) (error, float64)
	before func(kind string) // may wait; guarded by mu
}

func newFault(fails func(kind string, n int) (error, float64)) *fault {
	return &fault{disk: system{}, calls: map[string]int{}, fails: fails}
}

func (d *fault) call(kind string) (error, float64) {
	d.mu.Lock()
	before := d.before
	d.mu.Unlock()
	if before != nil {
		before(kind)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[kind]++
	if d.fails == nil {
		return nil, 1
	}
	return d.fails(kind, d.calls[kind])
}

func (d *fault) set(fails func(kind string, n int) (error, float64)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails = fails
}

func (d *fault) do(kind string, f func() error) error {
	err, part := d.call(kind)
	if err == nil || part == 1 {
		if e := f(); e != nil {
			return e
		}
	}
	return err
}

func (d *fault) write(f *os.File, b []byte, at int64) error {
	kind := "write"
	if len(bytes.Trim(b[:min(len(b), 64)], "\x00")) == 0 {
		kind = "zeros"
	}
	err, part := d.call(kind)
	if err != nil {
		b = b[:int(float64(len(b))*part)]
	}
	if e := d.disk.write(f, b, at); e != nil {
		return e
	}
	return err
}

func (d *fault) sync(f *os.File) error {
	return d.do("sync", func() error { return d.disk.sync(f) })
}

func (d *fault) allocate(f *os.File, from, size int64) error {
	return d.do("allocate", func() error { return d.disk.allocate(f, from, size) })
}

func (d *fault) create(path string) (f *os.File, err error) {
	if err := d.do("create", func() error { f, err = d.disk.create(path); return err }); err != nil {
		return nil, err
	}
	return f, nil
}

func (d *fault) remove(path string) error {
	return d.do("remove", func() error { return d.disk.remove(path) })
}

func (d *fault) syncDir(path string) error {
	return d.do("syncDir", func() error { return d.disk.syncDir(path) })
}

func (d *fault) commit(tx *bolt.Tx) error {
	err, part := d.call("commit")
	if err == nil || part == 1 {
		if e := d.disk.commit(tx); e != nil {
			return e
		}
	}
	return err
}

// tape is a disk that remembers what was done to the files of a DB, so that images can be made of what a loss of power may leave.
type tape struct {
	disk
	path string
	lies bool // syncs are said to be done and are not; for control runs

	mu    sync.Mutex
	base  map[string][]byte // files at the start; all durable
	steps []step
}

// step is something that was done to a file.
type step struct {
	kind   string // write, size, sync, create, remove, syncDir, commit
	file   string
	at     int64
	data   []byte
	pages  map[int64][]byte // that a commit has changed
	number int
	failed bool // of a sync: what was written is in the cache for good, and may be on the disk or not
}

const tapePage = 4 << 10

func newTape(t testing.TB, d disk, path string) *tape {
	p := &tape{disk: d, path: path, base: map[string][]byte{}}
	for _, name := range append([]string{""}, walNames[:]...) {
		if b, err := os.ReadFile(path + name); err == nil {
			p.base[path+name] = b
		}
	}
	require.NotEmpty(t, p.base)
	return p
}

// now is a place on the tape: everything before it has happened.
func (p *tape) now() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.steps)
}

func (p *tape) add(s step) { p.steps = append(p.steps, s) }

func (p *tape) write(f *os.File, b []byte, at int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.disk.write(f, b, at)
	if err == nil {
		p.add(step{kind: "write", file: f.Name(), at: at, data: bytes.Clone(b)})
	}
	return err
}

// sync is two steps: others may do something before it is done.
func (p *tape) sync(f *os.File) error {
	p.mu.Lock()
	from := len(p.steps)
	p.mu.Unlock()
	err := p.disk.sync(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.lies {
		p.add(step{kind: "sync", file: f.Name(), at: int64(from), failed: err != nil})
	}
	return err
}

func (p *tape) allocate(f *os.File, from, size int64) error {
	return p.resize(f, size, func() error { return p.disk.allocate(f, from, size) })
}

func (p *tape) truncate(f *os.File, size int64) error {
	return p.resize(f, size, func() error { return p.disk.truncate(f, size) })
}

func (p *tape) resize(f *os.File, size int64, do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := do()
	if err == nil {
		p.add(step{kind: "size", file: f.Name(), at: size})
	}
	return err
}

func (p *tape) create(path string) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, err := p.disk.create(path)
	if err == nil {
		p.add(step{kind: "create", file: path})
	}
	return f, err
}

func (p *tape) remove(path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.disk.remove(path)
	if err == nil {
		p.add(step{kind: "remove", file: path})
	}
	return err
}

func (p *tape) syncDir(path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(step{kind: "syncDir"})
	return nil
}

func (p *tape) commit(tx *bolt.Tx) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, err := os.ReadFile(p.path)
	if err != nil {
		return err
	}
	err = p.disk.commit(tx)
	after, e := os.ReadFile(p.path)
	if e != nil {
		return e
	}
	s := step{kind: "commit", file: p.path, at: int64(len(after)), pages: map[int64][]byte{}, failed: err != nil}
	for at := 0; at < len(after); at += tapePage {
		page := after[at : at+tapePage]
		if at >= len(before) || !bytes.Equal(page, before[at:at+tapePage]) {
			s.pages[int64(at)] = bytes.Clone(page)
		}
	}
	if len(s.pages) > 0 {
		p.add(s)
	}
	return err
}

// medium is what a file is on the disk and in the cache.
type medium struct {
	durable []byte
	there   bool // its name is durable
	exists  bool // as programs see it
	pending []step
}

func (m *medium) resize(size int64) {
	if size <= int64(len(m.durable)) {
		m.durable = m.durable[:size]
	} else {
		m.durable = append(m.durable, make([]byte, size-int64(len(m.durable)))...)
	}
}

func (m *medium) apply(at int64, b []byte) {
	if end := at + int64(len(b)); end > int64(len(m.durable)) {
		m.resize(end)
	}
	copy(m.durable[at:], b)
}

// drive plays a tape.
type drive struct {
	files map[string]*medium
	rnd   *rand.Rand
}

func (p *tape) drive(rnd *rand.Rand) *drive {
	d := &drive{files: map[string]*medium{}, rnd: rnd}
	for _, name := range append([]string{""}, walNames[:]...) {
		b, ok := p.base[p.path+name]
		d.files[p.path+name] = &medium{durable: bytes.Clone(b), there: ok, exists: ok}
	}
	return d
}

// play does a step.
func (d *drive) play(n int, s step) {
	m := d.files[s.file]
	switch s.kind {
	case "write", "size":
		s.number = n
		m.pending = append(m.pending, s)
	case "sync":
		var left []step
		for _, w := range m.pending {
			switch {
			case w.number >= int(s.at): // it came when the sync had begun
				left = append(left, w)
			case s.failed: // whatever is on the disk of it now, later syncs leave that as it is
				d.tear(m, w)
			case w.kind == "size":
				m.resize(w.at)
			default:
				m.apply(w.at, w.data)
			}
		}
		m.pending = left
	case "create":
		m.exists, m.durable, m.pending = true, nil, nil
	case "remove":
		m.exists = false
	case "syncDir":
		for _, m := range d.files {
			m.there = m.exists
		}
	case "commit":
		if s.failed {
			d.tear(m, s)
			return
		}
		m.resize(s.at)
		for at, b := range s.pages {
			m.apply(at, b)
		}
	}
}

// image is what a loss of power may leave now. next is the step that was under way; nil: none.
func (d *drive) image(next *step) map[string][]byte {
	files := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		m := d.files[name]
		there := m.there
		if m.there != m.exists && d.rnd.IntN(2) == 0 {
			there = m.exists
		}
		if !there {
			continue
		}
		c := medium{durable: bytes.Clone(m.durable)}
		for _, s := range m.pending {
			d.tear(&c, s)
		}
		if next != nil && next.file == name {
			d.tear(&c, *next)
		}
		files[name] = c.durable
	}
	return files
}

// tear does a part of a step: any subset of blocks.
func (d *drive) tear(m *medium, s step) {
	chance := []float64{0, 0.1, 0.5, 0.9, 1}[d.rnd.IntN(5)]
	switch s.kind {
	case "size":
		if d.rnd.Float64() < chance {
			m.resize(s.at)
		}
	case "write":
		block := int64(512)
		if d.rnd.IntN(2) == 0 {
			block = tapePage
		}
		for from := s.at; from < s.at+int64(len(s.data)); {
			to := min((from/block+1)*block, s.at+int64(len(s.data)))
			if d.rnd.Float64() < chance {
				m.apply(from, s.data[from-s.at:to-s.at])
			}
			from = to
		}
	case "commit":
		if d.rnd.Float64() < chance {
			m.resize(max(s.at, int64(len(m.durable))))
		}
		// If a meta page is on the disk, all others are. If a sync has failed after a meta page was written, that one was the meta page's.
		metas := d.rnd.IntN(2) == 0 || s.failed && (s.pages[0] != nil || s.pages[tapePage] != nil)
		for _, at := range slices.Sorted(maps.Keys(s.pages)) {
			b := s.pages[at]
			switch meta := at < 2*tapePage; {
			case meta && metas:
				m.apply(at, b[:d.rnd.IntN(len(b)+1)]) // also half of it
				if d.rnd.IntN(2) == 0 {
					m.apply(at, b[:16+d.rnd.IntN(64)])
				}
			case !meta && (metas || d.rnd.Float64() < chance):
				m.apply(at, b)
			}
		}
	}
}

// put makes files of an image.
func putImage(t testing.TB, path string, from string, files map[string][]byte) {
	for _, name := range append([]string{""}, walNames[:]...) {
		require.NoError(t, os.RemoveAll(path+name))
		if b, ok := files[from+name]; ok {
			require.NoError(t, os.WriteFile(path+name, b, 0o600))
		}
	}
}

// fast is a folder in memory, where syncs cost nothing, if there is one.
func fast(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "kv")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

var errIO = error(syscall.EIO)
