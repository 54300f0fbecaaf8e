package sessionhttp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
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

// Changes reports whether the action does more than read.
func (a Action) Changes() bool {
	return a != ActionList && a != ActionRecent && a != ActionReadBan
}

// deviceActions are what one of the account's own logins may do, if the authorizer agrees. To ban and to delete an account
// is the host's alone: a policy that protects single logins has no say about all of them at once.
var deviceActions = []Action{ActionList, ActionRecent, ActionKick, ActionRemoveDevice}

// Errors that an [Authorizer] returns.
var (
	// ErrUnauthenticated: it is not known who asks. The answer is 401.
	ErrUnauthenticated = errors.New("sessionhttp: who are you?")
	// ErrForbidden: who asks may not do that. The answer is 403.
	ErrForbidden = errors.New("sessionhttp: not allowed")
)

// Role is on whose behalf a caller asks.
type Role string

// The roles. The zero Role may do nothing.
const (
	// RoleHost is the host, or a person who acts for it, such as support staff. The policy protects nothing from it.
	RoleHost Role = "host"
	// RoleDevice is one of the account's own logins, [Caller.Self].
	RoleDevice Role = "device"
)

// Caller is who asks. The zero value may do nothing.
type Caller struct {
	Role Role
	// Self is, with RoleDevice alone, the login that asks. It has to be one of the account's logins that has not ended, or
	// nothing is done. It is marked in lists, ends are put down to it, and the policy may protect others from it. It may
	// list, read the log, end logins and remove devices; it may give no reason but kicked_self and password_changed, and
	// not keep credentials.
	Self event.LoginID
	// Name says in the audit trail who it is, such as the user name of an agent. Nothing else looks at it.
	Name string
}

// Authorizer decides whether a request may do something with an account, and who asks. It is called before anything is
// read, once the account in the path is found to be well-formed. An error other than [ErrUnauthenticated] and
// [ErrForbidden], and a panic, are answered with 500 and logged. It may be called by several goroutines at once.
//
// [session.Registry.Authenticate] tells which login a device is that sends its login ID and resume token.
type Authorizer func(r *http.Request, account event.Account, action Action) (Caller, error)

// Config tunes a [Handler]. The zero value is valid.
type Config struct {
	// Prefix is the path below which clients find the handler, such as "/admin", without a slash at the end. Requests are
	// served with the prefix and without, so that http.StripPrefix may stand before the handler or not. The OpenAPI document
	// names it as its server. It is as in URLs, percent-encoded where needed, and may not begin with a segment that is the
	// handler's own: accounts, users, openapi.json. Empty: none, and the document names what was stripped from its request.
	Prefix string
	// EaseMob adds the routes of EaseMob's REST interface. Nil: they are not there.
	EaseMob *EaseMob
	// Challenge is the WWW-Authenticate header of answers to callers that are not known, which HTTP demands (RFC 9110,
	// section 11.6.1). Empty means "Bearer".
	Challenge string
	// Audit is told of each request that has come as far as an action on an account, whether it was done or refused, before
	// the answer is written. It is waited for 2 seconds at most; its panics are logged. Nil: none.
	Audit func(ctx context.Context, a Audit)
	// Logger receives errors whose text is not shown to callers. Lines with the same text are folded as those of
	// [session.Config]. Nil discards them.
	Logger *slog.Logger
}

// validate returns every fault of the config.
func (c *Config) validate() error {
	if c.Prefix == "" {
		return nil
	}
	invalid := func(reason string) error { return &event.InvalidError{Field: "Prefix", Reason: reason} }
	segs, ok := split(c.Prefix)
	switch u, err := url.ParseRequestURI(c.Prefix); {
	case !ok:
		return invalid("want a clean path that begins with a slash and ends without one")
	case err != nil || u.EscapedPath() != c.Prefix:
		return invalid("not as it stands in a URL")
	case slices.Contains([]string{"accounts", "users", "openapi.json"}, segs[0].value):
		return invalid("begins with a segment of the handler's own")
	}
	return nil
}

// Handler is an http.Handler. It is safe for concurrent use. It does not answer with redirects, and looks at the path as it
// was sent: see the package's comment on paths.
type Handler struct {
	reg       *session.Registry
	authorize Authorizer
	cfg       Config
	routes    []route
	doc       map[string]json.RawMessage
	log       *trace.Log
	asked     hostcall.Hook // the authorizer
	audited   hostcall.Hook
}

// New returns a handler over a registry, which stays the caller's.
func New(reg *session.Registry, authorize Authorizer, cfg Config) (*Handler, error) {
	if reg == nil {
		return nil, &event.InvalidError{Field: "registry", Reason: "nil"}
	}
	if authorize == nil {
		return nil, &event.InvalidError{Field: "authorizer", Reason: "nil"}
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("sessionhttp: config: %w", err)
	}
	if cfg.EaseMob != nil {
		own := *cfg.EaseMob
		cfg.EaseMob = &own
	}
	cfg.Challenge = cmp.Or(cfg.Challenge, "Bearer")
	h := &Handler{reg: reg, authorize: authorize, cfg: cfg, log: trace.New(cfg.Logger)}
	h.routes = h.table()
	var err error
	if h.doc, err = h.document(); err != nil {
		return nil, fmt.Errorf("sessionhttp: %w", err)
	}
	return h, nil
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	c := &call{Request: r, h: h, begin: time.Now()}
	var segs []segment
	var ok bool
	c.below, segs, ok = h.path(r)
	c.easeMob = h.cfg.EaseMob != nil && (c.below == "/users" || strings.HasPrefix(c.below, "/users/"))
	if !ok {
		h.write(w, c, c.refuse(errPath))
		return
	}
	var allowed []string
	if c.route, c.values, allowed = h.match(r.Method, segs); c.route == nil {
		if len(allowed) == 0 {
			h.write(w, c, c.refuse(errNoRoute))
			return
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		h.write(w, c, c.refuse(errMethod))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	a := h.serve(c)
	if c.route.action != "" {
		h.tell(c, a)
	}
	h.write(w, c, a)
}

// call is a request on its way through the handler.
type call struct {
	*http.Request
	h       *Handler
	begin   time.Time
	below   string // its path, without the prefix
	easeMob bool   // the answer is in EaseMob's form
	route   *route
	values  map[string]string // what the path has for the names in the route
	query   map[string]string // parameters that were given
	body    members           // of the body
	account event.Account
	who     Caller
	self    event.LoginID // who.Self; empty: the host
	target  string        // for the audit trail
	ended   []event.LoginID
	nothing bool // there was nothing to do
}

// serve finds out what a request is for and whether it may have it, and does it.
func (h *Handler) serve(c *call) answer {
	if c.route.action == "" {
		if err := c.readRequest(); err != nil {
			return c.refuse(err)
		}
		return c.done(c.route.serve(c))
	}
	account := event.Account(c.values["account"])
	if err := account.Validate(); err != nil {
		return c.refuse(err)
	}
	c.account = account
	who, err := h.ask(c)
	if err != nil {
		return c.refuse(&authorizeError{err})
	}
	c.who = who
	if err := h.admit(c); err != nil {
		return c.refuse(err)
	}
	if err := c.readRequest(); err != nil {
		return c.refuse(err)
	}
	if err := h.current(c); err != nil {
		return c.refuse(err)
	}
	return c.done(c.route.serve(c))
}

// ask calls the authorizer. Its panics are errors, but for the one with which net/http is told to abort.
func (h *Handler) ask(c *call) (who Caller, err error) {
	var no error // it has decided
	who, err = hostcall.Here(&h.asked, func() (Caller, error) {
		who, err := h.authorize(c.Request, c.account, c.route.action)
		if errors.Is(err, ErrUnauthenticated) || errors.Is(err, ErrForbidden) {
			no, err = err, nil
		}
		return who, err
	})
	if p, ok := errors.AsType[*hostcall.PanicError](err); ok && p.Value == http.ErrAbortHandler {
		panic(p.Value)
	}
	if err = cmp.Or(err, no); err != nil {
		return Caller{}, err
	}
	return who, nil
}

// Stats says what became of calls of the host's code. The authorizer has no time-out; that it lets a caller in or not is no
// failure.
type Stats struct{ Authorizer, Audit session.HookStats }

// Stats returns the figures since the handler was made.
func (h *Handler) Stats() Stats {
	return Stats{Authorizer: session.HookStats(h.asked.Stats()), Audit: session.HookStats(h.audited.Stats())}
}

// admit holds the caller against its role. Whether the login that asks has ended is found out later, by current.
func (h *Handler) admit(c *call) error {
	switch who := c.who; {
	case who.Role == RoleHost && who.Self == "":
		return nil
	case who.Role == RoleDevice:
		if !slices.Contains(deviceActions, c.route.action) {
			return &forbiddenError{detail: "an own device may not do this"}
		}
		self, err := who.Self.Of(c.account)
		if err != nil {
			return errSelf
		}
		c.self = self
		return nil
	}
	h.log.Error("sessionhttp: the authorizer let in a caller without a role", "account", string(c.account), "action", string(c.route.action),
		"role", string(c.who.Role), "name", c.who.Name)
	return &forbiddenError{}
}

// current refuses a login that has ended. It is asked when the whole request is there: a client may take any time to send it,
// and be ended meanwhile.
func (h *Handler) current(c *call) error {
	if c.self == "" {
		return nil
	}
	_, err := h.reg.Current(c.Context(), c.account, c.self)
	if errors.Is(err, session.ErrNotFound) {
		return errSelf
	}
	return err
}

// done turns what a route returned into an answer.
func (c *call) done(out any, err error) answer {
	if errors.Is(err, session.ErrNotFound) && c.self != "" {
		// A login that asks may have ended meanwhile, which the registry does not tell apart from a target that is not there.
		if errors.Is(c.h.current(c), errSelf) {
			err = errSelf
		}
	}
	if err != nil {
		return c.refuse(err)
	}
	a := answer{status: http.StatusOK, media: "application/json", body: out, outcome: OutcomeDone}
	if c.nothing {
		a.outcome = OutcomeNothing
	}
	if out == nil {
		a.status = http.StatusNoContent
	}
	return a
}

// write sends an answer.
func (h *Handler) write(w http.ResponseWriter, c *call, a answer) {
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	body, err := json.Marshal(a.body)
	if err != nil {
		h.log.Error("sessionhttp: an answer cannot be encoded", "account", string(c.account), trace.Err(err))
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", a.media)
	w.WriteHeader(a.status)
	_, _ = w.Write(append(body, '\n')) // an error means that the client is gone
}
