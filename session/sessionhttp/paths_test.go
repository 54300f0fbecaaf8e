package sessionhttp_test

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
)

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
