package session_test

import (
	"slices"
	"sync"

	"github.com/manydevice/manydevice/session"
)

// told is what the subscriptions of a world have brought. A change is there as soon as the call that made it has returned,
// so it is read when it is asked for.
type told struct {
	mu   sync.Mutex
	subs []*session.Subscription // of each registry that there was, the last one last
	all  []session.Change
	seen int // of all, by take
}

// listen adds the subscription of another registry.
func (t *told) listen(s *session.Subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subs = append(t.subs, s)
}

// add adds something between the changes.
func (t *told) add(c session.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readLocked()
	t.all = append(t.all, c)
}

// changes returns all changes that there were.
func (t *told) changes() []session.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readLocked()
	return slices.Clone(t.all)
}

// take returns the changes since the last call, one a line.
func (t *told) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readLocked()
	var lines []string
	for _, c := range t.all[t.seen:] {
		lines = append(lines, line(c))
	}
	t.seen = len(t.all)
	return lines
}

func (t *told) readLocked() {
	for _, s := range t.subs {
		t.all = append(t.all, session.Drain(s)...)
	}
}

// line describes a change in a few words.
func line(c session.Change) string {
	text := string(c.Kind) + " " + string(c.Session.Device)
	if c.Reason != "" {
		text += " " + string(c.Reason)
	}
	return text
}
