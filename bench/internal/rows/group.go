package rows

import "slices"

// Group is a map over another one that has what a group of sends has written so far, for maps that do not show it themselves. Only
// what a later send of the group may look up is kept, which entries and payloads are not.
type Group struct {
	Under Map
	rows  map[string][]byte
}

// Reset forgets what was written.
func (g *Group) Reset() {
	if g.rows == nil {
		g.rows = make(map[string][]byte)
	}
	clear(g.rows)
}

// Get implements Map.
func (g *Group) Get(key []byte) ([]byte, error) {
	if v, ok := g.rows[string(key)]; ok {
		return v, nil
	}
	return g.Under.Get(key)
}

// Put implements Map.
func (g *Group) Put(key, value []byte) error {
	if key[0] != TableEntries && key[0] != TableMessages {
		g.rows[string(key)] = slices.Clone(value)
	}
	return g.Under.Put(key, value)
}
