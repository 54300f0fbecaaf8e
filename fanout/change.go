package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// subject is the message that a change is about.
type subject struct {
	id     event.MessageID
	flags  event.Flags                      // of the message, as far as the store knows
	places map[event.Account]event.Position // where it is, as far as the store knows
	lost   []event.Account                  // that do not get the change: nobody knows any more for which devices it is
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
	of := subject{id: q.Of, flags: info.Flags, places: make(map[event.Account]event.Position, len(info.To))}
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

// inherit has the change of a message that was for some devices only go to the same ones. targets are those that the
// request itself chooses: where it does, that counts. It takes one read for each inbox, and those that the message has left
// are looked through from there on.
func (r *Router) inherit(
	ctx context.Context, q *SendRequest, of *subject, targets map[event.Account][]event.Incarnation,
) (map[event.Account][]event.Incarnation, error) {
	all := make(map[event.Account][]event.Incarnation, len(of.places))
	maps.Copy(all, targets)
	for a, at := range of.places {
		_, gets := slices.BinarySearch(q.To, a)
		if a == q.From {
			gets = !q.NoSenderCopy
		}
		if !gets || len(targets[a]) > 0 {
			continue
		}
		devices, known, err := r.addressed(ctx, a, at, q)
		switch {
		case err != nil:
			return nil, err
		case known:
			all[a] = devices
		default:
			of.lost = append(of.lost, a)
		}
	}
	return all, nil
}

// addressed returns for which devices of an account a message was (none: for all), as its entry says, or that of a change
// which took its place. False: none of them is there any more.
func (r *Router) addressed(
	ctx context.Context, account event.Account, at event.Position, q *SendRequest,
) ([]event.Incarnation, bool, error) {
	limit := 1 // most often it is where it was
	for after := at.Seq - 1; ; {
		page, err := r.st.Read(ctx, account, store.ReadOptions{After: after, Limit: limit, Known: at.Seq, NoBodies: true})
		if err != nil {
			return nil, false, fmt.Errorf("fanout: send: %w", err)
		}
		if page.Head.Epoch != at.Epoch {
			return nil, false, nil
		}
		for i := range page.Entries {
			if e := &page.Entries[i]; e.ID == q.Of || r.inPlaceOf(e, q) {
				return e.Targets, true, nil
			}
		}
		if page.Through <= after || page.Through >= page.Head.Seq {
			return nil, false, nil
		}
		after, limit = page.Through, r.cfg.PageEntries
	}
}

// inPlaceOf reports whether an entry has taken the place of the message that a request is about.
func (r *Router) inPlaceOf(e *event.Entry, q *SendRequest) bool {
	info := r.cfg.Kinds.Info(e.Kind)
	return info.Change != event.ChangeNone && info.Change != event.ChangeAnnotate && e.Key == info.CoalesceKey(q.Conversation, string(q.Of))
}

// apply makes a message the change of another one.
func (s subject) apply(m *store.Message, c event.Change) {
	m.To = slices.DeleteFunc(m.To, func(i store.Inbox) bool { return slices.Contains(s.lost, i.Account) })
	switch c {
	case event.ChangeNone, event.ChangeAnnotate:
		return
	case event.ChangeReplace:
		m.Flags |= s.flags & event.FlagReceipts
	case event.ChangeRemove, event.ChangeHide:
		m.Uncount = true
		m.Drop = event.ReplacementKey(m.Conversation, s.id)
	}
	m.Of = s.id
	for i := range m.To {
		m.To[i].Replaces = s.places[m.To[i].Account]
	}
}
