package sessionhttp_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

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
		"dot":            {"GET", "/accounts/./logins", "", nil, 400, "path"},
		"dots, encoded":  {"DELETE", "/accounts/ann/devices/%2e%2E", "", nil, 400, "path"},
		"empty segment":  {"POST", "/accounts//unban", "", nil, 400, "path"},
		"slash at end":   {"DELETE", at("ann", "logins") + "/", "", nil, 400, "path"},
		"dots, no route": {"GET", "/nothing/../x", "", nil, 400, "path"},
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
