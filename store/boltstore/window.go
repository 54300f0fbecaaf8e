package boltstore

import (
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
)

// window is a run of rows, sorted by account: those of one window of the journal, or of several that follow each other.
type window struct {
	first, last uint64 // windows of the journal
	size        uint64 // bytes of its rows, about
}

func (w window) key() []byte { return binary.BigEndian.AppendUint64(numberKey(w.first), w.last) }

func decodeWindow(key []byte, b *bolt.Bucket) (window, error) {
	if len(key) != 2*numberBytes || b == nil {
		return window{}, corrupt("window")
	}
	w := window{
		first: binary.BigEndian.Uint64(key), last: binary.BigEndian.Uint64(key[numberBytes:]), size: b.Sequence(),
	}
	if w.first == 0 || w.first > w.last {
		return w, corrupt("window")
	}
	return w, nil
}

// readWindows returns the windows of a file, newest first.
func readWindows(runs *bolt.Bucket) ([]window, error) {
	var list []window
	c := runs.Cursor()
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		w, err := decodeWindow(k, runs.Bucket(k))
		if err != nil {
			return nil, err
		}
		if w.size == 0 {
			continue
		}
		if n := len(list); n > 0 && w.last+1 != list[n-1].first {
			return nil, corrupt("sequence of windows")
		}
		list = append(list, w)
	}
	if n := len(list); n > 0 && list[n-1].first != 1 {
		return nil, corrupt("sequence of windows")
	}
	return list, nil
}

// folds says in which windows an account has rows: bit n stands for the window last-n, and the highest one for it and all
// before it.
type folds struct {
	last uint64 // newest window in which the account has rows; 0: none
	bits uint64
}

const olderFolds = 63

// add notes that the account has rows in a window that is not older than the last one. It may be called again.
func (f *folds) add(n uint64) {
	shift := n - f.last
	older := shift > olderFolds && f.bits != 0 || shift <= olderFolds && f.bits>>(olderFolds-shift) != 0
	f.bits <<= shift // 0 from 64 on
	if older {
		f.bits |= 1 << olderFolds
	}
	f.bits |= 1
	f.last = n
}

// in reports whether the account may have rows in a window.
func (f *folds) in(w window) bool {
	if f.last < w.first {
		return false
	}
	newest := min(f.last-min(f.last, w.last), olderFolds)
	oldest := min(f.last-w.first, olderFolds)
	return f.bits>>newest&(^uint64(0)>>(olderFolds-(oldest-newest))) != 0
}
