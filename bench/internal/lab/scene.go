package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// Scene is where a line, or one run of it, takes place. It is not safe for concurrent use.
type Scene struct {
	Scale Scale
	ctx   context.Context
	root  string
	suite *suite
	clean []func() error
}

// suite keeps what is made once for several lines.
type suite struct {
	dir  string
	made map[string]error
}

// Context ends when the whole run is interrupted.
func (s *Scene) Context() context.Context { return s.ctx }

// Dir returns a new empty folder. It is removed when the scene ends.
func (s *Scene) Dir() (string, error) {
	dir, err := os.MkdirTemp(s.root, "scene-")
	if err != nil {
		return "", err
	}
	s.Cleanup(func() error { return os.RemoveAll(dir) })
	return dir, nil
}

// File returns the path of a file that is not there yet, in a folder of its own.
func (s *Scene) File() (string, error) {
	dir, err := s.Dir()
	return filepath.Join(dir, "file.db"), err
}

// Cleanup has f called when the scene ends, the latest first.
func (s *Scene) Cleanup(f func() error) { s.clean = append(s.clean, f) }

// Close ends the scene.
func (s *Scene) Close() error {
	var errs []error
	for _, f := range slices.Backward(s.clean) {
		errs = append(errs, f())
	}
	s.clean = nil
	return errors.Join(errs...)
}

// Fresh returns a run that has a scene of its own each time.
func (s *Scene) Fresh(f func(*Scene) (Sample, error)) Run {
	return func() (Sample, error) {
		own := s.Inner()
		sample, err := f(own)
		return sample, errors.Join(err, own.Close())
	}
}

// Inner returns a scene within this one, which the caller closes.
func (s *Scene) Inner() *Scene {
	return &Scene{Scale: s.Scale, ctx: s.ctx, root: s.root, suite: s.suite}
}

// Once returns a folder that build has filled, once for all lines that ask for the same key. It stays until the end.
func (s *Scene) Once(key string, build func(dir string) error) (string, error) {
	dir := filepath.Join(s.suite.dir, key)
	err, ok := s.suite.made[key]
	if !ok {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = build(dir)
		}
		s.suite.made[key] = err
	}
	return dir, err
}
