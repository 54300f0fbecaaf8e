package sessionhttp

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is one thing that the handler does.
type route struct {
	method  string
	path    []string // segments; one in braces stands for any
	action  Action   // empty: the authorizer is not asked
	takes   []string // parameters of the query, or members of the body
	hasBody bool     // it takes a body of JSON
	serve   func(c *call) (any, error)
}

// table lists what the handler serves.
//
// When software on the way takes a segment of dots for a step up, or drops an empty one, a path becomes a shorter one. So
// no route that changes something may be what another route's path becomes: each of them has its own number of segments
// or its own last word, for its method.
func (h *Handler) table() []route {
	var all []route
	add := func(on string, action Action, serve func(c *call) (any, error), takes ...string) {
		method, path, _ := strings.Cut(on, " ")
		all = append(all, route{
			method: method, path: strings.Split(path[1:], "/"), action: action, takes: takes,
			hasBody: len(takes) > 0 && (method == http.MethodPost || method == http.MethodPut), serve: serve,
		})
	}
	add("GET /openapi.json", "", h.openapi)
	add("GET /accounts/{account}/logins", ActionList, h.logins, "limit", "after")
	add("GET /accounts/{account}/logins/{login}", ActionList, h.login)
	add("DELETE /accounts/{account}/logins/{login}", ActionKick, h.kickOne, "note")
	add("POST /accounts/{account}/kick", ActionKick, h.kick, "logins", "all", "others", "platform", "note", "reason", "keep_credential")
	add("GET /accounts/{account}/devices", ActionList, h.devices)
	add("DELETE /accounts/{account}/devices/{device}", ActionRemoveDevice, h.removeDevice, "note")
	add("GET /accounts/{account}/presence", ActionList, h.presence)
	add("GET /accounts/{account}/recent", ActionRecent, h.recent)
	add("GET /accounts/{account}/ban", ActionReadBan, h.readBan)
	add("PUT /accounts/{account}/ban", ActionBan, h.ban, "until", "note")
	add("POST /accounts/{account}/unban", ActionBan, h.unban)
	add("POST /accounts/{account}/delete", ActionDelete, h.deleteAccount, "refuse", "note")
	if e := h.cfg.EaseMob; e != nil {
		add("GET /users/{account}/resources", ActionList, h.resources)
		add("DELETE /users/{account}/disconnect/{resource}", ActionKick, h.disconnect)
		add("POST /users/{account}/disconnect", ActionKick, h.disconnectAll)
		if e.GET {
			add("GET /users/{account}/disconnect", ActionKick, h.disconnectAll)
		}
	}
	return all
}

// pattern is the route as the OpenAPI document names it.
func (rt *route) pattern() string { return "/" + strings.Join(rt.path, "/") }

// serves reports whether the route is there for a method. HEAD is a GET whose answer is not sent, if it changes nothing.
func (rt *route) serves(method string) bool {
	return rt.method == method || method == http.MethodHead && rt.method == http.MethodGet && !rt.action.Changes()
}

// match finds the route of a path. values are what the path has for the names in the route. If there is none for the
// method, allowed are those that there are.
func (h *Handler) match(method string, segs []segment) (_ *route, values map[string]string, allowed []string) {
	for i := range h.routes {
		rt := &h.routes[i]
		values, ok := rt.take(segs)
		if !ok {
			continue
		}
		if rt.serves(method) {
			return rt, values, nil
		}
		for _, m := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut} {
			if rt.serves(m) {
				allowed = append(allowed, m)
			}
		}
	}
	slices.Sort(allowed)
	return nil, nil, slices.Compact(allowed)
}

// take returns the values of a path that is the route's.
func (rt *route) take(segs []segment) (map[string]string, bool) {
	if len(segs) != len(rt.path) {
		return nil, false
	}
	values := make(map[string]string)
	for i, want := range rt.path {
		if want[0] == '{' {
			values[want[1:len(want)-1]] = segs[i].value
		} else if segs[i].raw != want {
			return nil, false
		}
	}
	return values, true
}

// segment is what is between two slashes of a path.
type segment struct{ raw, value string } // as it was sent, and decoded

// path returns a request's path below the prefix, as it was sent, and its segments, or false if the path is not clean:
//
//   - a segment is empty or, decoded, a dot or two;
//   - it has a bare '#' or '\', which others take for the end of a path or for a slash;
//   - something before the handler has changed the path and lost how it was encoded, so that a slash within a segment
//     cannot be told from one between two.
func (h *Handler) path(r *http.Request) (below string, segs []segment, ok bool) {
	below = r.URL.EscapedPath()
	if raw := r.URL.RawPath; raw != "" { // taken as it is: characters that should be encoded may not be
		if decoded, err := url.PathUnescape(raw); err != nil || decoded != r.URL.Path {
			return "", nil, false
		}
		below = raw
	}
	if h.cfg.Prefix != "" {
		if rest, ok := strings.CutPrefix(below, h.cfg.Prefix); ok && (rest == "" || rest[0] == '/') {
			below = rest
		}
	}
	if below == "/" || below == "" {
		return below, nil, true
	}
	segs, ok = split(below)
	return below, segs, ok
}

// split returns the segments of a clean path, which begins with a slash.
func split(p string) ([]segment, bool) {
	if p == "" || p[0] != '/' {
		return nil, false
	}
	var segs []segment
	for raw := range strings.SplitSeq(p[1:], "/") {
		value, err := url.PathUnescape(raw)
		if err != nil || value == "" || value == "." || value == ".." || strings.ContainsAny(raw, `#\`) {
			return nil, false
		}
		segs = append(segs, segment{raw, value})
	}
	return segs, true
}
