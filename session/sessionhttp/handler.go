package sessionhttp

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// Action is what a caller wants to do with an account.
type Action string

// The actions.
const (
	ActionList         Action = "list" // logins, one login, presence and devices
	ActionRecent       Action = "recent"
	ActionKick         Action = "kick" // end logins
	ActionRemoveDevice Action = "remove_device"
	ActionReadBan      Action = "read_ban"
	ActionBan          Action = "ban" // and the opposite
	ActionDelete       Action = "delete"
)

// changes reports whether the action does more than read.
func (a Action) changes() bool {
	return a != ActionList && a != ActionRecent && a != ActionReadBan
}

// Errors that an [Authorizer] returns.
var (
	// ErrUnauthenticated: it is not known who asks. The answer is 401.
	ErrUnauthenticated = errors.New("sessionhttp: who are you?")
	// ErrForbidden: who asks may not do that. The answer is 403.
	ErrForbidden = errors.New("sessionhttp: not allowed")
)

// Caller is who asks.
type Caller struct {
	// Self is set if the caller is one of the account's own logins: it is marked in lists, ends are put down to it, and
	// the policy may protect others from it. Empty: the host, or somebody who acts for it.
	Self event.LoginID
}

// Authorizer decides whether a request may do something with an account, and who asks. It is called before anything is
// read, once the account in the path is found to be well-formed. An error other than [ErrUnauthenticated] and [ErrForbidden] is answered with 500 and logged. It may be called by
// several goroutines at once.
type Authorizer func(r *http.Request, account event.Account, action Action) (Caller, error)

// Config tunes a [Handler]. The zero value is valid.
type Config struct {
	// EaseMob adds the routes of EaseMob's REST interface, under /users/{user}: GET resources, DELETE
	// disconnect/{resource}, and DELETE disconnect for all. A resource is a login ID.
	EaseMob bool
	// EaseMobGET, with EaseMob, also takes GET disconnect for all, which is that vendor's verb for it. It is off by default:
	// a GET that changes something is run by crawlers, previews and retries.
	EaseMobGET bool
	// Challenge is the WWW-Authenticate header of answers to callers that are not known, which HTTP demands (RFC 9110,
	// section 11.6.1). Empty means "Bearer".
	Challenge string
	// Logger receives errors whose text is not shown to callers. Nil discards them.
	Logger *slog.Logger
}

// Handler is an http.Handler. It is safe for concurrent use, and may be mounted below a path with http.StripPrefix.
type Handler struct {
	reg       *session.Registry
	authorize Authorizer
	challenge string
	mux       *http.ServeMux
	log       *slog.Logger
}

// methods are those that a route may have, in the order of the Allow header.
var methods = []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut}

// New returns a handler over a registry, which stays the caller's.
func New(reg *session.Registry, authorize Authorizer, cfg Config) (*Handler, error) {
	if reg == nil {
		return nil, &event.InvalidError{Field: "registry", Reason: "nil"}
	}
	if authorize == nil {
		return nil, &event.InvalidError{Field: "authorizer", Reason: "nil"}
	}
	h := &Handler{reg: reg, authorize: authorize, challenge: cmp.Or(cfg.Challenge, "Bearer"), mux: http.NewServeMux(), log: cfg.Logger}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.route("GET /accounts/{account}/logins", ActionList, h.logins)
	h.route("GET /accounts/{account}/logins/{login}", ActionList, h.login)
	h.route("DELETE /accounts/{account}/logins/{login}", ActionKick, h.kickOne)
	h.route("POST /accounts/{account}/kick", ActionKick, h.kick)
	h.route("GET /accounts/{account}/devices", ActionList, h.devices)
	h.route("DELETE /accounts/{account}/devices/{device}", ActionRemoveDevice, h.removeDevice)
	h.route("GET /accounts/{account}/presence", ActionList, h.presence)
	h.route("GET /accounts/{account}/recent", ActionRecent, h.recent)
	h.route("GET /accounts/{account}/ban", ActionReadBan, h.readBan)
	h.route("PUT /accounts/{account}/ban", ActionBan, h.ban)
	h.route("DELETE /accounts/{account}/ban", ActionBan, h.unban)
	h.route("DELETE /accounts/{account}", ActionDelete, h.deleteAccount)
	if cfg.EaseMob {
		h.route("GET /users/{account}/resources", ActionList, h.resources)
		h.route("DELETE /users/{account}/disconnect/{login}", ActionKick, h.disconnect)
		h.route("DELETE /users/{account}/disconnect", ActionKick, h.disconnectAll)
		if cfg.EaseMobGET {
			h.route("GET /users/{account}/disconnect", ActionKick, h.disconnectAll)
		}
	}
	doc, err := document(cfg)
	if err != nil {
		return nil, fmt.Errorf("sessionhttp: %w", err)
	}
	h.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc)
	})
	h.mux.HandleFunc("/", h.nothing)
	return h, nil
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h.mux.ServeHTTP(w, r)
}

// call is a request that was let in.
type call struct {
	*http.Request
	account event.Account
	self    event.LoginID
}

// route serves a pattern. serve returns what to answer as JSON, nil for nothing.
func (h *Handler) route(pattern string, action Action, serve func(c *call) (any, error)) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		account := event.Account(r.PathValue("account"))
		if err := account.Validate(); err != nil {
			h.fail(w, r, err)
			return
		}
		if r.Method == http.MethodHead && action.changes() { // the mux takes HEAD for GET
			h.notAllowed(w, h.allowed(r, http.MethodHead))
			return
		}
		who, err := h.authorize(r, account, action)
		if err != nil {
			h.turnAway(w, r, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		out, err := serve(&call{Request: r, account: account, self: who.Self})
		switch {
		case err != nil:
			h.fail(w, r, err)
		case out == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			h.write(w, http.StatusOK, "application/json", out)
		}
	})
}

func (h *Handler) write(w http.ResponseWriter, status int, media string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		h.log.Error("sessionhttp: encode answer", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client is gone: nobody is left to tell
}

// nothing answers what no route is for: 405 if another method would be served, 404 otherwise.
func (h *Handler) nothing(w http.ResponseWriter, r *http.Request) {
	allowed := h.allowed(r, "")
	if len(allowed) == 0 {
		h.problem(w, problem{Status: http.StatusNotFound, Code: "no_route", Title: "There is nothing at this path."})
		return
	}
	h.notAllowed(w, allowed)
}

// allowed returns the methods that are served at the request's path, but one.
func (h *Handler) allowed(r *http.Request, but string) []string {
	var all []string
	for _, m := range methods {
		other := r.Clone(r.Context())
		other.Method = m
		if _, pattern := h.mux.Handler(other); pattern != "/" && m != but {
			all = append(all, m)
		}
	}
	return all
}

func (h *Handler) notAllowed(w http.ResponseWriter, allowed []string) {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	h.problem(w, problem{Status: http.StatusMethodNotAllowed, Code: "method", Title: "This method is not served here."})
}
