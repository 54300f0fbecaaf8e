package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// span is a page, and which keys it should have.
type span struct {
	id       uint64
	bucket   string // empty: the root bucket, which has the others
	from, to []byte // nil: no bound
	depth    int
	up       *span // the page that leads here; nil: the root page
}

// order checks that keys rise, and are those that should be there.
func (s *span) order(list []element, leaf bool) string {
	if len(list) == 0 {
		if leaf && s.from == nil {
			return ""
		}
		return "empty"
	}
	for i := range list {
		switch {
		case len(list[i].key) == 0:
			return "empty key"
		case i > 0 && bytes.Compare(list[i-1].key, list[i].key) >= 0:
			return fmt.Sprintf("key %q is out of order", list[i].key)
		}
	}
	if s.from != nil && !bytes.Equal(list[0].key, s.from) {
		return fmt.Sprintf("begins with key %q", list[0].key)
	}
	if last := list[len(list)-1].key; s.to != nil && bytes.Compare(last, s.to) >= 0 {
		return fmt.Sprintf("key %q is beyond the end", last)
	}
	return ""
}

// children are the pages that a branch refers to.
func (s *span) children(list []element) []span {
	children := make([]span, len(list))
	for i := range list {
		children[i] = span{id: list[i].child, bucket: s.bucket, from: bytes.Clone(list[i].key), to: s.to, depth: s.depth + 1, up: s}
		if i > 0 {
			children[i-1].to = children[i].from
		}
	}
	return children
}

// bucket is what the root bucket says of another one.
type bucket struct {
	span
	inline []byte // nil: it has pages of its own
}

// bucketsOf returns what a leaf of the root bucket says. wrong is called with what makes no sense.
func (s *span) bucketsOf(list []element, wrong func(reason string) error) (all []bucket, err error) {
	for i := range list {
		e := &list[i]
		if e.flags != bucketElement || len(e.value) < bucketHeader {
			if err := wrong(fmt.Sprintf("%q is no bucket", e.key)); err != nil {
				return nil, err
			}
			continue
		}
		b := bucket{span: span{id: binary.NativeEndian.Uint64(e.value), bucket: string(e.key), depth: s.depth + 1, up: s}}
		if inline := e.value[bucketHeader:]; len(inline) > 0 {
			b.inline = bytes.Clone(inline)
		}
		if (b.id == 0) != (b.inline != nil) {
			if err := wrong(fmt.Sprintf("bucket %q makes no sense", e.key)); err != nil {
				return nil, err
			}
			continue
		}
		if b.inline != nil {
			b.id = s.id
		}
		all = append(all, b)
	}
	return all, nil
}

// within returns the rows of a small bucket, or what is wrong with it.
func (s *span) within(page []byte) (list []element, reason string) {
	if len(page) < pageHeader {
		return nil, "shorter than a page"
	}
	list, leaf, used, err := parse(page, nil)
	order := binary.NativeEndian
	switch {
	case err != nil:
		return nil, err.Error()
	case !leaf || used != len(page) || order.Uint64(page) != 0 || order.Uint32(page[12:]) != 0:
		return nil, "bucket within a page makes no sense"
	}
	return list, s.order(list, true)
}
