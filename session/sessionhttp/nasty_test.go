package sessionhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store"
)

// nasties are texts that mean something in a path, in a query, or on the way to it; some of them are valid identifiers.
var nasties = []string{
	"", ".", "..", "/", "//", "%2e", "%2e%2e", "%2E%2E", "%2f", "%2F", "%252e%252e", "..;", "a;b", ";", "a\x00b", "\x00", "...", "..%2f", "%2e.",
	strings.Repeat("x", 128), strings.Repeat("x", 129), "\xff", "a\xc0\xaf", "\u202egpj", "\u2068a\u2069", "\U0001F44B", " ", "a b", "+",
	"a+b", "?", "a?b", "#", "a#b", "x\n", "\r\nWho: desk", "../ban", "../../bob", "a/../b", "a/./b", "a//b", "/a", "a/", "\\", "..\\", "%", "%zz",
	"%00", "&", "=", "a=b&c=d", "\"'<>", "e\u0301", "\ufeff", "*", ":", "~", "logins", "ban", "unban", "kick", "delete", "devices",
	"disconnect", "accounts", "users", "openapi.json", "null", "true",
}

// spellings are ways in which a text gets into a path: as it is, as it should be, and with each byte encoded.
var spellings = map[string]func(string) string{
	"raw":     func(s string) string { return s },
	"escaped": url.PathEscape,
	"all escaped": func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
		return b.String()
	},
}

// means returns what a segment of a path addresses, or false if it is no segment.
func means(spelt string) (string, bool) {
	if strings.ContainsAny(spelt, `/?#\`) {
		return "", false
	}
	s, err := url.PathUnescape(spelt)
	return s, err == nil
}

// mounts are the ways in which a host puts the handler below a path.
var mounts = map[string]struct {
	prefix string // of the config
	base   string // where clients find it
	below  func(h http.Handler) http.Handler
}{
	"at the root": {"", "", func(h http.Handler) http.Handler { return h }},
	"stripped by a router that does not clean": {"", "/admin", func(h http.Handler) http.Handler {
		return http.StripPrefix("/admin", h)
	}},
	"stripped below a ServeMux, which redirects": {"", "/admin", func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/admin/", http.StripPrefix("/admin", h))
		return mux
	}},
	"not stripped": {"/admin", "/admin", func(h http.Handler) http.Handler { return h }},
	"not stripped below a ServeMux, which redirects": {"/admin", "/admin", func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/admin/", h)
		return mux
	}},
	"behind a router that redirects decoded paths for good": {"", "", func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if clean := path.Clean(r.URL.Path); clean != r.URL.Path {
				http.Redirect(w, r, (&url.URL{Path: clean, RawQuery: r.URL.RawQuery}).String(), http.StatusMovedPermanently)
				return
			}
			h.ServeHTTP(w, r)
		})
	}},
}

// arena is a desk whose accounts have the names that paths are made of.
type arena struct {
	*desk
	accounts []event.Account
	mounted  http.Handler
	base     string
	redirect bool // something before the handler answers with redirects
	known    map[event.Account]store.Record
}

func newArena(t *testing.T, mount string) *arena {
	a := &arena{desk: newDesk(t, session.Config{MaxDevices: 64})}
	m := mounts[mount]
	a.serve(sessionhttp.Config{Prefix: m.prefix, EaseMob: &sessionhttp.EaseMob{}})
	a.mounted, a.base, a.redirect = m.below(a.h), m.base, strings.Contains(mount, "redirects")
	names := append(slices.Clone(nasties), "ann", "bob", "x", "a", "b", "c", "resources", "presence", "recent")
	for _, n := range names {
		if event.CheckID("account", n) == nil {
			a.accounts = append(a.accounts, event.Account(n))
			a.restore(event.Account(n))
		}
	}
	return a
}

// restore brings an account back to what it was at first: a login, or for ann several, and a ban for some.
func (a *arena) restore(account event.Account) {
	a.known = nil
	ctx := context.Background()
	require.NoError(a.t, a.reg.Unban(ctx, account))
	_, err := a.reg.DeleteAccount(ctx, session.DeleteRequest{Account: account})
	require.NoError(a.t, err)
	a.login(account, "d1", "ios")
	if account == "ann" {
		a.login(account, "..;", "web") // a device of such a name is there
		a.login(account, "a;b", "web")
	}
}

// state is what the store has of every account.
func (a *arena) state() map[event.Account]store.Record {
	all := make(map[event.Account]store.Record, len(a.accounts))
	for _, n := range a.accounts {
		rec, err := a.st.Load(context.Background(), n)
		require.NoError(a.t, err)
		all[n] = rec
	}
	return all
}

// request is one request as it is on the wire.
type request struct{ method, target, body, media string }

// send gives a request to what the handler is mounted in, as a server would have read it. ok is false if no server passes
// it on. With follow, the client goes where redirects say, with everything that it sent at first, as the client of
// package net/http does.
func (a *arena) send(q request, follow bool) (status int, ok bool) {
	for range 10 {
		text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: desk\r\nWho: desk\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			q.method, q.target, q.media, len(q.body), q.body)
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return 0, false
		}
		w := httptest.NewRecorder()
		a.mounted.ServeHTTP(w, r)
		res := w.Result()
		if res.StatusCode/100 != 3 {
			return res.StatusCode, true
		}
		require.True(a.t, a.redirect, "the handler never redirects: %s %s", q.method, q.target)
		if !follow {
			return res.StatusCode, true
		}
		to, err := r.URL.Parse(res.Header.Get("Location"))
		require.NoError(a.t, err)
		q.target = to.RequestURI()
		if res.StatusCode == http.StatusMovedPermanently && q.method != http.MethodGet && q.method != http.MethodHead {
			q.method, q.body = http.MethodGet, ""
		}
	}
	require.Fail(a.t, "redirects without end")
	return 0, false
}

// check sends a request and requires that nothing changes but what it addresses: the account, if it was done.
func (a *arena) check(q request, follow bool, account event.Account, may bool) int {
	before := a.known
	if before == nil {
		before = a.state()
	}
	status, ok := a.send(q, follow)
	if !ok {
		return 0
	}
	require.Less(a.t, status, 500, "%s %s", q.method, q.target)
	after := a.state()
	a.known = after
	for name := range before {
		if name == account && may && status/100 == 2 {
			continue
		}
		if before[name].Revision != after[name].Revision || !bytes.Equal(before[name].Data, after[name].Data) {
			require.Fail(a.t, "something else has changed", "account %q is another after %s %q %s: %d", name, q.method, q.target, q.body, status)
		}
	}
	if account != "" && may && status/100 == 2 && before[account].Revision != after[account].Revision {
		a.restore(account)
	}
	return status
}

// fill writes a route's path with a value for one of its names and good ones for the others.
func (a *arena) fill(pattern, name, spelt string) string {
	all, err := a.reg.List(context.Background(), "ann", "")
	require.NoError(a.t, err)
	good := map[string]string{"account": "ann", "login": string(all[0].Login), "device": "d1", "resource": string(all[0].Login)}
	if name != "" {
		good[name] = spelt
	}
	for n, v := range good {
		pattern = strings.ReplaceAll(pattern, "{"+n+"}", v)
	}
	return a.base + pattern
}

var goodBodies = map[string]string{
	"/accounts/{account}/kick": `{"all":true}`, "/accounts/{account}/ban": `{"note":"x"}`, "/accounts/{account}/delete": `{"refuse":true}`,
}

// forEach runs a check over mounts, for a client that follows redirects and one that does not. Where nothing may
// redirect, these are the same.
func forEach(t *testing.T, which iter.Seq[string], check func(a *arena, follow bool)) {
	for _, mount := range slices.Sorted(which) {
		for _, follow := range []bool{false, true} {
			if follow && !strings.Contains(mount, "redirects") {
				continue
			}
			t.Run(fmt.Sprintf("%s, follows %v", mount, follow), func(t *testing.T) {
				t.Parallel()
				check(newArena(t, mount), follow)
			})
		}
	}
}

// K12.1, K12.5: no text in the place of an identifier makes one request another.
func TestPaths_NothingElseChangesWhateverIsInThem(t *testing.T) {
	forEach(t, maps.Keys(mounts), func(a *arena, follow bool) {
		for _, rt := range a.h.Routes() {
			for _, m := range pathParams.FindAllString(rt.Pattern, -1) {
				name := m[1 : len(m)-1]
				for how, spell := range spellings {
					for _, nasty := range nasties {
						spelt := spell(nasty)
						target := a.fill(rt.Pattern, name, spelt)
						value, segment := means(spelt)
						if a.redirect && strings.Contains(spelt, "/") && strings.Trim(spelt, "/.") != "" {
							continue // what a router makes of it is what the client has written
						}
						account, may := event.Account("ann"), segment
						if name == "account" {
							account = event.Account(value)
						} else if rt.Action == sessionhttp.ActionKick || rt.Action == sessionhttp.ActionRemoveDevice {
							may = segment && (value == "..;" || value == "a;b") // devices of ann
						}
						status := a.check(request{rt.Method, target, goodBodies[rt.Pattern], "application/json"}, follow, account, may)
						if status == 0 || a.redirect {
							continue
						}
						if !segment || value == "" || value == "." || value == ".." {
							require.Contains(a.t, []int{400, 404}, status, "%s %s (%s)", rt.Method, target, how)
							continue
						}
						if err := event.CheckID(name, value); err != nil {
							require.Equal(a.t, 400, status, "%s %q: %v", rt.Method, target, err)
						} else if name == "account" && !strings.Contains(rt.Pattern, "{login}") && rt.Pattern != "/accounts/{account}/ban" {
							require.Equal(a.t, 2, status/100, "%s %q is an account like others", rt.Method, target)
						}
					}
				}
			}
		}
	})
}

// Of a device whose ID means something in a path, just that device is removed.
func TestPaths_RemoveJustTheDeviceThatIsMeant(t *testing.T) {
	for _, mount := range slices.Sorted(maps.Keys(mounts)) {
		t.Run(mount, func(t *testing.T) {
			a := newArena(t, mount)
			for _, nasty := range nasties {
				id := event.DeviceID(nasty)
				if id.Validate() != nil {
					continue
				}
				for _, how := range []string{"escaped", "all escaped"} {
					if strings.Contains(mount, "decoded") && path.Clean("/"+nasty) != "/"+nasty {
						continue
					}
					a.restore("ann")
					a.login("ann", id, "ios")
					before, err := a.reg.Devices(context.Background(), "ann")
					require.NoError(t, err)
					target := a.fill("/accounts/{account}/devices/{device}", "device", spellings[how](nasty))
					status, ok := a.send(request{method: http.MethodDelete, target: target}, true)
					require.True(t, ok)
					require.Equal(t, 204, status, "%q", nasty)
					after, err := a.reg.Devices(context.Background(), "ann")
					require.NoError(t, err)
					delete(before, id)
					require.Equal(t, before, after, "%q", nasty)
				}
			}
		})
	}
}

// K12.2: a parameter that a route does not take, one that is there twice or cannot be read, is never one that is absent.
func TestQueries_AreReadAsAWholeOrNotAtAll(t *testing.T) {
	some := []string{"at the root", "behind a router that redirects decoded paths for good"} // the others do not look at them
	forEach(t, slices.Values(some), func(a *arena, follow bool) {
		for _, rt := range a.h.Routes() {
			target := a.fill(rt.Pattern, "", "")
			send := func(query string) int {
				return a.check(request{rt.Method, target + "?" + query, goodBodies[rt.Pattern], "application/json"}, follow, "ann", true)
			}
			for _, bad := range []string{
				"x", "x=y", "refuse=true;note=y", "note=a;b", "Note=x", "NOTE=x", "note=x&note=x", "note=%zz", "note=x&x=y", "=x", "limit=1&limit=2",
				"all=true", "%6eote=x&note=y", "note%00=x", "account=bob", "note[]=x",
			} {
				require.Equal(a.t, 400, send(bad), "%s %s?%s", rt.Method, target, bad)
			}
			for _, name := range []string{"note", "limit", "after"} {
				for _, nasty := range nasties {
					status := send(name + "=" + url.QueryEscape(nasty))
					if rt.HasBody || !slices.Contains(rt.Takes, name) || event.CheckText(name, nasty) != nil {
						require.Equal(a.t, 400, status, "%s %s %s=%q", rt.Method, target, name, nasty)
					}
					send(name + "=" + nasty)
				}
			}
		}
	})
}

// K12.3: a body is one object whose members are known, as they are written, and there once.
func TestBodies_AreReadAsAWholeOrNotAtAll(t *testing.T) {
	a := newArena(t, "at the root")
	for _, rt := range a.h.Routes() {
		target := a.fill(rt.Pattern, "", "")
		send := func(body, media string) int {
			return a.check(request{rt.Method, target, body, media}, false, "ann", true)
		}
		if !rt.HasBody {
			for _, body := range []string{`{}`, `null`, ` `, `{"all":true}`} {
				require.Equal(t, 400, send(body, "application/json"), "%s %s takes no body", rt.Method, target)
			}
			continue
		}
		good := goodBodies[rt.Pattern]
		for _, bad := range []string{
			`null`, `[]`, `"x"`, `true`, `1`, `{`, `{}{}`, `{},`, `{"x":1}`, `[` + good + `]`, good + good, good + `x`, "\ufeff" + good, strings.ToUpper(good),
			strings.Replace(good, `{`, `{"note":"a","note":"b",`, 1), strings.Replace(good, `{`, `{"Note":"a",`, 1),
			strings.Replace(good, `{`, `{"x":{"note":"a"},`, 1), strings.Replace(good, `{`, `{"note":null,`, 1), good[:len(good)-1], good[:len(good)-1] + ",}",
			"{'note':'x'}", "{\"note\":\"\xff\"}", `{"note":"\ud800"}`, `{"":""}`,
		} {
			require.Equal(t, 400, send(bad, "application/json"), "%s %s", rt.Pattern, bad)
		}
		for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/problem+json"} {
			require.Equal(t, 415, send(good, media), media)
		}
		for _, member := range rt.Takes {
			for _, nasty := range nasties {
				text, err := json.Marshal(nasty)
				require.NoError(t, err)
				for _, value := range []string{string(text), "[" + string(text) + "]", `"` + nasty + `"`} {
					if member == "note" && value == string(text) && event.CheckText("note", nasty) == nil {
						continue // a note like any other
					}
					send(fmt.Sprintf(`{%q:%s}`, member, value), "application/json")
				}
			}
		}
		require.Equal(t, 2, send(good, "application/json; charset=utf-8")/100)
	}
}

// The real client of package net/http, over a real connection, and what was once erased by it.
func TestPaths_OfARealClient(t *testing.T) {
	for _, mount := range slices.Sorted(maps.Keys(mounts)) {
		t.Run(mount, func(t *testing.T) {
			a := newArena(t, mount)
			srv := httptest.NewServer(a.mounted)
			defer srv.Close()
			stay := *srv.Client()
			stay.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			before := a.state()
			for _, ask := range []string{
				"DELETE /accounts/ann/devices/..", "DELETE /accounts/ann/devices/.", "DELETE /accounts/ann/logins/..", "DELETE /accounts/ann/logins/",
				"DELETE /users/ann/disconnect/.", "DELETE /users/ann/disconnect/", "POST /accounts//unban", "PUT /accounts/./ban", "DELETE /accounts//ban",
				"POST /accounts/../delete", "POST /accounts/x/../ann/delete", "DELETE /accounts/ann/devices/%2e%2e", "POST /users/./disconnect",
				"DELETE /accounts/ann?refuse=true;note=y", "DELETE /accounts/ann", "DELETE /accounts/./devices/ban", "POST //accounts/ann/unban",
				"POST /accounts/ann/./kick", "POST /accounts/ann//kick",
			} {
				method, target, _ := strings.Cut(ask, " ")
				if a.redirect && strings.HasPrefix(method, "POST") {
					continue // a router that cleans sends these where they were meant to go
				}
				for _, client := range []*http.Client{srv.Client(), &stay} {
					q, err := http.NewRequestWithContext(t.Context(), method, srv.URL+a.base+target, strings.NewReader(""))
					require.NoError(t, err)
					q.Header.Set("Who", "desk")
					res, err := client.Do(q)
					require.NoError(t, err)
					require.NoError(t, res.Body.Close())
					if !a.redirect { // to where something is read
						require.NotEqual(t, 2, res.StatusCode/100, ask)
					}
					require.Equal(t, before, a.state(), ask)
				}
			}
		})
	}
}

// The rule behind it: no path of a change becomes that of another change when a segment is left out or taken for a step up.
func TestRoutes_NoChangeIsWhatAnotherPathBecomes(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.serve(sessionhttp.Config{EaseMob: &sessionhttp.EaseMob{}})
	for _, rt := range d.h.Routes() {
		for _, m := range pathParams.FindAllString(rt.Pattern, -1) {
			for _, dots := range []string{"", ".", ".."} {
				clean := path.Clean(strings.NewReplacer(m, dots, "{account}", "ban", "{login}", "kick", "{device}", "delete", "{resource}", "disconnect").
					Replace(rt.Pattern))
				for _, method := range []string{rt.Method, http.MethodGet} { // a redirect may change it
					for _, other := range d.h.Routes() {
						if !other.Action.Changes() || other.Method != method || other.Action == "" {
							continue
						}
						shape := "^" + pathParams.ReplaceAllString(other.Pattern, "[^/]+") + "$"
						require.NotRegexp(t, shape, clean, "%s %s with %q for %s", rt.Method, rt.Pattern, dots, m)
					}
				}
			}
		}
	}
}

// Something before the handler that changes the path and loses how it was encoded is noticed.
func TestPaths_ThatWereChangedAreRefused(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "d1", "ios")
	r := httptest.NewRequest("POST", "/admin/accounts/x%2F..%2Fann/unban", nil)
	r.Header.Set("Who", "desk")
	r.URL.Path = "/accounts/ann/unban" // and not RawPath
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	require.Equal(t, 400, w.Code)
	r = httptest.NewRequest("GET", "/", nil)
	r.URL.Path = "accounts/ann/logins" // http.StripPrefix("/admin/")
	w = httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	require.Equal(t, 400, w.Code)
	require.Empty(t, d.audited())
}

func TestConfig_PrefixHasToBeClean(t *testing.T) {
	d := newDesk(t, session.Config{})
	for prefix, ok := range map[string]bool{
		"": true, "/a": true, "/a/b%20c": true, "/": false, "a": false, "/a/": false, "/a//b": false, "/../a": false, "/a/%2e%2e": false, "/accounts": false,
		"/users/x": false, "/openapi.json": false, "/a b": false, "/%zz": false, "/a?b": false, "/%61ccounts": false,
	} {
		_, err := sessionhttp.New(d.reg, authorize, sessionhttp.Config{Prefix: prefix})
		require.Equal(t, ok, err == nil, "%q: %v", prefix, err)
	}
}
