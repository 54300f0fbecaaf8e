package sessionhttp_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// desk is a handler over a registry. Callers name themselves in a header: "desk" may do everything, "user:ACCOUNT" may
// list, kick and remove devices in that account, as the login of the header Self, a "lax user" may try all as that login.
type desk struct {
	t   *testing.T
	reg *session.Registry
	st  *storetest.Faulty
	h   *sessionhttp.Handler

	mu    sync.Mutex
	trail []sessionhttp.Audit
}

// audited returns what the audit hook was told since it was last asked.
func (d *desk) audited() []sessionhttp.Audit {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.trail
	d.trail = nil
	return all
}

// serve gives the desk another handler over its registry.
func (d *desk) serve(cfg sessionhttp.Config) {
	d.t.Helper()
	cfg.Audit = func(_ context.Context, a sessionhttp.Audit) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.trail = append(d.trail, a)
	}
	var err error
	d.h, err = sessionhttp.New(d.reg, authorize, cfg)
	require.NoError(d.t, err)
}

var usersMay = []sessionhttp.Action{sessionhttp.ActionList, sessionhttp.ActionKick, sessionhttp.ActionRemoveDevice}

func authorize(r *http.Request, account event.Account, action sessionhttp.Action) (sessionhttp.Caller, error) {
	who := r.Header.Get("Who")
	switch {
	case who == "":
		return sessionhttp.Caller{}, sessionhttp.ErrUnauthenticated
	case who == "broken":
		return sessionhttp.Caller{}, io.ErrUnexpectedEOF
	case who == "desk":
		return sessionhttp.Caller{Role: sessionhttp.RoleHost, Name: r.Header.Get("Agent")}, nil
	case who == "zero":
		return sessionhttp.Caller{}, nil
	case who == "panics":
		panic("no user directory")
	case who == "user:"+string(account) && slices.Contains(usersMay, action), who == "lax user":
		return sessionhttp.Caller{Role: sessionhttp.RoleDevice, Self: event.LoginID(r.Header.Get("Self"))}, nil
	}
	return sessionhttp.Caller{}, sessionhttp.ErrForbidden
}

func newDesk(t *testing.T, cfg session.Config) *desk {
	t.Helper()
	inner := memstore.New(memstore.Config{})
	st := storetest.WithFaults(inner)
	cfg.LoginsPerMinute, cfg.FlapLimit = -1, -1 // faster than anybody would
	reg, err := session.New(st, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, reg.Close(context.Background()))
		require.NoError(t, st.Close(context.Background()))
	})
	d := &desk{t: t, reg: reg, st: st}
	d.serve(sessionhttp.Config{EaseMob: &sessionhttp.EaseMob{
		GET: true, Organization: "org", ApplicationName: "chat", Application: "0a1b",
	}})
	return d
}

func (d *desk) login(account event.Account, device event.DeviceID, p event.Platform) event.LoginID {
	d.t.Helper()
	res, err := d.reg.Login(context.Background(), session.LoginRequest{
		Account: account, Device: device, Platform: p,
		Description: session.Description{Name: event.CleanName("My " + string(device)), Model: "M", OS: "O", AppVersion: "1", IP: "::1", Extension: []byte{1}},
	})
	require.NoError(d.t, err)
	return res.Session.Login
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
}

// ask sends a request as the desk, unless headers (name, value, …) say otherwise.
func (d *desk) ask(method, path, body string, headers ...string) answer {
	d.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Who", "desk")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	res := w.Result()
	b, err := io.ReadAll(res.Body)
	require.NoError(d.t, err)
	require.Equal(d.t, "no-store", res.Header.Get("Cache-Control"))
	return answer{res, b}
}

// into requires a status and decodes the body.
func (a answer) into(t *testing.T, status int, v any) {
	t.Helper()
	require.Equal(t, status, a.StatusCode, "%s", a.body)
	if v != nil {
		require.NoError(t, json.Unmarshal(a.body, v))
	}
}

// refused requires a problem document with the given code.
func (a answer) refused(t *testing.T, status int, code string) map[string]any {
	t.Helper()
	require.Equal(t, status, a.StatusCode, "%s", a.body)
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
	var p map[string]any
	require.NoError(t, json.Unmarshal(a.body, &p))
	require.Equal(t, code, p["code"])
	require.Equal(t, "urn:manydevice:problem:"+code, p["type"])
	require.EqualValues(t, status, p["status"])
	require.NotEmpty(t, p["title"])
	return p
}

// at returns a path below an account.
func at(account event.Account, rest ...string) string {
	var path strings.Builder
	path.WriteString("/accounts/" + url.PathEscape(string(account)))
	for _, r := range rest {
		path.WriteString("/" + url.PathEscape(r))
	}
	return path.String()
}

var _ store.Store = (*storetest.Faulty)(nil)
