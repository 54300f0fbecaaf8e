package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/manydevice/manydevice/event"
)

const (
	// MaxJSON is how long rules may be in JSON, in bytes.
	MaxJSON   = 64 << 10
	maxDepth  = 8  // of objects and lists; rules have 4
	maxInPath = 64 // bytes of a document's own name that stand in a path
)

// node is a value of a document. Unlike what encoding/json makes of it, it shows which fields are there twice.
type node struct {
	token   json.Token // string, json.Number, bool or nil; for objects and lists the opening json.Delim
	members []member   // of an object, in order
	items   []*node    // of a list
}

type member struct {
	name  string
	value *node
}

func (n *node) isObject() bool { return n.token == json.Delim('{') }

// parseTree reads a document. Its error is one [*event.InvalidError], joined like those of a document that can be read.
func parseTree(doc []byte) (*node, error) {
	reason := ""
	var raw json.RawMessage
	if len(doc) > MaxJSON {
		reason = fmt.Sprintf("%d bytes, at most %d", len(doc), MaxJSON)
	} else if !utf8.Valid(doc) {
		reason = "not valid UTF-8"
	} else if err := json.Unmarshal(doc, &raw); err != nil {
		reason = "not one JSON value"
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			reason += fmt.Sprintf(", at byte %d", syntax.Offset)
		}
	} else {
		d := json.NewDecoder(bytes.NewReader(doc))
		d.UseNumber()
		root, err := parseNode(d, 0)
		if err == nil {
			return root, nil
		}
		reason = err.Error()
	}
	return nil, errors.Join(&event.InvalidError{Field: "rules", Reason: reason})
}

// parseNode reads a value and what is in it.
func parseNode(d *json.Decoder, depth int) (*node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	n := &node{token: token}
	opening, nested := token.(json.Delim)
	if !nested {
		return n, nil
	}
	if depth == maxDepth {
		return nil, errors.New("nested too deeply")
	}
	for d.More() {
		var key string
		if opening == '{' {
			t, err := d.Token()
			if err != nil {
				return nil, err
			}
			key, _ = t.(string)
		}
		value, err := parseNode(d, depth+1)
		if err != nil {
			return nil, err
		}
		if opening == '{' {
			n.members = append(n.members, member{key, value})
		} else {
			n.items = append(n.items, value)
		}
	}
	_, err = d.Token() // the closing one
	return n, err
}

// reader takes values from nodes. What is not as it should be becomes a fault, and the value is the default.
type reader struct{ faults }

// merge adds faults, but none at or below a path that has one already: what stands there was not read.
func (d *reader) merge(errs []error) {
	var paths []string
	for _, err := range d.errs {
		if e, ok := errors.AsType[*event.InvalidError](err); ok {
			paths = append(paths, e.Field)
		}
	}
	for _, err := range errs {
		e, _ := errors.AsType[*event.InvalidError](err)
		told := false
		for _, p := range paths {
			rest, under := strings.CutPrefix(e.Field, p)
			told = told || under && (rest == "" || rest[0] == '.' || rest[0] == '[')
		}
		if !told {
			d.errs = append(d.errs, err)
		}
	}
}

// each goes through the members of an object, each name once.
func (d *reader) each(path string, n *node, at func(name string) string, read func(path, name string, n *node)) {
	if !n.isObject() {
		if path == "" {
			path = "rules"
		}
		d.add(path, "want an object")
		return
	}
	seen := make(map[string]bool)
	for _, m := range n.members {
		if seen[m.name] {
			d.add(at(m.name), "there twice")
			continue
		}
		seen[m.name] = true
		read(at(m.name), m.name, m.value)
	}
}

// object reads the fields of an object, each with the function under its name.
func (d *reader) object(path string, n *node, fields map[string]func(path string, n *node)) {
	at := func(name string) string {
		if path != "" && fields[name] != nil {
			return path + "." + name
		} else if fields[name] != nil {
			return name
		}
		return path + quoted(name)
	}
	d.each(path, n, at, func(path, name string, n *node) {
		if read := fields[name]; read != nil {
			read(path, n)
		} else {
			d.add(path, "not a field")
		}
	})
}

// entries reads an object whose names are data.
func (d *reader) entries(path string, n *node, read func(path, name string, n *node)) {
	d.each(path, n, func(name string) string { return path + quoted(name) }, read)
}

// quoted returns a name of the document's own as a part of a path.
func quoted(name string) string {
	if len(name) > maxInPath {
		name = name[:maxInPath] + "..."
	}
	return fmt.Sprintf("[%q]", name)
}

// list reads the values of a list.
func (d *reader) list(path string, n *node, read func(path string, n *node)) {
	if n.token != json.Delim('[') {
		d.add(path, "want a list")
	}
	for i, item := range n.items {
		read(path+"["+strconv.Itoa(i)+"]", item)
	}
}

func (d *reader) text(path string, n *node) string {
	s, ok := n.token.(string)
	if !ok {
		d.add(path, "want a string")
	}
	return s
}

func (d *reader) truth(path string, n *node) bool {
	b, ok := n.token.(bool)
	if !ok {
		d.add(path, "want true or false")
	}
	return b
}

func (d *reader) number(path string, n *node) int {
	number, _ := n.token.(json.Number)
	i, err := strconv.Atoi(number.String())
	if err != nil {
		d.add(path, "want a whole number")
	}
	return i
}

// choose reads the name of one of the choices from 0 to last.
func choose[T ~uint8](d *reader, path string, n *node, choice *T, last T, name func(T) string) {
	s, _ := n.token.(string)
	names := make([]string, 0, last+1)
	for c := range last + 1 {
		if names = append(names, name(c)); name(c) == s {
			*choice = c
			return
		}
	}
	d.add(path, "want one of %s", strings.Join(names, ", "))
}

func (d *reader) limit(path string, n *node, limit *int, action *Action) {
	d.object(path, n, map[string]func(path string, n *node){
		"limit": func(path string, n *node) {
			if *limit = d.number(path, n); *limit == 0 && n.token == json.Number("0") {
				d.add(path, "0, want at least 1, or -1 for none; what is left out has the default")
			}
		},
		"action": func(path string, n *node) { choose(d, path, n, action, AskHost, Action.String) },
	})
}

func (d *reader) group(path string, n *node) Group {
	var g Group
	d.object(path, n, map[string]func(path string, n *node){
		"name": func(path string, n *node) { g.Name = d.text(path, n) },
		"members": func(path string, n *node) {
			d.list(path, n, func(path string, n *node) { g.Members = append(g.Members, d.text(path, n)) })
		},
		"limit":  func(path string, n *node) { g.Limit = d.number(path, n) },
		"action": func(path string, n *node) { choose(d, path, n, &g.Action, AskHost, Action.String) },
	})
	return g
}
