package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// Codes of errors. They are stable.
const (
	codeInvalid          = "invalid_argument"
	codeNotAuthenticated = "not_authenticated"
	codeNotAttached      = "not_attached"
	codeRefused          = "refused"
	codeEnded            = "ended"
	codeUnknownLogin     = "unknown_login"
	codeNotFound         = "not_found"
	codeForbidden        = "forbidden"
	codeConflict         = "conflict"
	codeFull             = "full"
	codeUnknownOutcome   = "unknown_outcome"
	codeUnavailable      = "unavailable"
	codeInternal         = "internal"
)

var (
	errNotAuthenticated = &fault{codeNotAuthenticated, "authenticate first"}
	errNotAttached      = &fault{codeNotAttached, "attach first"}
)

// errorAnswer is the answer to a request that failed.
type errorAnswer struct {
	Code       string          `json:"code"`
	Message    string          `json:"message"`
	Field      string          `json:"field,omitempty"`               // invalid_argument: which, if it is known
	Rule       string          `json:"rule,omitempty"`                // refused: by which
	Limit      int             `json:"limit,omitempty"`               // refused: logins that the rule allows
	Logins     []listedLogin   `json:"logins,omitempty"`              // refused: who holds the slots
	RetryAfter int64           `json:"retryAfterMs,omitempty,string"` // refused: 0: not before a slot is free
	Closed     json.RawMessage `json:"closed,omitempty"`              // ended: the closing frame
}

// describe turns an error into what the client is told. What it does not know is logged, and not told.
func (s *server) describe(err error) errorAnswer {
	if f, ok := errors.AsType[*fault](err); ok {
		return errorAnswer{Code: f.code, Message: f.message}
	}
	if e, ok := errors.AsType[*event.InvalidError](err); ok {
		return errorAnswer{Code: codeInvalid, Message: e.Reason, Field: e.Field}
	}
	if e, ok := errors.AsType[*session.RefusedError](err); ok {
		return refusal(e)
	}
	if e, ok := errors.AsType[*session.EndedError](err); ok {
		frame, err := event.AppendFrame(nil, &e.Why)
		if err != nil {
			s.log.Error("encode closing frame", "err", err)
			frame = nil
		}
		return errorAnswer{Code: codeEnded, Message: "the login has ended: " + string(e.Why.Reason), Closed: frame}
	}
	for _, k := range knownErrors() {
		if errors.Is(err, k.err) {
			return errorAnswer{Code: k.code, Message: k.message}
		}
	}
	s.log.Error("request", "err", err)
	return errorAnswer{Code: codeInternal, Message: "see the server's log"}
}

func refusal(e *session.RefusedError) errorAnswer {
	a := errorAnswer{
		Code: codeRefused, Message: "no room for another login", Rule: e.Rule, Limit: e.Limit, RetryAfter: e.RetryAfter.Milliseconds(),
	}
	if len(e.Known) > 0 {
		a.Message = fmt.Sprintf("platform %q is not one of %v", e.Platform, e.Known)
	}
	for i := range e.Logins {
		a.Logins = append(a.Logins, listed(&e.Logins[i]))
	}
	return a
}

type knownError struct {
	err     error
	code    string
	message string
}

// knownErrors are the sentinels that a client is told of, the more telling ones first.
func knownErrors() []knownError {
	return []knownError{
		{session.ErrUnknownLogin, codeUnknownLogin, "no such login for this account and token"},
		{fanout.ErrUnknownOrigin, codeUnknownLogin, "this login is there no more"},
		{session.ErrLimited, codeUnavailable, "too many at once: come back later"},
		{session.ErrRecordFull, codeFull, "no room for another login: end some, or shorten their descriptions"},
		{session.ErrNotFound, codeNotFound, "no such login or device"},
		{fanout.ErrUnknownTarget, codeNotFound, "no such login of this account"},
		{fanout.ErrUnknownMessage, codeNotFound, "no such message"},
		{store.ErrMismatch, codeConflict, "the clientId was used for something else"},
		{store.ErrConflict, codeConflict, "too many changes of this account at once"},
		{store.ErrWindowFull, codeFull, "too many clientIds in use: try again later"},
		{store.ErrFull, codeFull, "no room left"},
		{store.ErrUnknownOutcome, codeUnknownOutcome, "it may or may not have happened: repeat it with the same clientId"},
		{store.ErrFailed, codeUnavailable, "the store has failed"},
		{store.ErrClosed, codeUnavailable, "shutting down"},
		{session.ErrClosed, codeUnavailable, "shutting down"},
		{session.ErrFenced, codeUnavailable, "this connection is over"},
		{fanout.ErrClosed, codeUnavailable, "shutting down"},
		{fanout.ErrDetached, codeUnavailable, "this connection is over"},
		{context.DeadlineExceeded, codeUnavailable, "it took too long: it may or may not have happened"},
		{context.Canceled, codeUnavailable, "shutting down: it may or may not have happened"},
	}
}
