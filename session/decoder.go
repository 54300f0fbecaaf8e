package session

import (
	"encoding/binary"
	"math"
)

// decoder reads what was encoded. It never reads beyond it: the first read that would sets bad, and all later ones
// return zero. Strings that it returns share the memory of what it reads.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	var v uint64
	for i := range min(len(d.rest), binary.MaxVarintLen64) {
		c := d.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.rest = d.rest[i+1:]
			return v
		}
	}
	d.fail()
	return 0
}

// uint32 reads a varint that takes no more than 32 bits.
func (d *decoder) uint32() uint32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.fail()
		return 0
	}
	return uint32(v)
}

// varint reads what binary.AppendVarint wrote.
func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// count reads how many items follow, of which each takes so many bytes at least.
func (d *decoder) count(least int) int {
	v := d.uvarint()
	if v > uint64(len(d.rest)/least) {
		d.fail()
		return 0
	}
	return int(v)
}

func (d *decoder) take(n int) string {
	if n > len(d.rest) {
		d.fail()
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) string() string { return d.take(int(min(d.uvarint(), math.MaxInt32))) }

// flags reads a byte of which only the given bits may be set.
func (d *decoder) flags(all byte) byte {
	s := d.take(1)
	if s == "" || s[0]&^all != 0 {
		d.fail()
		return 0
	}
	return s[0]
}

// fixed reads eight bytes: a random number takes more as a varint.
func (d *decoder) fixed() uint64 {
	s := d.take(8)
	if s == "" {
		return 0
	}
	var v uint64
	for i := range 8 {
		v = v<<8 | uint64(s[i])
	}
	return v
}

func (d *decoder) digest() (out digest) {
	copy(out[:], d.take(len(out)))
	return out
}

func (d *decoder) fail() { d.rest, d.bad = "", true }

func appendString[S ~string](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// bit returns the flag if it is set.
func bit(set bool, flag byte) byte {
	if set {
		return flag
	}
	return 0
}
