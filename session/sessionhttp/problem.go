package sessionhttp

import (
	"context"
	"errors"
	"net/http"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

const (
	maxBody    = 64 << 10
	problemURN = "urn:manydevice:problem:"
)

// problem is a problem document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"` // what is wrong in the request
	Cause  string `json:"cause,omitempty"` // why the policy does not allow it
}

// Errors of requests.
var (
	errPath    = errors.New("the path is not clean")
	errNoRoute = errors.New("there is nothing at this path")
	errMethod  = errors.New("the method is not served here")
	errMedia   = errors.New("the body must be application/json")
	errBody    = errors.New("the body is not what this route takes")
	errSelf    = errors.New("the login that asks is none of this account's")
)

// forbiddenError reports what a caller's role does not allow.
type forbiddenError struct{ field, detail string }

func (e *forbiddenError) Error() string { return "not allowed: " + e.detail }

// authorizeError is what the authorizer said. It cannot be unwrapped: that a host's error is one of ours means nothing.
type authorizeError struct{ err error }

func (e *authorizeError) Error() string { return "authorizer: " + e.err.Error() }

// answer is what a request is answered with.
type answer struct {
	status  int
	media   string
	header  map[string]string
	body    any    // as JSON; nil: none
	outcome string // for the audit trail
}

// refuse returns the answer for an error. What callers are not shown stands in the log.
func (c *call) refuse(err error) answer {
	p := describe(err)
	a := answer{status: p.Status, outcome: p.Code}
	switch p.Status {
	case http.StatusUnauthorized:
		a.header = map[string]string{"WWW-Authenticate": c.h.cfg.Challenge}
	case http.StatusServiceUnavailable:
		a.header = map[string]string{"Retry-After": "1"}
	case http.StatusInternalServerError:
		stack := stackOf(err)
		if e, ok := errors.AsType[*authorizeError](err); ok {
			stack = stackOf(e.err)
		}
		c.h.log.Error("sessionhttp: request failed", "method", c.Method, "account", string(c.account), "error", err, "stack", stack)
	}
	if c.easeMob {
		a.media, a.body = "application/json", c.easeMobError(p)
		return a
	}
	p.Type = problemURN + p.Code
	a.media, a.body = "application/problem+json", p
	return a
}

// internal is the problem whose cause stands in the log alone.
var internal = problem{Status: http.StatusInternalServerError, Code: "internal", Title: "Something went wrong here."}

func describe(err error) problem {
	if e, ok := errors.AsType[*authorizeError](err); ok {
		switch {
		case errors.Is(e.err, ErrUnauthenticated):
			return problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "It is not known who asks."}
		case errors.Is(e.err, ErrForbidden):
			return problem{Status: http.StatusForbidden, Code: "forbidden", Title: "This is not allowed."}
		}
		return internal
	}
	if e, ok := errors.AsType[*forbiddenError](err); ok {
		return problem{Status: http.StatusForbidden, Code: "forbidden", Title: "This is not allowed.", Detail: e.detail, Field: e.field}
	}
	switch { // first, since what a hook returned may be one of the others
	case errors.Is(err, session.ErrHookFailed):
		return problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "What decides about this account does not answer."}
	case errors.Is(err, session.ErrChanging):
		return problem{Status: http.StatusServiceUnavailable, Code: "busy", Title: "Too many others change this account."}
	}
	if e, ok := errors.AsType[*event.InvalidError](err); ok {
		return problem{Status: http.StatusBadRequest, Code: "invalid", Title: "Something in the request is not valid.", Detail: e.Reason, Field: e.Field}
	}
	if e, ok := errors.AsType[*session.ProtectedError](err); ok {
		return problem{
			Status: http.StatusForbidden, Code: "protected", Title: "The policy protects this from the login that asks.", Cause: string(e.Cause),
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Title: "The body is too large."}
	}
	for _, k := range []struct {
		is error
		p  problem
	}{
		{errPath, problem{Status: http.StatusBadRequest, Code: "path", Title: "The path has an empty segment, or one of dots."}},
		{errNoRoute, problem{Status: http.StatusNotFound, Code: "no_route", Title: "There is nothing at this path."}},
		{errMethod, problem{Status: http.StatusMethodNotAllowed, Code: "method", Title: "This method is not served here."}},
		{errSelf, problem{Status: http.StatusForbidden, Code: "not_logged_in", Title: "The login that asks is none of this account's, or has ended."}},
		{session.ErrNotFound, problem{Status: http.StatusNotFound, Code: "not_found", Title: "The account has nothing of that name."}},
		{errMedia, problem{Status: http.StatusUnsupportedMediaType, Code: "media_type", Title: "The body must be application/json."}},
		{errBody, problem{Status: http.StatusBadRequest, Code: "body", Title: "The body is not what this route takes."}},
		{store.ErrUnknownOutcome, problem{Status: http.StatusServiceUnavailable, Code: "unknown_outcome", Title: "It is not known whether this was done."}}, // first: it may have been done
		{session.ErrClosed, problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "The engine is stopped."}},
		{store.ErrFailed, problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "The store does not work."}},
		{store.ErrClosed, problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "The store is closed."}},
		{store.ErrConflict, problem{Status: http.StatusServiceUnavailable, Code: "busy", Title: "Too many others change this account."}},
		{store.ErrFull, problem{Status: http.StatusServiceUnavailable, Code: "full", Title: "The store is full."}},
		{context.DeadlineExceeded, problem{Status: http.StatusServiceUnavailable, Code: "busy", Title: "It took too long."}},
		{context.Canceled, problem{Status: http.StatusServiceUnavailable, Code: "busy", Title: "The request was given up."}},
	} {
		if errors.Is(err, k.is) {
			if errors.Is(err, errBody) {
				k.p.Detail = err.Error()
			}
			return k.p
		}
	}
	return internal
}
