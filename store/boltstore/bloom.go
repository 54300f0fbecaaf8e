package boltstore

// bloom is a Bloom filter: what was added it always has, and of what was not it has very little. All bits of a key are in
// one word, so that a look costs one access to memory.
type bloom struct{ words []uint64 }

func newBloom(words int64) bloom { return bloom{make([]uint64, max(words, 1))} }

// place returns the word of a hash and its bits there.
func (f *bloom) place(hash uint64) (*uint64, uint64) {
	w := &f.words[(hash>>18)%uint64(len(f.words))]
	return w, 1<<(hash&63) | 1<<(hash>>6&63) | 1<<(hash>>12&63)
}

func (f *bloom) add(hash uint64) {
	w, bits := f.place(hash)
	*w |= bits
}

func (f *bloom) has(hash uint64) bool {
	w, bits := f.place(hash)
	return *w&bits == bits
}
