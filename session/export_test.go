package session

import "github.com/manydevice/manydevice/event"

// Record and what it holds are an account's state on disk, for tests that look at it or change it behind a registry's
// back.
type Record = record

// DecodeRecord reads a record that a store returned.
func DecodeRecord(data []byte) (*Record, error) { return decodeRecord(data) }

// Encode writes the record.
func (r *record) Encode() []byte { return r.encode() }

// Ended returns the logins that have tombstones, oldest first.
func (r *record) Ended() []tombstone { return unpack(&r.Tombstones, (*decoder).tombstone) }

// Drain returns what waits in a subscription.
func Drain(s *Subscription) (all []Change) {
	for c, ok := s.s.Poll(); ok; c, ok = s.s.Poll() {
		all = append(all, c)
	}
	return all
}

// Unserved says why no connections are served any more that were bound under the lease; nil: they are.
func (r *Registry) Unserved(lease uint64) error { return r.unserved(lease) }

// Replace notes a token as one that was replaced once, in every login.
func (r *record) Replace(t event.ResumeToken) {
	d := digestOf(t)
	for i := range r.Logins {
		r.Logins[i].Replaced += d.mark()
	}
}
