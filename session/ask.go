package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/sentinel"
	"github.com/manydevice/manydevice/policy"
)

// Asking the host
//
// A login may need up to three answers of the host: whether it may be, which rules hold, who makes room. The host takes its
// time, so it is never asked while it is the account's turn. And its answer may be out of date when the step commits.
// A call that may need answers therefore goes like this:
//
//  1. It runs decide on a snapshot of the account, without the account's turn. decide notes in step.lacks what it finds
//     missing, and returns. Nothing is committed, and nothing but the question is taken from the snapshot.
//  2. The host is asked, outside any lock. Then 1 again, until nothing is missing.
//  3. The step runs: decide again, on the record that will be committed. Each answer is used only if it answers the question
//     that decide has now, and no SetPolicy or Enforce began after the host was asked. Otherwise it counts as missing, the
//     step is dropped, and the call goes back to 2.
//
// Each of them is asked maxQuestions times at most; then the call fails with a [*ChangingError].
//
// # Why that is enough for Enforce
//
// SetPolicy and Enforce raise Registry.ruled. A step reads it under the account's turn, before it decides. Enforce takes the
// turn of each account after it has raised it. So a login either commits before Enforce's step of the same account, which
// then ends what is too much, or decides after it, with answers that are new. An account that is not in the store yet, since
// this is its first login, has no step of Enforce: therefore a step that admits looks at Registry.enforced once more after its
// commit. If it was raised meanwhile, the account is enforced once more. A step of unknown outcome may admit when it lands:
// the step that finds out, at the latest that of the next sweep, counts as the one that admits. See [Registry.settled].

// maxQuestions is how often one call asks the host the same thing at most.
const maxQuestions = 8

// Fallback says what happens when a hook that decides does not answer: it fails, panics, takes longer than
// Config.HookTimeout, or is not called because too many of its calls for this account hang.
type Fallback uint8

const (
	// Refuse: the call fails with a [*HookError]. Nothing was changed.
	Refuse Fallback = iota
	// Admit: the call goes on as if the hook had no objection. The field that it is set in says what that means.
	Admit
)

// Errors of calls that need an answer of the host.
var (
	// ErrHookFailed is matched by every [*HookError].
	ErrHookFailed = sentinel.New(event.Unavailable, "session: a hook that decides has failed")
	// ErrChanging is matched by every [*ChangingError].
	ErrChanging = sentinel.New(event.Unavailable, "session: the account changes faster than the host answers")
)

// HookError reports that a hook of the host's had to decide and did not. Policy has not refused anything, and nothing was
// changed. It is worth trying again.
type HookError struct {
	Hook       string        // DecideLogin, DecidePolicy, DecideVictims, Filter, or NonBlocking of a connection
	Err        error         // what it returned, or that it panicked, took too long or was not called
	RetryAfter time.Duration // more than zero, and spread by chance
}

// Closed returns what to tell the client.
func (e *HookError) Closed() event.Closed { return event.Unavailable.Closed(e.RetryAfter) }

func (e *HookError) Error() string { return fmt.Sprintf("session: %s: %v", e.Hook, e.Err) }

// Is makes errors.Is(err, ErrHookFailed) true.
func (e *HookError) Is(target error) bool { return target == ErrHookFailed }

// Unwrap returns what the hook returned.
func (e *HookError) Unwrap() error { return e.Err }

// ChangingError reports that the account or the rules changed each time while the host was asked, so that none of its
// answers could be used. Nothing was changed. It is worth trying again.
type ChangingError struct {
	RetryAfter time.Duration // more than zero, and spread by chance
}

// Closed returns what to tell the client.
func (e *ChangingError) Closed() event.Closed { return event.Unavailable.Closed(e.RetryAfter) }

func (e *ChangingError) Error() string {
	return fmt.Sprintf("session: asked the host %d times, and each time the account or the rules had changed", maxQuestions)
}

// Is makes errors.Is(err, ErrChanging) true.
func (e *ChangingError) Is(target error) bool { return target == ErrChanging }

// Question is what the host is asked about a device that wants in. All of it is the host's to keep.
type Question struct {
	Account     event.Account
	Device      event.DeviceID // empty: it named none, or there is no device
	Platform    event.Platform
	Description Description
	Login       event.LoginID // a login that comes back; empty: a new one

	// What follows is set for DecideVictims alone.

	Rule       string    // the rule that asks
	Limit      int       // logins that it allows at once, the newcomer included
	Need       int       // how many of the candidates must end at least
	Candidates []Session // those who may end, earliest first
}

// same reports whether the answer to one question is an answer to the other. Of the candidates it matters who they are, not
// what they did last.
func (q *Question) same(o *Question) bool {
	a, b := &q.Description, &o.Description
	return q.Account == o.Account && q.Device == o.Device && q.Platform == o.Platform && q.Login == o.Login &&
		a.Name == b.Name && a.Model == b.Model && a.OS == b.OS && a.AppVersion == b.AppVersion && a.IP == b.IP &&
		bytes.Equal(a.Extension, b.Extension) &&
		q.Rule == o.Rule && q.Limit == o.Limit && q.Need == o.Need &&
		slices.EqualFunc(q.Candidates, o.Candidates, func(x, y Session) bool { return x.Login == y.Login })
}

// kept returns a copy that the host cannot change.
func (q Question) kept() *Question {
	q.Description.Extension = slices.Clone(q.Description.Extension)
	q.Candidates = slices.Clone(q.Candidates)
	return &q
}

// subject is what the host is asked about.
type subject uint8

const (
	aboutLogin   subject = iota // whether it may go on to the rules
	aboutPolicy                 // which rules
	aboutVictims                // who makes room
	aboutFilter                 // which logins a kick is for
	subjects
)

// lack is an answer that a step needs and has not got.
type lack struct {
	about    subject
	question Question
	// strictest: if the host does not answer, the step goes on by the strictest rule that there can be.
	strictest bool
	again     func(context.Context) error // asks about a filter, which has no question
}

// answer is what the host said to a question.
type answer[T any] struct {
	to    *Question // nil: it was not asked
	ruled uint64    // Registry.ruled before it was asked
	value T
	err   error // the hook failed; value is what stands in for its answer
}

// answers are what the host said to the questions of one call.
type answers struct {
	login   answer[bool]
	policy  answer[*policy.Policy] // nil: the registry's
	victims answer[policy.Answer]
	asked   [subjects]int
}

// need returns the answer to a question if the host has given one that holds for this step. If not, the step lacks it:
// decide has to return at once, and nothing of the step is committed.
func need[T any](s *step, a *answer[T], about subject, q Question) (*answer[T], bool) {
	if a.to != nil && a.ruled == s.ruled && a.to.same(&q) {
		return a, true
	}
	s.lacks = &lack{about: about, question: q}
	return nil, false
}

// runAsking is run for a decide that may need answers of the host; see the top of this file.
func (r *Registry) runAsking(ctx context.Context, id event.Account, decide func(*step) error, apply func(*step)) (*step, error) {
	var have answers
	with := func(s *step) error {
		s.answers = &have
		return decide(s)
	}
	for {
		s, err := r.rehearse(ctx, id, with)
		if err == nil && s == nil {
			s, err = r.run(ctx, id, with, apply)
		}
		if err != nil || s.lacks == nil {
			return s, err
		}
		if err := r.ask(ctx, &have, s.lacks); err != nil {
			return nil, err
		}
	}
}

// rehearse runs decide on a snapshot and returns the step if it lacks an answer, nil if not.
func (r *Registry) rehearse(ctx context.Context, id event.Account, decide func(*step) error) (*step, error) {
	if c := &r.cfg; c.DecideLogin == nil && c.DecidePolicy == nil && c.DecideVictims == nil {
		return nil, nil
	}
	s, err := r.glance(ctx, id)
	if err != nil {
		return nil, err
	}
	if decide(s) != nil || s.lacks == nil { // whether it fails is decided when it is the account's turn
		return nil, nil
	}
	return s, nil
}

// ask asks the host for what a step lacks.
func (r *Registry) ask(ctx context.Context, have *answers, l *lack) (err error) {
	if have.asked[l.about]++; have.asked[l.about] > maxQuestions {
		return &ChangingError{RetryAfter: r.soon()}
	}
	switch l.about {
	case aboutLogin:
		have.login, err = askHost(ctx, r, hook[bool]{
			HookDecideLogin, r.cfg.DecideLogin, r.cfg.DecideLoginFallback, true,
		}, l.question)
	case aboutPolicy:
		have.policy, err = r.askPolicy(ctx, l.question)
		if l.strictest && errors.Is(err, ErrHookFailed) {
			err = nil
		}
	case aboutVictims:
		have.victims, err = askHost(ctx, r, hook[policy.Answer]{
			HookDecideVictims, r.cfg.DecideVictims, r.cfg.DecideVictimsFallback, policy.Answer{},
		}, l.question)
	case aboutFilter:
		err = l.again(ctx)
	}
	return err
}

// askPolicy asks the host for the account's own policy. Without a hook there is none.
func (r *Registry) askPolicy(ctx context.Context, q Question) (answer[*policy.Policy], error) {
	if r.cfg.DecidePolicy == nil {
		return answer[*policy.Policy]{}, nil
	}
	return askHost(ctx, r, hook[*policy.Policy]{
		HookDecidePolicy, r.cfg.DecidePolicy, r.cfg.DecidePolicyFallback, nil,
	}, q)
}

// hook is one of the host's functions that decide.
type hook[T any] struct {
	name     Hook
	fn       func(context.Context, Question) (T, error)
	fallback Fallback
	admit    T // what stands in for an answer if the fallback is Admit
}

// askHost calls a hook. An error is that of ctx, if the caller waits no longer, or a [*HookError].
func askHost[T any](ctx context.Context, r *Registry, h hook[T], q Question) (answer[T], error) {
	a := answer[T]{to: q.kept(), ruled: r.ruled.Load()}
	var err error
	call := hostCall{
		text: "session: a hook that decides did not answer", hook: h.name, about: slog.String("account", string(q.Account)),
		account: q.Account, limit: r.cfg.HookTimeout,
	}
	a.value, err = callHost(ctx, r, call, func(ctx context.Context) (T, error) { return h.fn(ctx, q) })
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return a, fmt.Errorf("session: waiting for %s: %w", h.name, ctx.Err())
	}
	a.value, a.err = h.admit, &HookError{Hook: string(h.name), Err: err, RetryAfter: r.soon()}
	if h.fallback == Admit {
		return a, nil
	}
	return a, a.err
}

const mostSoon = 10 * time.Second // beside a second

// soon is when it is worth to ask a host again that did not answer, spread so that not all do so at once. A host with a long
// HookTimeout may answer the next time all the same.
func (r *Registry) soon() time.Duration {
	return time.Second + rand.N(min(r.cfg.HookTimeout, mostSoon))
}

// question names whom rules are asked for.
func (s *step) question() Question {
	q := s.who
	q.Account = s.a.id
	q.Description.Extension = slices.Clone(q.Description.Extension)
	return q
}

// admitted reports whether the host lets the login go on to the rules; ok: it has said so.
func (s *step) admitted() (yes, ok bool) {
	if s.r.cfg.DecideLogin == nil {
		return true, true
	}
	a, ok := need(s, &s.answers.login, aboutLogin, s.question())
	return ok && a.value, ok
}

// rules returns the policy that holds for the account, or nil if the host has to be asked for it first.
func (s *step) rules() *policy.Policy {
	if s.policy != nil {
		return s.policy
	}
	if s.r.cfg.DecidePolicy != nil {
		q := s.question()
		a, ok := need(s, &s.answers.policy, aboutPolicy, q)
		switch {
		case !ok:
			return nil
		case a.err != nil && s.r.cfg.DecidePolicyFallback == Refuse: // it was good enough for tabs
			s.lacks = &lack{about: aboutPolicy, question: q}
			return nil
		}
		s.policy = a.value
	}
	if s.policy == nil {
		s.policy = s.r.policy.Load()
	}
	return s.policy
}

// tabs returns how many connections a login on the platform may have, or 0 if the host has to be asked first. If the host
// does not answer and Admit is not its fallback, that is one: the strictest rule lets nobody in whom the account's own would
// not, and a device whose old connection nobody has missed yet is not locked out by it.
func (s *step) tabs(platform event.Platform) int {
	if s.r.cfg.DecidePolicy != nil && s.r.cfg.DecidePolicyFallback == Refuse {
		a, ok := need(s, &s.answers.policy, aboutPolicy, s.question())
		switch {
		case !ok:
			s.lacks.strictest = true
			return 0
		case a.err != nil:
			return 1
		}
	}
	rules := s.rules()
	if rules == nil {
		return 0
	}
	return rules.Tabs(platform)
}

// choice returns whom the host has chosen of those who may make room, or nil if it has to be asked first.
func (s *step) choice(d policy.Decision) *policy.Answer {
	if s.r.cfg.DecideVictims == nil {
		return new(policy.Answer)
	}
	q := s.question()
	q.Rule, q.Limit, q.Need = d.Rule, d.Limit, d.Need
	for _, v := range d.Victims {
		if l := s.rec.login(v.Login); l != nil {
			q.Candidates = append(q.Candidates, s.r.view(s.a, l, s.at, ""))
		}
	}
	a, ok := need(s, &s.answers.victims, aboutVictims, q)
	if !ok {
		return nil
	}
	return &a.value
}
