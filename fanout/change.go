package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// subject is the message that a change is about.
type subject struct {
	id     event.MessageID
	places map[event.Account]event.Position // where it is, as far as the store knows
}

// changes finds the message that a change is about, and completes the request: who has the message gets the change. If
// the store does not know the message any more, the request has to say who that is.
func (r *Router) changes(ctx context.Context, q *SendRequest, c event.Change) (subject, error) {
	if !r.issuer.Issued(q.Of) {
		return subject{}, ErrUnknownMessage
	}
	info, err := r.st.Message(ctx, q.Of)
	known := err == nil
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return subject{}, fmt.Errorf("fanout: send: %w", err)
	case q.Conversation != "" && q.Conversation != info.Conversation:
		return subject{}, &event.InvalidError{Field: "conversation", Reason: "not that of the message"}
	default:
		q.Conversation = info.Conversation
	}
	of := subject{id: q.Of, places: make(map[event.Account]event.Position, len(info.To))}
	for _, p := range info.To {
		of.places[p.Account] = event.Position{Epoch: p.Epoch, Seq: p.Seq}
	}
	switch {
	case c == event.ChangeHide:
		if q.NoSenderCopy || slices.ContainsFunc(q.To, func(a event.Account) bool { return a != q.From }) {
			return subject{}, &event.InvalidError{Field: "to", Reason: "hidden for the account that does it only: no recipients"}
		}
	case len(q.To) > 0:
	case !known:
		return subject{}, ErrUnknownMessage
	default:
		for _, p := range info.To {
			q.To = append(q.To, p.Account)
		}
		slices.Sort(q.To)
	}
	if c == event.ChangeAnnotate {
		q.Subject = reactionSubject(q)
	} else {
		q.Subject = string(q.Of)
	}
	return of, nil
}

// reactionSubject tells apart the reactions to a message by who made them and the request's own subject.
func reactionSubject(q *SendRequest) string {
	sum := sha256.Sum256([]byte(string(q.From) + "\n" + q.Subject))
	return string(q.Of) + " " + base64.RawURLEncoding.EncodeToString(sum[:12])
}

// apply makes a message the change of another one.
func (s subject) apply(m *store.Message, c event.Change) {
	switch c {
	case event.ChangeNone, event.ChangeAnnotate:
		return
	case event.ChangeRemove, event.ChangeHide:
		m.Uncount = true
		m.Drop = event.ReplacementKey(m.Conversation, s.id)
	}
	m.Of = s.id
	for i := range m.To {
		m.To[i].Replaces = s.places[m.To[i].Account]
	}
}
