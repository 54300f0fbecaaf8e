package boltstore

// attemptSet are idempotency records by key. Nearly all sets have few, which need no map.
type attemptSet struct {
	few  []row // until there are more
	many map[string]string
}

const fewAttempts = 8

func (s *attemptSet) len() int { return len(s.few) + len(s.many) }

func (s *attemptSet) get(key string) (string, bool) {
	for i := range s.few {
		if s.few[i].key == key {
			return s.few[i].value, true
		}
	}
	v, ok := s.many[key]
	return v, ok
}

func (s *attemptSet) put(key, value string) {
	for i := range s.few {
		if s.few[i].key == key {
			s.few[i].value = value
			return
		}
	}
	if s.many == nil && len(s.few) < fewAttempts {
		s.few = append(s.few, row{key, value})
		return
	}
	if s.many == nil {
		s.many = make(map[string]string)
		for _, r := range s.few {
			s.many[r.key] = r.value
		}
		clear(s.few)
		s.few = s.few[:0]
	}
	s.many[key] = value
}

// each calls f with all of them, in no order.
func (s *attemptSet) each(f func(key, value string)) {
	for _, r := range s.few {
		f(r.key, r.value)
	}
	for k, v := range s.many {
		f(k, v)
	}
}

// sorted returns them in order.
func (s *attemptSet) sorted() []row {
	rows := make([]row, 0, s.len())
	s.each(func(key, value string) { rows = append(rows, row{key, value}) })
	sortRows(rows)
	return rows
}

// reset empties the set, and keeps its memory for a few.
func (s *attemptSet) reset() {
	clear(s.few)
	*s = attemptSet{few: s.few[:0]}
}
