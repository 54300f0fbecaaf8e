package raw

import (
	"os"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// File is a plain file that records are appended to: what the disk can do at best.
type File struct {
	f        *os.File
	buf      []byte
	combiner *Combiner[[]byte]
}

// NewFile returns an empty one. It is closed with the scene.
func NewFile(s *lab.Scene) (*File, error) {
	path, err := s.File()
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	s.Cleanup(f.Close)
	raw := &File{f: f}
	raw.combiner = NewCombiner(0, raw.apply)
	return raw, nil
}

// Append returns when the record is durable. Those that wait at the same time share one write and one sync.
func (f *File) Append(record []byte) error { return f.combiner.Do(record) }

func (f *File) apply(records [][]byte) error {
	f.buf = f.buf[:0]
	for _, r := range records {
		f.buf = append(f.buf, r...)
	}
	if _, err := f.f.Write(f.buf); err != nil {
		return err
	}
	return datasync(f.f)
}

// Size is the size of the file in bytes.
func (f *File) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
