package manydevice_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store/memstore"
)

// TestI24_CallsDoNotRepeatAToken (K10.5): the errors, log lines, problem bodies, pictures and counters of calls that are
// given a token, in the right field or in a wrong one, say nothing of it.
func TestI24_CallsDoNotRepeatAToken(t *testing.T) {
	ctx := t.Context()
	var log lines
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	e, err := manydevice.Open(memstore.New(memstore.Config{}), manydevice.Config{
		Session: session.Config{Logger: logger}, Fanout: fanout.Config{Logger: logger},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close(context.WithoutCancel(ctx))) })
	res, err := e.Sessions.Login(ctx, session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
	require.NoError(t, err)
	login, own := res.Session.Login, res.Token
	att, err := e.Router.Attach(ctx, fanout.AttachRequest{Account: "ann", Login: login, Token: own}, new(ear))
	require.NoError(t, err)

	attach := func(q fanout.AttachRequest) func() error {
		return func() error { _, err := e.Router.Attach(ctx, q, new(ear)); return err }
	}
	kick := func(q session.KickRequest) func() error {
		return func() error { _, err := e.Sessions.Kick(ctx, q); return err }
	}
	send := func(q fanout.SendRequest) func() error {
		return func() error { _, err := e.Router.Send(ctx, q); return err }
	}
	id := event.LoginID(markerText)
	calls := map[string]func() error{
		"attach, another's token":   attach(fanout.AttachRequest{Account: "ann", Login: login, Token: markerToken}),
		"attach, no token":          attach(fanout.AttachRequest{Account: "ann", Login: login, Token: event.ResumeTokenOf(markerText + "x")}),
		"attach, token and device":  attach(fanout.AttachRequest{Account: "ann", Device: "a1", Token: markerToken}),
		"attach, token and vouched": attach(fanout.AttachRequest{Account: "ann", Vouched: true, Login: login, Token: markerToken}),
		"attach, token for login":   attach(fanout.AttachRequest{Account: "ann", Login: id, Token: markerToken}),
		"attach, token for account": attach(fanout.AttachRequest{Account: event.Account(markerText + "\n"), Login: login, Token: markerToken}),
		"attach, token for tab":     attach(fanout.AttachRequest{Account: "ann", Login: login, Token: own, Tab: markerText + "\n"}),
		"authenticate":              func() error { _, err := e.Sessions.Authenticate(ctx, "ann", login, markerToken); return err },
		"authenticate, swapped": func() error {
			_, err := e.Sessions.Authenticate(ctx, "ann", id, event.ResumeTokenOf(string(login)))
			return err
		},
		"get":           func() error { _, err := e.Sessions.Get(ctx, "ann", id); return err },
		"logout":        func() error { return e.Sessions.Logout(ctx, "ann", id) },
		"kick":          kick(session.KickRequest{Account: "ann", Logins: []event.LoginID{id}}),
		"kick others":   kick(session.KickRequest{Account: "ann", Others: id}),
		"kick by":       kick(session.KickRequest{Account: "ann", All: true, By: id}),
		"kick platform": kick(session.KickRequest{Account: "ann", Platform: event.Platform(markerText)}),
		"login, platform": func() error {
			_, err := e.Sessions.Login(ctx, session.LoginRequest{Account: "ann", Platform: event.Platform(markerText)})
			return err
		},
		"send, origin":  send(fanout.SendRequest{From: "ann", Origin: id, To: []event.Account{"bob"}}),
		"send, targets": send(fanout.SendRequest{From: "ann", Targets: []event.LoginID{id}}),
		"claim": func() error {
			_, err := e.Router.Claim(ctx, fanout.ClaimRequest{Account: "ann", Origin: id, Key: "k"})
			return err
		},
		"decode a frame": func() error {
			_, err := event.DecodeFrame([]byte(`{"t":"welcome","login":"l","token":"` + markerText + `\u0007"}`))
			return err
		},
		"decode a client's frame": func() error { _, err := event.DecodeClientFrame([]byte(`{"t":"` + markerText + `"}`)); return err },
		"decode a request": func() error {
			return json.Unmarshal([]byte(`{"Token":{"`+markerText+`":1}}`), new(fanout.AttachRequest))
		},
		"decode a number": func() error { return json.Unmarshal([]byte(`{"Window":"`+markerText+`"}`), new(fanout.AttachRequest)) },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			err := call()
			require.Error(t, err)
			for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%x"} {
				requireNone(t, fmt.Sprintf(verb, err), verb)
			}
			logger.Error("failed", "err", err)
			closed := event.ClosedOf(err)
			requireNone(t, fmt.Sprintf("%+v", closed), "what the client is told")
		})
	}
	for _, line := range []string{
		`{"t":"tokenStored","token":"` + markerText + `"}`, `{"t":"` + markerText + `"}`, `{"` + markerText + `":1}`, markerText,
		`{"t":"ack","position":"` + markerText + `"}`, `{"t":"ack","position":{"epoch":"` + markerText + `"}}`,
		`{"t":"ping","nonce":"` + markerText + `\u0007"}`, `{"t":"nack","code":"` + markerText + markerText + markerText + `"}`,
	} {
		again, err := e.Router.Attach(ctx, fanout.AttachRequest{Account: "ann", Login: login, Token: own}, new(ear))
		if err == nil { // a login may attach five times in a row
			err = again.HandleJSON(ctx, []byte(line))
		}
		requireNone(t, fmt.Sprintf("%v %+v", err, event.ClosedOf(err)), line)
	}
	att.Detach()
	requireNone(t, asks(t, e.Sessions, logger), "what sessionhttp answers")

	picture, err := e.Router.Inspect(ctx, "ann", fanout.InspectOptions{})
	require.NoError(t, err)
	seen, err := e.Sessions.Inspect(ctx, "ann")
	require.NoError(t, err)
	text, err := json.Marshal([]any{picture, seen, e.Router.Stats()})
	require.NoError(t, err)
	for _, all := range []string{string(text), fmt.Sprintf("%+v", picture), fmt.Sprintf("%+v", seen), log.String()} {
		requireNone(t, all, "pictures, counters and logs")
		require.False(t, strings.Contains(all, own.Reveal()), "the login's own token")
	}
	require.Contains(t, log.String(), "failed", "or the test proves nothing")
}

// asks returns what the handler answers if a token stands wherever something can stand in a request.
func asks(t *testing.T, reg *session.Registry, logger *slog.Logger) string {
	t.Helper()
	h, err := sessionhttp.New(reg, func(*http.Request, event.Account, sessionhttp.Action) (sessionhttp.Caller, error) {
		return sessionhttp.Caller{Role: sessionhttp.RoleHost}, nil
	}, sessionhttp.Config{Logger: logger, EaseMob: &sessionhttp.EaseMob{}})
	require.NoError(t, err)
	var all strings.Builder
	for _, path := range []string{
		"GET /accounts/ann/logins/" + markerText, "DELETE /accounts/ann/logins/" + markerText, "GET /accounts/ann/" + markerText,
		"GET /" + markerText, "GET /accounts/ann/logins?" + markerText + "=1", "GET /accounts/ann/logins?limit=" + markerText,
		"GET /accounts/ann/logins?after=" + markerText, "DELETE /accounts/ann/devices/" + url.PathEscape(markerText+"\n"),
		"GET /accounts/" + url.PathEscape(markerText+"\n") + "/logins", "POST /accounts/ann/kick " + markerText,
		`POST /accounts/ann/kick {"` + markerText + `":1}`, `POST /accounts/ann/kick {"all":true,"reason":"` + markerText + `"}`,
		`POST /accounts/ann/kick {"all":"` + markerText + `"}`, `POST /accounts/ann/kick {"logins":["` + markerText + `"]}`,
		`POST /accounts/ann/kick {"platform":"` + markerText + `"}`, `POST /accounts/ann/kick {"others":"` + markerText + `"}`,
		"POST /accounts/ann/delete?" + markerText + "=1", "POST /users/ann/" + markerText, // its DELETE names the path: EaseMob's envelope
	} {
		method, rest, _ := strings.Cut(path, " ")
		target, body, _ := strings.Cut(rest, " ")
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+markerText)
		h.ServeHTTP(w, r)
		require.True(t, w.Code >= 400, path)
		fmt.Fprintln(&all, path[:20], w.Code, w.Header(), w.Body)
	}
	return all.String()
}
