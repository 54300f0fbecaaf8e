package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// side is one commit: a work tree of its own, and what its benchmarks printed.
type side struct {
	commit   string
	tree     string
	binaries []binary
	output   bytes.Buffer
}

type binary struct{ path, dir string }

func newSide(ctx context.Context, tree, commit string) (*side, error) {
	_, err := command(ctx, "", "git", "worktree", "add", "--detach", tree, commit)
	return &side{commit: commit, tree: tree}, err
}

func (s *side) close() error {
	_, err := command(context.Background(), "", "git", "worktree", "remove", "--force", s.tree)
	return err
}

// build builds the tests of the packages that this commit has.
func (s *side) build(ctx context.Context, packages []string) error {
	for _, p := range packages {
		dir := filepath.Join(s.tree, p)
		if _, err := os.Stat(dir); err != nil {
			fmt.Fprintf(os.Stderr, "%s has no %s\n", s.commit, p)
			continue
		}
		path := filepath.Join(s.tree, strings.ReplaceAll(filepath.Clean(p), "/", "-")+".test")
		if _, err := command(ctx, s.tree, "go", "test", "-c", "-o", path, p); err != nil {
			return err
		}
		s.binaries = append(s.binaries, binary{path: path, dir: dir})
	}
	return nil
}

// run runs all benchmarks once.
func (s *side) run(ctx context.Context, bench, benchtime string) error {
	for _, b := range s.binaries {
		out, err := command(ctx, b.dir, b.path, "-test.run=^$", "-test.bench="+bench, "-test.benchtime="+benchtime, "-test.benchmem")
		if err != nil {
			return fmt.Errorf("%s: %w", s.commit, err)
		}
		s.output.Write(out)
	}
	return nil
}
