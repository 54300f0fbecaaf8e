package sessionhttp_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
)

// easeMobView is the envelope of EaseMob's answers, as its documentation has it.
type easeMobView struct {
	Path, URI, Organization, Application, Action, ApplicationName string
	Timestamp, Duration                                           int64
	Entities                                                      []any
	Data                                                          json.RawMessage
}

func (d *desk) easeMob(method, path string, headers ...string) easeMobView {
	d.t.Helper()
	var v easeMobView
	d.ask(method, path, "", headers...).into(d.t, 200, &v)
	return v
}

// K14.10: EaseMob's routes answer in its envelope, and with a result of false about what is not there.
func TestEaseMob_AnswersAsItDoes(t *testing.T) {
	d := newDesk(t, session.Config{})
	res, err := d.reg.Login(t.Context(), session.LoginRequest{
		Account: "ann", Device: "d1", Platform: "android", Description: session.Description{Name: "Pixel"},
	})
	require.NoError(t, err)
	id := res.Session.Login
	d.login("ann", "d2", "ios") // never attached: not listed
	_, err = d.reg.Attach(t.Context(), session.AttachRequest{Account: "ann", Login: id, Token: res.Token}, nullConn{})
	require.NoError(t, err)

	v := d.easeMob("GET", "/users/ann/resources")
	require.JSONEq(t, `[{"res":"`+string(id)+`","device_uuid":"d1","device_name":"Pixel"}]`, string(v.Data))
	require.InDelta(t, time.Now().UnixMilli(), v.Timestamp, 60_000)
	require.Less(t, v.Duration, int64(60_000))
	v.Timestamp, v.Duration, v.Data = 0, 0, nil
	require.Equal(t, easeMobView{
		Path: "/users/ann/resources", URI: "http://example.com/users/ann/resources", Organization: "org", Application: "0a1b", Action: "get",
		ApplicationName: "chat", Entities: []any{},
	}, v)
	require.JSONEq(t, `[]`, string(d.easeMob("GET", "/users/nobody/resources").Data))

	one := "/users/ann/disconnect/" + string(id)
	v = d.easeMob("DELETE", one)
	require.JSONEq(t, `{"result":true}`, string(v.Data))
	require.Equal(t, "delete", v.Action)
	for _, notThere := range []string{one, "/users/bob/disconnect/" + string(id), "/users/ann/disconnect/android_123423453246", "/users/ann/disconnect/d2"} {
		require.JSONEq(t, `{"result":false}`, string(d.easeMob("DELETE", notThere).Data), notThere)
	}
	for _, method := range []string{"POST", "GET"} {
		d.login("ann", "d3", "ios")
		require.JSONEq(t, `{"result":true}`, string(d.easeMob(method, "/users/ann/disconnect").Data))
		all, err := d.reg.List(t.Context(), "ann", "")
		require.NoError(t, err)
		require.Empty(t, all)
		require.JSONEq(t, `{"result":false}`, string(d.easeMob(method, "/users/ann/disconnect").Data), "nobody is there")
	}
}

func TestEaseMob_ErrorsAreInItsForm(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "d1", "ios")
	for name, tt := range map[string]struct {
		method, path string
		headers      []string
		status       int
		code, ours   string
	}{
		"nobody":       {"GET", "/users/ann/resources", []string{"Who", ""}, 401, "unauthorized", "unauthenticated"},
		"forbidden":    {"POST", "/users/ann/disconnect", []string{"Who", "user:bea"}, 403, "forbidden_op", "forbidden"},
		"zero caller":  {"POST", "/users/ann/disconnect", []string{"Who", "zero"}, 403, "forbidden_op", "forbidden"},
		"ended device": {"POST", "/users/ann/disconnect", []string{"Who", "lax user", "Self", string(event.NewLoginID())}, 403, "forbidden_op", "not_logged_in"},
		"parameter":    {"POST", "/users/ann/disconnect?x=y", nil, 400, "illegal_argument", "invalid"},
		"account":      {"POST", "/users/a%00/disconnect", nil, 400, "illegal_argument", "invalid"},
		"resource":     {"DELETE", "/users/ann/disconnect/%e2%80%ae", nil, 400, "illegal_argument", "invalid"},
		"dots":         {"POST", "/users/./disconnect", nil, 400, "illegal_argument", "path"},
		"no user":      {"POST", "/users//disconnect", nil, 400, "illegal_argument", "path"},
		"no route":     {"GET", "/users/ann/nothing", nil, 404, "service_resource_not_found", "no_route"},
		"method":       {"DELETE", "/users/ann/disconnect", nil, 405, "method_not_allowed", "method"},
		"broken":       {"GET", "/users/ann/resources", []string{"Who", "broken"}, 500, "internal_error", "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			a := d.ask(tt.method, tt.path, "", tt.headers...)
			require.Equal(t, tt.status, a.StatusCode)
			require.Equal(t, "application/json", a.Header.Get("Content-Type"))
			var e map[string]any
			require.NoError(t, json.Unmarshal(a.body, &e))
			require.Equal(t, tt.code, e["error"])
			require.Equal(t, tt.ours, e["exception"])
			require.NotEmpty(t, e["error_description"])
			require.NotEmpty(t, e["timestamp"])
			require.Contains(t, e, "duration")
			require.Equal(t, tt.status == 401, a.Header.Get("WWW-Authenticate") != "")
		})
	}
	all, err := d.reg.List(t.Context(), "ann", "")
	require.NoError(t, err)
	require.Len(t, all, 1)
}

func TestEaseMob_RoutesAreThereIfWanted(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "d4", "ios")
	head := d.ask("HEAD", "/users/ann/disconnect", "")
	require.Equal(t, 405, head.StatusCode, "HEAD changes nothing")
	require.Equal(t, "GET, POST", head.Header.Get("Allow"))
	all, err := d.reg.List(t.Context(), "ann", "")
	require.NoError(t, err)
	require.Len(t, all, 1)

	d.serve(sessionhttp.Config{})
	d.ask("GET", "/users/ann/resources", "").refused(t, 404, "no_route")
	d.serve(sessionhttp.Config{EaseMob: &sessionhttp.EaseMob{}})
	refused := d.ask("GET", "/users/ann/disconnect", "")
	require.Equal(t, http.StatusMethodNotAllowed, refused.StatusCode)
	require.Equal(t, "POST", refused.Header.Get("Allow"))

	// Where a tool made for EaseMob looks for it: below the names of the organisation and the application.
	d.serve(sessionhttp.Config{Prefix: "/org/chat", EaseMob: &sessionhttp.EaseMob{}})
	v := d.easeMob("GET", "/org/chat/users/ann/resources")
	require.Equal(t, "/users/ann/resources", v.Path)
	require.Equal(t, "http://example.com/org/chat/users/ann/resources", v.URI)
}
