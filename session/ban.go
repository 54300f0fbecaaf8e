package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/store"
)

// BanRequest keeps an account from logging in.
type BanRequest struct {
	Account event.Account
	// Until is when the ban ends by itself: in the future, up to the year 9999. Zero means never.
	Until time.Time
	// Note is shown on the account's devices; see [KickRequest.Note].
	Note string
}

// Ban is why an account may not log in.
type Ban struct {
	Since  time.Time
	Until  time.Time    // zero: for good
	Reason event.Reason // banned or account_deleted
	Note   string
}

// BannedError reports a login of an account that is banned, or was deleted for good. Nothing was changed.
type BannedError struct{ Ban Ban }

// Closed returns what to tell the client.
func (e *BannedError) Closed() event.Closed {
	why := e.Ban.Reason.Closed(0)
	why.Note = e.Ban.Note
	return why
}

func (e *BannedError) Error() string {
	return "session: account may not log in: " + string(e.Ban.Reason)
}

// Is makes errors.Is(err, ErrBanned) true.
func (e *BannedError) Is(target error) bool { return target == ErrBanned }

// ban is Ban on disk.
type ban struct {
	At     int64 // Unix milliseconds
	Until  int64 // Unix milliseconds; 0: for good
	Reason event.Reason
	Note   string
}

func (v *ban) public() Ban {
	p := Ban{Since: time.UnixMilli(v.At), Reason: v.Reason, Note: v.Note}
	if v.Until != 0 {
		p.Until = time.UnixMilli(v.Until)
	}
	return p
}

// banned refuses a login of an account that may not log in.
func (s *step) banned() error {
	if s.rec.Ban == nil {
		return nil
	}
	return &BannedError{Ban: s.rec.Ban.public()}
}

// liftBan takes back a ban whose time is over.
func (s *step) liftBan() {
	if b := s.rec.Ban; b != nil && b.Until != 0 && b.Until <= s.now.UnixMilli() {
		s.rec.Ban, s.dirty = nil, true
	}
}

// endAll ends every login of the account, earliest first.
func (s *step) endAll(why event.Closed) {
	for _, id := range s.chosen(&KickRequest{All: true}) {
		s.end(id, why, "")
	}
	s.lookAgain(nil)
}

// endedFor returns the logins that the step has ended for a reason, earliest first.
func (s *step) endedFor(reason event.Reason) []Ended {
	return slices.DeleteFunc(slices.Clone(s.ended), func(e Ended) bool { return e.Closed.Reason != reason })
}

// Ban ends all logins of the account with reason banned and refuses new ones with a [*BannedError] until the ban is over
// or taken back. The account keeps its inbox and its devices their place in it. A ban that is there already is replaced.
// It returns who was logged in.
func (r *Registry) Ban(ctx context.Context, q BanRequest) (_ []Ended, err error) {
	defer fault.In("session", "ban", &err)
	defer func() { r.carriedOut("session: ban refused", err, q.Account) }()
	if err := q.Account.Validate(); err != nil {
		return nil, err
	}
	q.Note = event.CleanText(q.Note, maxNote)
	b := &ban{Reason: event.Banned, Note: q.Note}
	if !q.Until.IsZero() {
		switch b.Until = q.Until.UnixMilli(); {
		case !q.Until.After(r.clock.Now()):
			return nil, &event.InvalidError{Field: "until", Reason: "is over already"}
		case q.Until.UTC().Year() > 9999: // which JSON cannot write, and milliseconds may not
			return nil, &event.InvalidError{Field: "until", Reason: "after the year 9999; for good it is zero"}
		}
	}
	s, err := r.run(ctx, q.Account, func(s *step) error {
		b.At = s.now.UnixMilli()
		s.rec.Ban, s.dirty = b, true
		why := event.Banned.Closed(0)
		why.Note = q.Note
		s.endAll(why)
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return s.endedFor(event.Banned), nil
}

// Unban takes a ban back, also that of an account that was deleted for good. Without one it does nothing.
func (r *Registry) Unban(ctx context.Context, account event.Account) (err error) {
	defer fault.In("session", "unban", &err)
	defer func() { r.turned("session: unban refused", err, account) }()
	if err := account.Validate(); err != nil {
		return err
	}
	_, err = r.run(ctx, account, func(s *step) error {
		s.dirty = s.dirty || s.rec.Ban != nil
		s.rec.Ban = nil
		return nil
	}, nil)
	return err
}

// Banned returns the account's ban, or nil if it has none.
func (r *Registry) Banned(ctx context.Context, account event.Account) (_ *Ban, err error) {
	defer fault.In("session", "banned", &err)
	if err := account.Validate(); err != nil {
		return nil, err
	}
	rec, _, err := r.load(ctx, account)
	if err != nil {
		return nil, err
	}
	if rec.Ban == nil || rec.Ban.Until != 0 && !time.UnixMilli(rec.Ban.Until).After(r.clock.Now()) {
		return nil, nil
	}
	b := rec.Ban.public()
	return &b, nil
}

// DeleteRequest removes an account.
type DeleteRequest struct {
	Account event.Account
	// Refuse: later logins are refused with a [*BannedError] of reason account_deleted, until Unban. Otherwise whoever
	// logs in under that name begins anew.
	Refuse bool
	// Note is shown on the account's devices; see [KickRequest.Note].
	Note string
}

// DeleteAccount ends all logins of the account with reason account_deleted and removes all it has: devices, inbox,
// conversation state, log. What stays is the epoch of its inbox, raised, so that positions of before mean nothing any
// more; and a ban, if it had one or is to be refused. No tombstones stay: a device that was not attached, or
// attached to another node that cannot be reached, is told that its login is unknown.
//
// While it runs nobody can log in. If it fails on the way, the account may be left with its logins ended and closed to
// new ones; a repetition goes on from there, and Unban takes that back.
func (r *Registry) DeleteAccount(ctx context.Context, q DeleteRequest) (_ []Ended, err error) {
	defer fault.In("session", "delete account", &err)
	defer func() { r.carriedOut("session: deletion of an account refused", err, q.Account) }()
	if err := q.Account.Validate(); err != nil {
		return nil, err
	}
	q.Note = event.CleanText(q.Note, maxNote)
	var keep *ban
	var erased error
	s, err := r.run(ctx, q.Account, func(s *step) error {
		gone := &ban{At: s.now.UnixMilli(), Reason: event.AccountDeleted, Note: q.Note}
		keep = nil
		switch b := s.rec.Ban; {
		case q.Refuse:
			keep = gone
		case b != nil && b.Reason == event.Banned:
			keep = b
		}
		if s.rec.Ban == nil || keep != s.rec.Ban {
			s.rec.Ban, s.dirty = gone, true
		}
		why := event.AccountDeleted.Closed(0)
		why.Note = q.Note
		s.endAll(why)
		return nil
	}, func(s *step) {
		r.nodes.ask(s) // while the record still says why they have ended
		if erased = r.erase(ctx, s.a.id, keep); erased != nil {
			return
		}
		for i := range s.changes { // the entries that they name are gone
			s.changes[i].Position = event.Position{}
		}
		s.changes = append(s.changes, Change{Kind: ChangeDeleted, Session: Session{Account: s.a.id, State: Offline}})
	})
	if err = errors.Join(err, erased); err != nil {
		return nil, err
	}
	return s.endedFor(event.AccountDeleted), nil
}

// erase removes all that the account has, except for a ban. It is the account's turn, and a ban keeps others from logging in
// meanwhile. A removal that has begun is seen through, also if ctx ends; see [Registry.DeleteAccount] for what is left if it
// ends before.
func (r *Registry) erase(ctx context.Context, id event.Account, keep *ban) error {
	defer r.records.drop(id)
	var t tries
	for t.n < maxConflicts {
		if err := t.pause(ctx); err != nil {
			return fmt.Errorf("session: delete account: %w", err)
		}
		r.records.drop(id)
		rec, rev, err := r.load(ctx, id)
		if err != nil {
			return t.over(err)
		}
		switch {
		case len(rec.Logins) > 0 || rec.Ban == nil && rev != 0:
			return fmt.Errorf("session: delete account: it was opened again meanwhile: %w", t.over(store.ErrConflict))
		case rev == 0 && keep == nil:
			return nil
		case rev == 0:
			err = r.keepBan(context.WithoutCancel(ctx), id, keep)
		default:
			ctx = context.WithoutCancel(ctx) // from here on there may be no ban that keeps others out
			err = r.st.Delete(ctx, id, rev)
		}
		if err == nil && (rev == 0 || keep == nil) {
			return nil
		}
		if !t.note(err) && err != nil {
			return fmt.Errorf("session: delete account: %w", t.over(err))
		}
	}
	return fmt.Errorf("session: delete account: %w", t.spent())
}

// keepBan gives a deleted account a record that has nothing but a ban.
func (r *Registry) keepBan(ctx context.Context, id event.Account, b *ban) error {
	_, err := r.st.Commit(ctx, store.Batch{
		Account: id, Now: r.clock.Now(), Record: &store.RecordUpdate{Data: (&record{Ban: b}).encode()}, Reserve: true,
	})
	return err
}
