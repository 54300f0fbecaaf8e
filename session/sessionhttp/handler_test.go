package sessionhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/transport"
)

type pageView struct {
	Logins []struct {
		Login, Address, Device, Platform, Name, State, Admission string
		Self                                                     bool
	}
	Next string
}

func TestB18_ListAndGet(t *testing.T) {
	d := newDesk(t, session.Config{})
	const odd = "tenant/ann %41 ü"
	var ids []event.LoginID
	for i := range 5 {
		ids = append(ids, d.login(odd, event.DeviceID(fmt.Sprintf("d%d", i)), event.Platform([]string{"ios", "web"}[i%2])))
	}
	d.login("bea", "b1", "ios")
	var p pageView
	d.ask("GET", at(odd, "logins"), "").into(t, 200, &p)
	require.Len(t, p.Logins, 5)
	require.Empty(t, p.Next)
	for i, l := range p.Logins {
		require.Equal(t, string(ids[i]), l.Login, "earliest first")
		require.Equal(t, odd+"/"+l.Login, l.Address)
		require.Equal(t, "lingering", l.State)
		require.False(t, l.Self)
	}

	var seen []string
	after := ""
	for {
		var part pageView
		d.ask("GET", at(odd, "logins")+"?limit=2"+after, "").into(t, 200, &part)
		for _, l := range part.Logins {
			seen = append(seen, l.Login)
		}
		if part.Next == "" {
			break
		}
		require.Len(t, part.Logins, 2)
		after = "&after=" + part.Next
	}
	require.Len(t, seen, 5)

	d.ask("GET", at(odd, "logins"), "", "Who", "user:"+odd, "Self", string(ids[2])).into(t, 200, &p)
	require.True(t, p.Logins[2].Self)
	var one struct {
		Login, Extension string
		Self             bool
	}
	d.ask("GET", at(odd, "logins", string(ids[2])), "", "Who", "user:"+odd, "Self", string(ids[2])).into(t, 200, &one)
	require.True(t, one.Self)
	require.Equal(t, "AQ==", one.Extension)
	head := d.ask("HEAD", at(odd, "logins", string(ids[2])), "")
	require.Equal(t, 200, head.StatusCode)
	d.ask("GET", at("bea", "logins", string(ids[2])), "").refused(t, 404, "not_found")
	d.ask("GET", at("nobody", "logins"), "").into(t, 200, &p)
	require.Empty(t, p.Logins)
}

func TestB18_EndOne(t *testing.T) {
	d := newDesk(t, session.Config{})
	id, stays := d.login("ann", "d1", "ios"), d.login("ann", "d2", "ios")
	d.ask("DELETE", at("bea", "logins", string(id)), "").refused(t, 404, "not_found")
	d.ask("DELETE", at("ann", "logins", string(id))+"?note=bye", "").into(t, 204, nil)
	d.ask("DELETE", at("ann", "logins", string(id)), "").refused(t, 404, "not_found")
	var p pageView
	d.ask("GET", at("ann", "logins"), "").into(t, 200, &p)
	require.Len(t, p.Logins, 1)
	require.Equal(t, string(stays), p.Logins[0].Login)
	var r struct {
		Recent []struct{ Login, Ended, IP string }
	}
	d.ask("GET", at("ann", "recent"), "").into(t, 200, &r)
	require.Len(t, r.Recent, 3)
	require.Equal(t, string(id), r.Recent[0].Login)
	require.Equal(t, "kicked_host", r.Recent[0].Ended)
	require.Empty(t, r.Recent[1].Ended)
}

func TestB18_Kick(t *testing.T) {
	type result struct {
		Results []struct {
			Login, Denied string
			Ended         bool
		}
	}
	for name, tt := range map[string]struct {
		body  func(ids []event.LoginID) string
		ended int
		left  int
	}{
		"list":     {func(ids []event.LoginID) string { return fmt.Sprintf(`{"logins":["%s","%s"]}`, ids[0], ids[2]) }, 2, 2},
		"all":      {func([]event.LoginID) string { return `{"all":true,"reason":"password_changed"}` }, 4, 0},
		"others":   {func(ids []event.LoginID) string { return fmt.Sprintf(`{"others":"%s"}`, ids[1]) }, 3, 1},
		"platform": {func([]event.LoginID) string { return `{"platform":"WEB","note":"x"}` }, 2, 2},
		"not there": {func(ids []event.LoginID) string {
			return fmt.Sprintf(`{"logins":["%s","%s"]}`, ids[0], event.NewLoginID())
		}, 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, session.Config{})
			var ids []event.LoginID
			for i, p := range []event.Platform{"ios", "web", "ios", "web"} {
				ids = append(ids, d.login("ann", event.DeviceID(fmt.Sprintf("d%d", i)), p))
			}
			var r result
			d.ask("POST", at("ann", "kick"), tt.body(ids)).into(t, 200, &r)
			ended := 0
			for _, k := range r.Results {
				if k.Ended {
					ended++
				}
			}
			require.Equal(t, tt.ended, ended)
			var p pageView
			d.ask("GET", at("ann", "logins"), "").into(t, 200, &p)
			require.Len(t, p.Logins, tt.left)
		})
	}
}

// What the policy protects from an own device is refused to it, and not to the host.
func TestB18_ProtectedLogins(t *testing.T) {
	p, err := policy.New(policy.Rules{Primary: policy.PrimaryProtected})
	require.NoError(t, err)
	d := newDesk(t, session.Config{Policy: p})
	primary, other := d.login("ann", "main", "ios"), d.login("ann", "d2", "web")
	require.NoError(t, d.reg.SetPrimary(context.Background(), "ann", "main"))
	as := []string{"Who", "user:ann", "Self", string(other)}
	got := d.ask("DELETE", at("ann", "logins", string(primary)), "", as...).refused(t, 403, "protected")
	require.NotEmpty(t, got["cause"])
	got = d.ask("DELETE", at("ann", "devices", "main"), "", as...).refused(t, 403, "protected")
	require.Equal(t, "primary", got["cause"], "A8: removing a device is no way around it")
	_, err = d.reg.Get(t.Context(), "ann", primary)
	require.NoError(t, err)
	var r struct {
		Results []struct {
			Denied string
			Ended  bool
		}
	}
	for _, body := range []string{fmt.Sprintf(`{"logins":["%s"]}`, primary), `{"platform":"ios"}`} {
		got = d.ask("POST", at("ann", "kick"), body, as...).refused(t, 403, "protected")
		require.Equal(t, "primary", got["cause"], "all that were there are protected")
	}
	d.ask("POST", at("ann", "kick"), `{"all":true}`, as...).into(t, 200, &r)
	require.Len(t, r.Results, 2)
	require.NotEmpty(t, r.Results[0].Denied)
	d.ask("DELETE", at("ann", "devices", "d2")+"?note=bye", "", "Who", "user:ann", "Self", string(primary)).into(t, 204, nil)
	d.ask("DELETE", at("ann", "devices", "main"), "", as...).refused(t, 403, "not_logged_in")
	d.ask("DELETE", at("ann", "logins", string(primary)), "").into(t, 204, nil)
}

// A device that is too young to end older logins does not have them forgotten either.
func TestA21_B18_YoungDeviceRemovesNone(t *testing.T) {
	p, err := policy.New(policy.Rules{MinAge: time.Hour})
	require.NoError(t, err)
	d := newDesk(t, session.Config{Policy: p})
	d.login("ann", "old", "ios")
	time.Sleep(2 * time.Millisecond)
	young := d.login("ann", "young", "web")
	got := d.ask("DELETE", at("ann", "devices", "old"), "", "Who", "user:ann", "Self", string(young)).refused(t, 403, "protected")
	require.Equal(t, "min_age", got["cause"])
}

// The reason of an end is the host's word, but for the two that a user may give.
func TestB18_ReasonsOfOwnDevices(t *testing.T) {
	for reason, ok := range map[event.Reason]bool{
		"": true, event.KickedSelf: true, event.PasswordChanged: true, event.Banned: false, event.KickedHost: false, event.AccountDeleted: false,
	} {
		d := newDesk(t, session.Config{})
		self := d.login("ann", "d1", "ios")
		d.login("ann", "d2", "ios")
		a := d.ask("POST", at("ann", "kick"), fmt.Sprintf(`{"others":%q,"reason":%q}`, self, reason), "Who", "user:ann", "Self", string(self))
		if ok {
			a.into(t, 200, nil)
			continue
		}
		require.Equal(t, "reason", a.refused(t, 403, "forbidden")["field"], reason)
		all, err := d.reg.List(t.Context(), "ann", "")
		require.NoError(t, err)
		require.Len(t, all, 2)
	}
}

func TestB18_KeepCredential(t *testing.T) {
	var revoked []event.LoginID
	var mu sync.Mutex
	d := newDesk(t, session.Config{Revoke: func(_ context.Context, e session.Ended) error {
		mu.Lock()
		defer mu.Unlock()
		revoked = append(revoked, e.Session.Login)
		return nil
	}})
	kept, gone := d.login("ann", "d1", "ios"), d.login("ann", "d2", "ios")
	d.ask("POST", at("ann", "kick"), fmt.Sprintf(`{"logins":[%q],"keep_credential":true}`, kept)).into(t, 200, nil)
	d.ask("POST", at("ann", "kick"), fmt.Sprintf(`{"logins":[%q]}`, gone)).into(t, 200, nil)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []event.LoginID{gone}, revoked)
}

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

func TestB18_Devices(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "my/phone", "ios")
	d.login("ann", "a", "web")
	var all struct {
		Devices []struct{ Device, Incarnation string }
	}
	d.ask("GET", at("ann", "devices"), "").into(t, 200, &all)
	require.Len(t, all.Devices, 2)
	require.Equal(t, "my/phone", all.Devices[1].Device)
	d.ask("DELETE", at("ann", "devices", "my/phone"), "").into(t, 204, nil)
	d.ask("DELETE", at("ann", "devices", "my/phone"), "").refused(t, 404, "not_found")
	var p struct {
		State  string
		Logins []struct {
			Device string
			Self   bool
		}
	}
	list := d.ask("GET", at("ann", "presence"), "")
	list.into(t, 200, &p)
	require.Equal(t, "lingering", p.State)
	require.Len(t, p.Logins, 1)
}

// TestB18_ABanGoesByTheRegistrysClock, as all that is stored does.
func TestB18_ABanGoesByTheRegistrysClock(t *testing.T) {
	d := newDesk(t, session.Config{Wall: func() time.Time { return time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) }})
	d.login("ann", "d1", "ios")
	d.ask("PUT", at("ann", "ban"), `{"until":"2001-01-02T00:00:00Z"}`).into(t, 204, nil)
}

func TestB18_BanAndDelete(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "d1", "ios")
	d.ask("GET", at("ann", "ban"), "").refused(t, 404, "not_found")
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	for range 2 {
		d.ask("PUT", at("ann", "ban"), fmt.Sprintf(`{"note":"spam","until":%q}`, until.Format(time.RFC3339Nano))).into(t, 204, nil)
	}
	var b struct {
		Reason, Note string
		Until        time.Time
	}
	d.ask("GET", at("ann", "ban"), "").into(t, 200, &b)
	require.Equal(t, "spam", b.Note)
	require.True(t, until.Equal(b.Until))
	_, err := d.reg.Login(t.Context(), session.LoginRequest{Account: "ann", Platform: "ios"})
	require.ErrorIs(t, err, session.ErrBanned)
	for range 2 {
		d.ask("POST", at("ann", "unban"), "").into(t, 204, nil)
	}
	d.login("ann", "d1", "ios")
	d.ask("POST", at("ann", "delete"), `{"refuse":"maybe"}`).refused(t, 400, "body")
	for range 2 {
		d.ask("POST", at("ann", "delete"), `{"refuse":true,"note":"bye"}`).into(t, 204, nil)
	}
	var gone struct {
		Reason string
		Until  *time.Time
	}
	d.ask("GET", at("ann", "ban"), "").into(t, 200, &gone)
	require.Equal(t, "account_deleted", gone.Reason)
	require.Nil(t, gone.Until)
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

func TestB18_BadInput(t *testing.T) {
	d := newDesk(t, session.Config{})
	id := d.login("ann", "d1", "ios")
	kick := at("ann", "kick")
	big := `{"note":"` + strings.Repeat("x", 65<<10) + `"}`
	for name, tt := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		code               string
	}{
		"long account":   {"GET", at(event.Account(strings.Repeat("x", 129)), "logins"), "", nil, 400, "invalid"},
		"control":        {"GET", "/accounts/a%00b/logins", "", nil, 400, "invalid"},
		"not UTF-8":      {"GET", "/accounts/%ff/logins", "", nil, 400, "invalid"},
		"login ID":       {"GET", at("ann", "logins", "x"), "", nil, 400, "invalid"},
		"login ID kick":  {"DELETE", at("ann", "logins", strings.ToUpper(string(id))), "", nil, 400, "invalid"},
		"device":         {"DELETE", at("ann", "devices", "\u202e"), "", nil, 400, "invalid"},
		"limit +1":       {"GET", at("ann", "logins") + "?limit=%2b1", "", nil, 400, "invalid"},
		"limit 01":       {"GET", at("ann", "logins") + "?limit=01", "", nil, 400, "invalid"},
		"empty limit":    {"GET", at("ann", "logins") + "?limit=", "", nil, 400, "invalid"},
		"limit 0":        {"GET", at("ann", "logins") + "?limit=0", "", nil, 400, "invalid"},
		"limit 65":       {"GET", at("ann", "logins") + "?limit=65", "", nil, 400, "invalid"},
		"limit -1":       {"GET", at("ann", "logins") + "?limit=-1", "", nil, 400, "invalid"},
		"after":          {"GET", at("ann", "logins") + "?after=x", "", nil, 400, "invalid"},
		"long note":      {"DELETE", at("ann", "logins", string(id)) + "?note=" + strings.Repeat("x", 513), "", nil, 400, "invalid"},
		"no body":        {"POST", kick, "", nil, 415, "media_type"},
		"form":           {"POST", kick, "all=true", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "media_type"},
		"not JSON":       {"POST", kick, "{", nil, 400, "body"},
		"unknown field":  {"POST", kick, `{"everybody":true}`, nil, 400, "body"},
		"two values":     {"POST", kick, `{"all":true}{}`, nil, 400, "body"},
		"null":           {"POST", kick, `null`, nil, 400, "body"},
		"capitals":       {"POST", kick, `{"ALL":true}`, nil, 400, "body"},
		"one twice":      {"POST", kick, `{"all":false,"all":true}`, nil, 400, "body"},
		"once escaped":   {"POST", kick, `{"note":"x","n\u006fte":"y","all":true}`, nil, 400, "body"},
		"null member":    {"POST", kick, `{"all":true,"note":null}`, nil, 400, "body"},
		"list":           {"POST", kick, `[{"all":true}]`, nil, 400, "body"},
		"null in a list": {"POST", kick, `{"logins":[null]}`, nil, 400, "body"},
		"number":         {"POST", kick, `{"all":1}`, nil, 400, "body"},
		"text for true":  {"POST", kick, `{"all":"true"}`, nil, 400, "body"},
		"half a pair":    {"POST", kick, `{"all":true,"note":"\ud83d"}`, nil, 400, "body"},
		"not UTF-8 note": {"POST", kick, "{\"all\":true,\"note\":\"\xff\"}", nil, 400, "body"},
		"all is false":   {"POST", kick, `{"all":false}`, nil, 400, "invalid"},
		"others empty":   {"POST", kick, `{"others":""}`, nil, 400, "invalid"},
		"empty and all":  {"POST", kick, `{"others":"","all":true}`, nil, 400, "invalid"},
		"no login given": {"POST", kick, `{"logins":[],"all":true}`, nil, 400, "invalid"},
		"query and body": {"POST", kick + "?note=x", `{"all":true}`, nil, 400, "invalid"},
		"ban of null":    {"PUT", at("ann", "ban"), `null`, nil, 400, "body"},
		"ban in year 1":  {"PUT", at("ann", "ban"), `{"until":"0001-01-01T00:00:00Z"}`, nil, 400, "invalid"},
		"ban until ''":   {"PUT", at("ann", "ban"), `{"until":""}`, nil, 400, "body"},
		"ban until null": {"PUT", at("ann", "ban"), `{"until":null}`, nil, 400, "body"},
		"delete of null": {"POST", at("ann", "delete"), `null`, nil, 400, "body"},
		"delete, text":   {"POST", at("ann", "delete"), `{"refuse":"true"}`, nil, 400, "body"},
		"delete, query":  {"POST", at("ann", "delete") + "?refuse=true", `{}`, nil, 400, "invalid"},
		"delete, empty":  {"POST", at("ann", "delete"), ``, nil, 415, "media_type"},
		"semicolon":      {"DELETE", at("ann", "logins", string(id)) + "?note=a;b=c", "", nil, 400, "invalid"},
		"unknown":        {"DELETE", at("ann", "logins", string(id)) + "?reason=x", "", nil, 400, "invalid"},
		"Note":           {"DELETE", at("ann", "logins", string(id)) + "?Note=x", "", nil, 400, "invalid"},
		"note twice":     {"DELETE", at("ann", "logins", string(id)) + "?note=x&note=x", "", nil, 400, "invalid"},
		"bad escape":     {"DELETE", at("ann", "logins", string(id)) + "?note=%zz", "", nil, 400, "invalid"},
		"body of none":   {"DELETE", at("ann", "logins", string(id)), `{"note":"x"}`, nil, 400, "body"},
		"unban, body":    {"POST", at("ann", "unban"), `{}`, nil, 400, "body"},
		"unknown, read":  {"GET", at("ann", "presence") + "?x", "", nil, 400, "invalid"},
		"document":       {"GET", "/openapi.json?x=y", "", nil, 400, "invalid"},
		"too large":      {"POST", kick, big, nil, 413, "too_large"},
		"large tail":     {"POST", kick, `{"all":true}` + strings.Repeat(" ", 65<<10), nil, 413, "too_large"},
		"nothing chosen": {"POST", kick, `{}`, nil, 400, "invalid"},
		"two choices":    {"POST", kick, `{"all":true,"platform":"ios"}`, nil, 400, "invalid"},
		"65 logins":      {"POST", kick, `{"logins":[` + strings.Repeat(`"x",`, 64) + `"x"]}`, nil, 400, "invalid"},
		"reason":         {"POST", kick, `{"all":true,"reason":"moved"}`, nil, 400, "invalid"},
		"stranger":       {"POST", kick, `{"others":"` + string(event.NewLoginID()) + `"}`, nil, 404, "not_found"},
		"ban in past":    {"PUT", at("ann", "ban"), `{"until":"2001-01-01T00:00:00Z"}`, nil, 400, "invalid"},
		"ban time":       {"PUT", at("ann", "ban"), `{"until":"soon"}`, nil, 400, "body"},
		"no route":       {"GET", "/", "", nil, 404, "no_route"},
		"below a login":  {"GET", at("ann", "logins", string(id), "x"), "", nil, 404, "no_route"},
		"method":         {"PATCH", at("ann", "logins"), "", nil, 405, "method"},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.ask(tt.method, tt.path, tt.body, tt.headers...).refused(t, tt.status, tt.code)
			all, err := d.reg.List(context.Background(), "ann", "")
			require.NoError(t, err)
			require.Len(t, all, 1, "nothing was done")
		})
	}
	allow := d.ask("PATCH", at("ann", "ban"), "").Header.Get("Allow")
	require.Equal(t, "GET, HEAD, PUT", allow)
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
		require.NotContains(t, body, string(res.Token))
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
