package sessionhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/transport"
)

// What an authorizer returns beside the two errors is its own trouble, whatever it is.
func TestB18_BrokenAuthorizer(t *testing.T) {
	d := newDesk(t, session.Config{})
	for _, broken := range []error{
		context.DeadlineExceeded, &event.InvalidError{Field: "secret", Reason: "shown to nobody"}, session.ErrNotFound, errors.New("x"),
	} {
		h, err := sessionhttp.New(d.reg, func(*http.Request, event.Account, sessionhttp.Action) (sessionhttp.Caller, error) {
			return sessionhttp.Caller{}, broken
		}, sessionhttp.Config{})
		require.NoError(t, err)
		d.h = h
		a := d.ask("GET", at("ann", "logins"), "")
		a.refused(t, 500, "internal")
		require.NotContains(t, string(a.body), "secret")
	}
}

func TestB18_Challenge(t *testing.T) {
	d := newDesk(t, session.Config{})
	require.Equal(t, "Bearer", d.ask("GET", at("ann", "logins"), "", "Who", "").Header.Get("WWW-Authenticate"))
	h, err := sessionhttp.New(d.reg, authorize, sessionhttp.Config{Challenge: `Basic realm="desk"`})
	require.NoError(t, err)
	d.h = h
	require.Equal(t, `Basic realm="desk"`, d.ask("GET", at("ann", "logins"), "", "Who", "").Header.Get("WWW-Authenticate"))
}

// nullConn is a connection to nowhere.
type nullConn struct{}

func (nullConn) Send(context.Context, []event.Frame) error { return nil }
func (nullConn) Close(event.Closed) error                  { return nil }

var _ transport.Conn = nullConn{}

func TestB18_NobodyIsLetInByDefault(t *testing.T) {
	d := newDesk(t, session.Config{})
	_, err := sessionhttp.New(d.reg, nil, sessionhttp.Config{})
	_, invalid := errors.AsType[*event.InvalidError](err)
	require.True(t, invalid)
	_, err = sessionhttp.New(nil, authorize, sessionhttp.Config{})
	require.Error(t, err)

	id := d.login("ann", "d1", "ios")
	for _, route := range routes(t) {
		if route.path == "/openapi.json" {
			continue
		}
		path := strings.NewReplacer("{account}", "ann", "{login}", string(id), "{device}", "d1", "{resource}", string(id)).Replace(route.path)
		for who, want := range map[string]struct {
			status int
			code   string
		}{
			"": {401, "unauthenticated"}, "user:bea": {403, "forbidden"}, "broken": {500, "internal"}, "panics": {500, "internal"},
			"zero": {403, "forbidden"},
		} {
			a := d.ask(route.method, path, "", "Who", who)
			require.Equal(t, want.status, a.StatusCode)
			if !strings.HasPrefix(path, "/users/") {
				a.refused(t, want.status, want.code)
			}
		}
	}
	var p pageView
	d.ask("GET", at("ann", "logins"), "").into(t, 200, &p)
	require.Len(t, p.Logins, 1, "nothing was done")
}

// No token, and nothing of another account, is ever in an answer.
func TestI23_AnswersOfOneAccount(t *testing.T) {
	d := newDesk(t, session.Config{})
	res, err := d.reg.Login(t.Context(), session.LoginRequest{Account: "bea", Device: "secret", Platform: "ios"})
	require.NoError(t, err)
	id := d.login("ann", "d1", "ios")
	for _, path := range []string{
		at("ann", "logins"), at("ann", "logins", string(id)), at("ann", "devices"), at("ann", "presence"), at("ann", "recent"),
		at("ann", "ban"), "/users/ann/resources", at("bea", "logins"), at("bea", "recent"),
	} {
		body := string(d.ask("GET", path, "").body)
		require.NotContains(t, body, res.Token.Reveal())
		if strings.Contains(path, "ann") {
			require.NotContains(t, body, "secret")
		}
	}
}

func TestB18_Unavailable(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "d1", "ios")
	d.st.Break()
	a := d.ask("GET", at("ann", "logins"), "")
	a.refused(t, 503, "unavailable")
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.NoError(t, d.reg.Close(t.Context()))
	d.ask("POST", at("ann", "delete"), "{}").refused(t, 503, "unavailable")
}

func TestB18_BelowAPath(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("a/b", "d1", "ios")
	srv := httptest.NewServer(http.StripPrefix("/admin", d.h))
	defer srv.Close()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/admin"+at("a/b", "logins"), nil)
	require.NoError(t, err)
	q.Header.Set("Who", "desk")
	res, err := srv.Client().Do(q)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	var p pageView
	require.NoError(t, json.NewDecoder(res.Body).Decode(&p))
	require.Len(t, p.Logins, 1)
}

func TestB18_ManyAtOnce(t *testing.T) {
	d := newDesk(t, session.Config{})
	id := d.login("ann", "d1", "ios")
	var done [3]int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			r := httptest.NewRequest("DELETE", at("ann", "logins", string(id)), nil)
			r.Header.Set("Who", "desk")
			w := httptest.NewRecorder()
			d.h.ServeHTTP(w, r)
			mu.Lock()
			defer mu.Unlock()
			switch w.Code {
			case 204:
				done[0]++
			case 404:
				done[1]++
			default:
				done[2]++
			}
		})
	}
	all.Wait()
	require.Equal(t, [3]int{1, 31, 0}, done)
}
