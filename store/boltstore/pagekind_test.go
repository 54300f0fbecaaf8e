package boltstore_test

import (
	"encoding/binary"
	"fmt"
)

// pageKind says what a byte of a bbolt file is, for reports of damage: of which kind of page, and of which part of it.
// Source: go.etcd.io/bbolt, internal/common: page.go.
func pageKind(data []byte, at int) string {
	const size, header, element = 4096, 16, 16
	order := binary.NativeEndian
	for first := at / size; first >= 0 && first > at/size-300; first-- {
		p := data[first*size:]
		if len(p) < header || order.Uint64(p) != uint64(first) {
			continue
		}
		flags, count, overflow := order.Uint16(p[8:]), int(order.Uint16(p[10:])), int(order.Uint32(p[12:]))
		if first+overflow < at/size {
			continue
		}
		name := map[uint16]string{1: "branch", 2: "leaf", 4: "meta", 16: "freelist"}[flags]
		off := at - first*size
		switch {
		case name == "meta" || name == "freelist":
			return name
		case off < header:
			return name + " header"
		case off < header+count*element:
			return name + " element"
		}
		for i := range count {
			e := header + i*element
			pos, ksize := int(order.Uint32(p[e+4:])), int(order.Uint32(p[e+8:]))
			if flags == 1 {
				pos, ksize = int(order.Uint32(p[e:])), int(order.Uint32(p[e+4:]))
			}
			if off >= e+pos && off < e+pos+ksize {
				return fmt.Sprintf("%s key %d of %d %q", name, i, count, p[e+pos:e+pos+ksize])
			}
		}
		return name + " value or nothing"
	}
	return "no page"
}
