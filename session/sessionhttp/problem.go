package sessionhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
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
	errMedia = errors.New("the body must be application/json")
	errBody  = errors.New("the body is not what this route takes")
)

func (h *Handler) problem(w http.ResponseWriter, p problem) {
	p.Type = problemURN + p.Code
	h.write(w, p.Status, "application/problem+json", p)
}

// turnAway answers with what the authorizer said.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", h.challenge)
		h.problem(w, problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "It is not known who asks."})
	case errors.Is(err, ErrForbidden):
		h.problem(w, problem{Status: http.StatusForbidden, Code: "forbidden", Title: "This is not allowed."})
	default:
		h.log.Error("sessionhttp: authorizer", "method", r.Method, "err", err)
		h.problem(w, internal)
	}
}

// internal is the problem whose cause stands in the log alone.
var internal = problem{Status: http.StatusInternalServerError, Code: "internal", Title: "Something went wrong here."}

// fail answers with the problem that an error is.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := describe(err)
	switch p.Status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusInternalServerError:
		h.log.Error("sessionhttp", "method", r.Method, "err", err)
	}
	h.problem(w, p)
}

func describe(err error) problem {
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
		{session.ErrNotFound, problem{Status: http.StatusNotFound, Code: "not_found", Title: "The account has nothing of that name."}},
		{errMedia, problem{Status: http.StatusUnsupportedMediaType, Code: "media_type", Title: "The body must be application/json."}},
		{errBody, problem{Status: http.StatusBadRequest, Code: "body", Title: "The body is not what this route takes."}},
		{session.ErrClosed, problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "The engine is stopped."}},
		{store.ErrFailed, problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "The store does not work."}},
		{store.ErrClosed, problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Title: "The store is closed."}},
		{store.ErrConflict, problem{Status: http.StatusServiceUnavailable, Code: "busy", Title: "Too many others change this account."}},
		{store.ErrUnknownOutcome, problem{Status: http.StatusServiceUnavailable, Code: "unknown_outcome", Title: "It is not known whether this was done."}},
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

// read decodes the body, which is one JSON value without unknown fields.
func (c *call) read(v any) error {
	if media, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return errMedia
	}
	d := json.NewDecoder(c.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the value")
			if tooLarge, ok := errors.AsType[*http.MaxBytesError](more); ok {
				err = tooLarge
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBody, err)
	}
	return nil
}
