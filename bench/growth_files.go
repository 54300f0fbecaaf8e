package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// grown returns the path of a closed file with so many accounts, which all growth lines use: its journal is folded, and
// its runs are merged.
func grown(s *lab.Scene, accounts int) (string, error) {
	return madeOnce(s, fmt.Sprintf("grown-%d", accounts), func(path string) error {
		source, err := flooded(s, accounts)
		if err != nil {
			return err
		}
		if err := copyFile(path, source); err != nil {
			return err
		}
		st, err := boltstore.Open(path, boltstore.Config{})
		if err != nil {
			return err
		}
		return errors.Join(st.Compact(s.Context()), st.Close(context.Background()))
	})
}

// flooded is grown as the fill left it.
func flooded(s *lab.Scene, accounts int) (string, error) {
	return madeOnce(s, fmt.Sprintf("flooded-%d", accounts), func(path string) error {
		st, err := boltstore.Open(path, boltstore.Config{})
		if err != nil {
			return err
		}
		err = ours.Fill(s.Context(), st, accounts, entriesPerAccount, ours.Payload(64))
		return errors.Join(err, st.Close(context.Background()))
	})
}

func madeOnce(s *lab.Scene, key string, build func(path string) error) (string, error) {
	const name = "file.db"
	dir, err := s.Once(key, func(dir string) error { return build(filepath.Join(dir, name)) })
	return filepath.Join(dir, name), err
}

// growthFile returns the path of a file with so many accounts.
type growthFile func(s *lab.Scene, accounts int) (string, error)

type growthSide func(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error)

// growth compares the larger with the smaller file.
func growth(side growthSide) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		large, err := grownSide(s, side, grown, s.Scale.LargeGrown)
		if err != nil {
			return nil, nil, err
		}
		small, err := grownSide(s, side, grown, s.Scale.SmallGrown)
		return large, small, err
	}
}

// flood compares the larger file in its two states, each run with a copy of its own, since the first does not stay as it is.
func flood(side growthSide) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		fresh := func(file growthFile) lab.Run {
			return s.Fresh(func(s *lab.Scene) (lab.Sample, error) {
				run, err := grownSide(s, side, file, s.Scale.LargeGrown)
				if err != nil {
					return lab.Sample{}, err
				}
				return run()
			})
		}
		return fresh(flooded), fresh(grown), nil
	}
}

// copied returns a copy of a file.
func copied(s *lab.Scene, file growthFile, accounts int) (string, error) {
	source, err := file(s, accounts)
	if err != nil {
		return "", err
	}
	path, err := s.File()
	if err != nil {
		return "", err
	}
	return path, copyFile(path, source)
}

// grownSide opens a copy of a file, and reads something of each account: the first to touch a page of a file after it was opened
// waits for the system to map it, which is soon over.
func grownSide(s *lab.Scene, side growthSide, file growthFile, accounts int) (lab.Run, error) {
	path, err := copied(s, file, accounts)
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
