package sessionhttp_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/session"
)

// FuzzHandler checks that every request is answered in the documented way: with JSON or nothing, never with a fault of the
// server's, and that a caller without rights changes nothing.
func FuzzHandler(f *testing.F) {
	login := "7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o"
	for _, s := range []struct{ method, path, body string }{
		{"GET", "/accounts/ann/logins?limit=2&after=5", ""}, {"GET", "/accounts/ann/logins/" + login, ""},
		{"DELETE", "/accounts/ann/logins/" + login + "?note=bye", ""}, {"POST", "/accounts/ann/kick", `{"all":true,"note":"x"}`},
		{"POST", "/accounts/ann/kick", `{"logins":["` + login + `"]}`}, {"POST", "/accounts/ann/kick", `{"platform":"ios"}`},
		{"GET", "/accounts/ann/devices", ""}, {"DELETE", "/accounts/ann/devices/d1", ""}, {"GET", "/accounts/ann/presence", ""},
		{"GET", "/accounts/ann/recent?limit=1", ""}, {"PUT", "/accounts/ann/ban", `{"until":"2999-01-01T00:00:00Z","note":"x"}`},
		{"POST", "/accounts/ann/unban", ""}, {"POST", "/accounts/ann/delete", "{}"}, {"GET", "/users/ann/resources", ""},
		{"DELETE", "/users/ann/disconnect/" + login, ""}, {"GET", "/users/ann/disconnect", ""}, {"GET", "/openapi.json", ""},
		{"DELETE", "/accounts/ann/devices/..", ""}, {"POST", "/users/ann/disconnect/.", ""}, {"PUT", "/accounts//ban", "null"},
		{"OPTIONS", "/accounts/%ff/../logins", "{"}, {"HEAD", "//", ""},
	} {
		f.Add(s.method, s.path, s.body, true)
		f.Add(s.method, s.path, s.body, false)
	}
	f.Fuzz(func(t *testing.T, method, target, body string, mayDoAll bool) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://desk"+target, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(target, "/") {
			return // net/http lets no such request through
		}
		d := newDesk(t, session.Config{})
		d.login("ann", "d1", "ios")
		if mayDoAll {
			r.Header.Set("Who", "desk")
		}
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		d.h.ServeHTTP(w, r)
		res := w.Result()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Less(t, res.StatusCode, 500, "%s", text)
		require.NotEqual(t, 3, res.StatusCode/100, "no redirects")
		if strings.Contains(res.Header.Get("Content-Type"), "json") && len(text) > 0 {
			require.True(t, json.Valid(text), "%s", text)
		}
		if res.StatusCode >= 400 || !mayDoAll {
			all, err := d.reg.List(context.Background(), "ann", "")
			require.NoError(t, err)
			require.Len(t, all, 1, "nothing was done")
		}
	})
}
