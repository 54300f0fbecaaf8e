package memstore

import "github.com/manydevice/manydevice/event"

// Slots returns how many entries and holes an inbox has.
func (s *Store) Slots(name event.Account) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accounts[name].inbox.entries)
}
