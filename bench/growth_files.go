package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/store"
)

// grown returns the path of a closed file with the given number of accounts, which all growth lines use. Nothing in it is left to be done.
func grown(s *lab.Scene, accounts int) (string, error) {
	return madeOnce(s, fmt.Sprintf("grown-%d", accounts), func(path string) error {
		return ours.FillFile(s.Context(), path, accounts, entriesPerAccount, ours.Payload(64))
	})
}

func madeOnce(s *lab.Scene, key string, build func(path string) error) (string, error) {
	const name = "file.db"
	dir, err := s.Once(key, func(dir string) error { return build(filepath.Join(dir, name)) })
	return filepath.Join(dir, name), err
}

type growthSide func(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error)

// growth compares the larger with the smaller file.
func growth(side growthSide) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		large, err := grownSide(s, side, s.Scale.LargeGrown)
		if err != nil {
			return nil, nil, err
		}
		small, err := grownSide(s, side, s.Scale.SmallGrown)
		return large, small, err
	}
}

// copied returns a copy of a file that was grown.
func copied(s *lab.Scene, accounts int) (string, error) {
	source, err := grown(s, accounts)
	if err != nil {
		return "", err
	}
	path, err := s.File()
	if err != nil {
		return "", err
	}
	return path, copyStore(path, source)
}

// grownSide opens a copy of a file, and reads something of each account: the first to touch a page of a file after it was opened
// waits for the system to map it, which is soon over.
func grownSide(s *lab.Scene, side growthSide, accounts int) (lab.Run, error) {
	path, err := copied(s, accounts)
	if err != nil {
		return nil, err
	}
	cfg, err := ours.Config()
	if err != nil {
		return nil, err
	}
	e, err := ours.OpenFile(s, path, cfg)
	if err != nil {
		return nil, err
	}
	for i := range accounts {
		o := store.ConversationOptions{Conversation: ours.Conversation(i), Limit: 1}
		if _, err := e.Store.Conversations(s.Context(), ours.Account(i), o); err != nil {
			return nil, err
		}
	}
	return side(s, e, accounts)
}

// copyStore copies a file and what belongs to it: files beside it whose names go on after its own, such as a log.
func copyStore(to, from string) error {
	all, err := storeFiles(from)
	for _, name := range all {
		err = errors.Join(err, copyFile(to+strings.TrimPrefix(name, from), name))
	}
	return err
}

func storeFiles(path string) ([]string, error) { return filepath.Glob(path + "*") }

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
