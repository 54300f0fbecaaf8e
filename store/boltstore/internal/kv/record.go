package kv

import (
	"encoding/binary"
	"fmt"
)

// recordWriter encodes the rows of a record. What a key has in common with the one before is not written again.
type recordWriter struct {
	b    []byte
	last []byte // key
}

func (r *recordWriter) begin() {
	if r.b == nil {
		r.b = make([]byte, recordHeader, 64<<10)
	}
	r.b, r.last = r.b[:recordHeader], r.last[:0]
}

func (r *recordWriter) empty() bool { return len(r.b) == recordHeader }

// row adds a row. prefix is the part's, with the table before it.
func (r *recordWriter) row(prefix, key, value []byte, gone bool) {
	common := commonPrefix(r.last, prefix)
	if common == len(prefix) {
		common += commonPrefix(r.last[common:], key)
	}
	n := uint64(common) << 1
	if gone {
		n |= 1
	}
	b := binary.AppendUvarint(r.b, n)
	b = binary.AppendUvarint(b, uint64(len(prefix)))
	b = binary.AppendUvarint(b, uint64(len(prefix)+len(key)-common))
	if common < len(prefix) {
		b = append(append(b, prefix[common:]...), key...)
	} else {
		b = append(b, key[common-len(prefix):]...)
	}
	r.last = append(append(r.last[:0], prefix...), key...)
	if !gone {
		b = append(binary.AppendUvarint(b, uint64(len(value))), value...)
	}
	r.b = b
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// decodeRows calls f with the rows of a record.
func decodeRows(b []byte, f func(prefix, key, value []byte, gone bool)) error {
	var last []byte
	bad := false
	number := func(most int) int {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(most) {
			bad = true
			return 0
		}
		b = b[k:]
		return int(n)
	}
	for len(b) > 0 && !bad {
		n := number(2*len(last) + 1)
		cut := number(1 << 16)
		rest := number(len(b))
		if bad || n/2+rest < cut || rest > len(b) || cut == 0 {
			break
		}
		last = append(last[:n/2], b[:rest]...)
		b = b[rest:]
		var value []byte
		if n&1 == 0 {
			v := number(len(b))
			if bad || v > len(b) {
				break
			}
			value, b = b[:v], b[v:]
		}
		f(last[:cut], last[cut:], value, n&1 != 0)
	}
	if bad || len(b) > 0 {
		return fmt.Errorf("%w: rows of a record of the log", ErrCorrupt)
	}
	return nil
}
