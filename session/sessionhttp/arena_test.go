package sessionhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"iter"
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
