package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/store"
)

// step is one change of one account: decided on its record, committed, then made visible in memory.
type step struct {
	r        *Registry
	a        *account
	at       clock.Reading  // when it is decided
	now      time.Time      // at.Now
	rec      *record        // free to change
	dirty    bool           // rec differs from what is stored
	aged     bool           // something has gone for its age
	grows    bool           // something is added, which is refused if only the room is left that is kept back for ends
	admits   bool           // a login gets a slot, or may have got it by a step of unknown outcome
	ruled    uint64         // Registry.ruled, as it was before anything was decided
	enforced uint64         // Registry.enforced, as it was before that, also before the steps of unknown outcome
	policy   *policy.Policy // the account's; nil until it is needed
	who      Question       // whom rules are asked for, as far as that is a device
	answers  *answers       // of the host; nil: this step does not need any
	lacks    *lack          // the host has to be asked this first; nothing is committed

	ended     []Ended         // logins that this step ends
	unrevoked []event.LoginID // those of them for which the revoke hook is not called
	strange   []event.LoginID // those of them that another engine has ended, which has called the hook, or does
	unlink    []event.LoginID // logins whose live side is over here
	stale     []event.LoginID // logins that are attached on another node now
	displaced []*Connection   // connections that a newer one of their login takes the place of, for this step to close
	fenced    []*Connection   // all that have ended here, whether this step has ended them or somebody else just before
	remote    []event.NodeID  // other nodes that have to look at the account
	again     []event.NodeID  // other nodes that were told to look by an earlier step, and may not have done so yet
	asked     bool            // they were told to
	revoked   func()          // waits until the node that has ended the strange ones has run its revoke hooks; nil: not yet made
	coming    *coming         // the login that it admits or attaches; nil: none
	then      func()          // goes on beside what the step's ends need; nil: nothing
	changes   []Change        // what is to become known
	messages  []store.Message
	about     []int // for each message the change that it tells of
	begin     []store.Begin
	forget    []event.Incarnation

	head event.Position // after the commit: of the last own entry; Seq 0 if the step appended none
}

// run lets decide change the account, commits what it did, has apply make it visible in memory while it is still the
// account's turn, and then tells hooks and connections. decide may run several times, each time on a fresh
// step; apply once, and also if there was nothing to commit. If the step lacks an answer of the host, nothing happens but
// that the step is returned.
//
// ctx bounds all of it up to the commit, and the waits between tries. A commit that has begun is seen through, with what
// follows from it: otherwise the record could say that a login has ended while its connection lives on.
func (r *Registry) run(ctx context.Context, id event.Account, decide func(*step) error, apply func(*step)) (*step, error) {
	if !r.owned.Enter() {
		return nil, ErrClosed
	}
	defer r.owned.Leave()
	a, err := r.enter(ctx, id)
	if err != nil {
		return nil, err
	}
	s, gone, err := r.turn(ctx, a, decide, apply)
	if err != nil || s.lacks != nil {
		return s, err
	}
	r.settled(s, gone)
	return s, nil
}

// turn is the part of run that is the account's turn, after enter; it leaves. Afterwards no Send begins on connections of
// what has ended, and fan-out knows of their end. It returns those that are to be closed: settled has to come after it.
func (r *Registry) turn(ctx context.Context, a *account, decide func(*step) error, apply func(*step)) (*step, []*Connection, error) {
	defer r.leave(a)
	s, err := r.decideAndCommit(ctx, a, decide)
	if err != nil || s.lacks != nil {
		a.mu.Lock()
		a.coming = nil
		a.mu.Unlock()
		return s, nil, err
	}
	gone := s.detachEnded()
	s.tell()
	if apply != nil {
		apply(s)
		s.tell() // before delivery begins on one that takes the place of another
	}
	a.mu.Lock()
	a.coming = nil
	s.noteLocked()
	leaving := a.leavingLocked()
	a.mu.Unlock()
	if len(s.ended)+len(s.stale)+len(s.unlink) > 0 {
		// Within the turn: who ends the same login right after this step returns no sooner than no Send begins. That goes also
		// for connections of the login that somebody else has ended just before.
		for _, c := range leaving {
			c.settled()
		}
	}
	return s, gone, nil
}

// tell tells fan-out of the connections that have ended here.
func (s *step) tell() {
	for _, c := range s.fenced {
		c.tell()
	}
	s.fenced = nil
}

// glance returns a step on the account as it is, without the account's turn: something to look at, not to commit.
func (r *Registry) glance(ctx context.Context, id event.Account) (*step, error) {
	rec, _, err := r.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.begin(r.peek(id), rec, false), nil
}

// begin returns a step on a record, which is brought up to date; spare: but for what would go for its age.
func (r *Registry) begin(a *account, rec *record, spare bool) *step {
	at := r.clock.Read()
	at.Grace = at.Grace || spare
	s := &step{r: r, a: a, at: at, now: at.Now, rec: rec, enforced: r.enforced.Load()}
	s.ruled = r.ruled.Load() // in this order: Enforce raises it first, so that no step takes older answers and is not enforced
	s.settle()
	return s
}

// loadAndBegin returns a step on the record that the store has. What has gone for its age is looked at twice: another engine may
// know that this is not the time for that, and while that cannot be found out it stays.
func (r *Registry) loadAndBegin(ctx context.Context, a *account) (*step, store.Revision, error) {
	for spare := false; ; spare = true {
		rec, rev, err := r.load(ctx, a.id)
		if err != nil {
			return nil, 0, err
		}
		if s := r.begin(a, rec, spare); !s.aged || r.mayAge(ctx) {
			return s, rev, nil
		}
	}
}

// noteLocked makes the step's changes known, in the order of the account's steps.
func (s *step) noteLocked() {
	s.r.noteLocked(s.changes)
	s.changes = nil
}

// settled tells all whom a step concerns: other nodes, hooks, connections. It does not wait for a connection that hangs, and
// for nodes and hooks a bounded time.
func (r *Registry) settled(s *step, gone []*Connection) {
	if s.admits && s.enforced != r.enforced.Load() {
		r.owned.Do(func() { r.enforceAgain(s.a.id) })
	}
	for _, c := range s.displaced {
		r.owned.Do(c.closeConn)
	}
	r.nodes.ask(s)
	if s.then == nil {
		r.finish(s, gone)
		return
	}
	together([]func(){s.then, func() { r.finish(s, gone) }})
}

// decideAndCommit tries until the step is committed, or need not be.
func (r *Registry) decideAndCommit(ctx context.Context, a *account, decide func(*step) error) (*step, error) {
	var t tries
	for t.n < maxConflicts {
		if err := t.pause(ctx); err != nil {
			return nil, fmt.Errorf("session: commit: %w", err)
		}
		s, rev, err := r.loadAndBegin(ctx, a)
		if err != nil {
			return nil, t.over(err)
		}
		err = decide(s)
		if t.lost != nil && (err != nil || s.lacks != nil) { // which says that nothing has changed
			switch again := r.fence(ctx, a.id, rev); {
			case again == nil: // nor will it
			case t.again(again):
				continue
			default:
				return nil, fmt.Errorf("session: commit: %w", t.over(again))
			}
		}
		if err != nil {
			return nil, err
		}
		if !s.dirty || s.lacks != nil {
			return s, nil
		}
		r.beatFirst(ctx)
		if err := ctx.Err(); err != nil {
			return nil, t.over(fmt.Errorf("session: before the commit: %w", err))
		}
		s.announce(s.coming)
		err = s.commit(context.WithoutCancel(ctx), rev)
		if err == nil {
			return s, nil
		}
		r.records.drop(a.id)
		if !t.note(err) {
			return nil, fmt.Errorf("session: commit: %w", t.over(err))
		}
		if errors.Is(err, store.ErrUnknownOutcome) {
			ctx = context.WithoutCancel(ctx) // nobody can be told that it was not done
			s.doubt()
			done, again := s.landed(ctx)
			if again != nil {
				return nil, fmt.Errorf("session: commit: %w", errors.Join(err, again))
			}
			if done {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("session: commit: %w", t.spent())
}

// fence keeps a commit from taking effect whose outcome is not known, if it has not by then: it writes the account's record
// again as it is. [store.ErrConflict] if it is not at the revision any more.
func (r *Registry) fence(ctx context.Context, id event.Account, rev store.Revision) error {
	r.records.drop(id)
	got, err := r.st.Load(ctx, id)
	switch {
	case err != nil:
		return err
	case got.Revision != rev:
		return store.ErrConflict
	case len(got.Data) == 0:
		got.Data = new(record).encode()
	}
	_, err = r.st.Commit(ctx, store.Batch{
		Account: id, Now: r.clock.Now(), Record: &store.RecordUpdate{Expect: rev, Data: got.Data}, Reserve: true,
	})
	return err
}

// landed finds out whether a commit of unknown outcome has taken effect. It has if the record is the one it wrote.
func (s *step) landed(ctx context.Context) (bool, error) {
	got, err := s.r.st.Load(ctx, s.a.id)
	if err != nil {
		return false, err
	}
	want, err := s.encode()
	if err != nil {
		return false, err
	}
	if !bytes.Equal(got.Data, want) {
		return false, nil
	}
	s.r.records.put(s.a.id, cached{data: want, rev: got.Revision})
	for i := range s.messages {
		m, err := s.r.st.Message(ctx, s.messages[i].ID)
		if err != nil { // mostly: superseded, since a newer entry is about the same device
			continue
		}
		s.landedAt(i, m.To[0])
	}
	return true, nil
}

// encode writes the step's record. What is added is refused if it would fill the record up to what ends of logins need.
func (s *step) encode() ([]byte, error) {
	limit := store.MaxRecordBytes
	if s.grows {
		limit -= recordReserve
	}
	data, ok := s.rec.fit(limit)
	if !ok {
		return nil, s.rec.full(limit)
	}
	return data, nil
}

// announce says how the login is that the step brings in, for those who read the record before links are as it says.
func (s *step) announce(c *coming) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	s.a.coming = c
}

func (s *step) commit(ctx context.Context, expect store.Revision) error {
	data, err := s.encode()
	if err != nil {
		return err
	}
	res, err := s.r.st.Commit(ctx, store.Batch{
		Account: s.a.id, Now: s.now, Record: &store.RecordUpdate{Expect: expect, Data: data},
		Begin: s.begin, Forget: s.forget, Messages: s.messages, Reserve: !s.grows,
	})
	if err != nil {
		return err
	}
	s.r.records.put(s.a.id, cached{data: data, rev: res.Revision})
	for i, m := range res.Messages {
		s.landedAt(i, m.To[0])
	}
	return nil
}

// landedAt notes where the entry of one of the step's messages stands.
func (s *step) landedAt(message int, at store.Place) {
	s.head = event.Position{Epoch: at.Epoch, Seq: at.Seq}
	s.changes[s.about[message]].Position = s.head
}

// doubt notes that the step may have taken effect, with the ends that it would have told of. The sweep looks at the
// account, if no other step does so before.
func (s *step) doubt() {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if !s.a.unsure {
		s.a.unsure, s.a.enforced = true, s.enforced
	}
	for _, e := range s.ended {
		id := e.Session.Login
		if slices.Contains(s.strange, id) {
			continue
		}
		s.a.doubts = slices.DeleteFunc(s.a.doubts, func(d doubt) bool { return d.ended.Session.Login == id })
		s.a.doubts = append(s.a.doubts, doubt{ended: e, unrevoked: slices.Contains(s.unrevoked, id)})
	}
}

// full says what takes the room.
func (r *record) full(limit int) error {
	e := &RecordFullError{Limit: limit}
	var b []byte
	for i := range r.Logins {
		l := &r.Logins[i]
		if b = l.append(b[:0]); !l.Description.empty() {
			e.Descriptions += len(l.Description.append(nil))
		}
		e.Logins += len(b)
	}
	for i := range r.Devices {
		b = r.Devices[i].append(b[:0])
		e.Devices += len(b)
	}
	return e
}
