package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mutant is memstore with one fault.
type mutant struct {
	name  string // what is wrong
	edits []edit
}

// edit replaces a text, which stands once in a file of memstore.
type edit struct {
	file, old, new string
}

// one is a mutant of a single edit.
func one(name, file, old, new string) mutant { return mutant{name, []edit{{file, old, new}}} }

// patch returns the files that the mutant changes, as they are then, by name. It fails unless each text stands in its file
// exactly once.
func (m mutant) patch(dir string) (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range m.edits {
		text, ok := files[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(dir, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%q: %s has the text %d times, want once: %q", m.name, e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// overlay writes the files of a mutant, and the file that makes go build use them instead of those of the package.
func (b bench) overlay(id string, m mutant) (string, error) {
	at := filepath.Join(b.root, broken)
	files, err := m.patch(at)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.dir, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for name, text := range files {
		replace[filepath.Join(at, name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	doc, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, doc, 0o600)
}

// and returns the mutant with one edit more.
func (m mutant) and(file, old, new string) mutant {
	m.edits = append(m.edits, edit{file, old, new})
	return m
}
