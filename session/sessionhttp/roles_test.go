package sessionhttp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
)

// askAll asks every route about ann with good input, and returns the answers by method and pattern.
func (d *desk) askAll(target event.LoginID, headers ...string) map[string]answer {
	all := map[string]answer{}
	for _, rt := range d.h.Routes() {
		if rt.Action == "" {
			continue
		}
		path := strings.NewReplacer("{account}", "ann", "{login}", string(target), "{device}", "d1", "{resource}", string(target)).Replace(rt.Pattern)
		all[rt.Method+" "+rt.Pattern] = d.ask(rt.Method, path, goodBodies[rt.Pattern], headers...)
	}
	return all
}

// K18.6: who asks as a login that is not one of the account's, or has ended, may do nothing at all, and neither may a
// caller without a role.
func TestCallers_OnlyALiveLoginOfTheAccountMayDoAnything(t *testing.T) {
	d := newDesk(t, session.Config{})
	target := d.login("ann", "d1", "ios")
	ended, foreign := d.login("ann", "d2", "ios"), d.login("bob", "b1", "ios")
	_, err := d.reg.Kick(t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{ended}})
	require.NoError(t, err)
	before, err := d.st.Load(t.Context(), "ann")
	require.NoError(t, err)
	for name, headers := range map[string][]string{
		"foreign":   {"Who", "lax user", "Self", string(foreign)},
		"ended":     {"Who", "lax user", "Self", string(ended)},
		"never was": {"Who", "lax user", "Self", string(event.NewLoginID())},
		"garbage":   {"Who", "lax user", "Self", "../x"},
		"empty":     {"Who", "lax user", "Self", ""},
		"capitals":  {"Who", "lax user", "Self", strings.ToUpper(string(target))},
		"no role":   {"Who", "zero"},
	} {
		for route, a := range d.askAll(target, headers...) {
			require.Equal(t, 403, a.StatusCode, "%s: %s: %s", name, route, a.body)
		}
		after, err := d.st.Load(t.Context(), "ann")
		require.NoError(t, err)
		require.Equal(t, before, after, name)
	}
}

// A caller that says two things of itself is let in as neither.
func TestCallers_ThatContradictThemselves(t *testing.T) {
	d := newDesk(t, session.Config{})
	self := d.login("ann", "d1", "ios")
	var out bytes.Buffer
	for _, who := range []sessionhttp.Caller{
		{Self: self}, {Role: sessionhttp.RoleHost, Self: self}, {Role: "admin"}, {Role: "admin", Self: self}, {Name: "root"},
	} {
		h, err := sessionhttp.New(d.reg, func(*http.Request, event.Account, sessionhttp.Action) (sessionhttp.Caller, error) { return who, nil },
			sessionhttp.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		require.NoError(t, err)
		d.h = h
		out.Reset()
		d.ask("GET", at("ann", "logins"), "").refused(t, 403, "forbidden")
		require.Contains(t, out.String(), "account=ann")
	}
}

// An own device lists, reads the log, ends logins and removes devices. Whatever concerns the account as a whole is the
// host's.
func TestCallers_WhatAnOwnDeviceMayDo(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.serve(sessionhttp.Config{})
	var self, other event.LoginID
	for _, rt := range d.h.Routes() {
		if rt.Action == "" {
			continue
		}
		self, other = d.login("ann", "me", "ios"), d.login("ann", "d1", "ios")
		target := strings.NewReplacer("{account}", "ann", "{login}", string(other), "{device}", "d1").Replace(rt.Pattern)
		a := d.ask(rt.Method, target, goodBodies[rt.Pattern], "Who", "lax user", "Self", string(self))
		switch rt.Action {
		case sessionhttp.ActionList, sessionhttp.ActionRecent, sessionhttp.ActionKick, sessionhttp.ActionRemoveDevice:
			require.Equal(t, 2, a.StatusCode/100, "%s %s", rt.Method, target)
		default:
			a.refused(t, 403, "forbidden")
			_, err := d.reg.Get(t.Context(), "ann", self)
			require.NoError(t, err)
		}
	}
	self, other = d.login("ann", "me", "ios"), d.login("ann", "other", "ios")
	for _, body := range []string{
		fmt.Sprintf(`{"others":%q,"keep_credential":true}`, self), fmt.Sprintf(`{"logins":[%q],"keep_credential":true}`, other),
	} {
		p := d.ask("POST", at("ann", "kick"), body, "Who", "user:ann", "Self", string(self)).refused(t, 403, "forbidden")
		require.Equal(t, "keep_credential", p["field"])
	}
	d.ask("POST", at("ann", "kick"), fmt.Sprintf(`{"others":%q,"keep_credential":false}`, self), "Who", "user:ann", "Self", string(self)).into(t, 200, nil)
	require.Equal(t, 403, d.ask("GET", at("ann", "logins"), "", "Who", "user:ann", "Self", string(other)).StatusCode, "it has ended")
	d.ask("GET", at("ann", "logins"), "", "Who", "user:ann", "Self", string(self)).into(t, 200, nil)
}

// A login whose time is over may do nothing, although nothing has ended it yet.
func TestCallers_NotALoginWhoseTimeIsOver(t *testing.T) {
	var ahead atomic.Int64
	d := newDesk(t, session.Config{
		AbsoluteLifetime: time.Hour, SweepInterval: time.Hour,
		Wall: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	self := d.login("ann", "me", "ios")
	ahead.Store(int64(2 * time.Hour))
	d.ask("GET", at("ann", "logins"), "", "Who", "user:ann", "Self", string(self)).refused(t, 403, "not_logged_in")
}

// Two devices end each other at once: the second is told that its own login has ended, and not that the first one's is not
// there.
func TestCallers_EndedWhileTheyAsk(t *testing.T) {
	d := newDesk(t, session.Config{})
	for range 50 {
		a, b := d.login("ann", "a", "ios"), d.login("ann", "b", "ios")
		codes := make(chan int, 2)
		for _, pair := range [][2]event.LoginID{{a, b}, {b, a}} {
			go func() {
				r := httptest.NewRequest("DELETE", at("ann", "logins", string(pair[1])), nil)
				r.Header.Set("Who", "user:ann")
				r.Header.Set("Self", string(pair[0]))
				w := httptest.NewRecorder()
				d.h.ServeHTTP(w, r)
				codes <- w.Code
			}()
		}
		require.ElementsMatch(t, []int{204, 403}, []int{<-codes, <-codes})
		_, err := d.reg.Kick(t.Context(), session.KickRequest{Account: "ann", All: true})
		require.NoError(t, err)
	}
}

// endsItself is a body; when it is read, the login that asks ends.
type endsItself struct {
	io.Reader
	end func()
}

func (b *endsItself) Read(p []byte) (int, error) {
	b.end()
	return b.Reader.Read(p)
}

// A login that ends after it was looked up is told so, and not that the login that it wants to end is not there.
func TestCallers_EndedBeforeTheyAreServed(t *testing.T) {
	d := newDesk(t, session.Config{})
	self, other := d.login("ann", "me", "ios"), d.login("ann", "other", "ios")
	body := &endsItself{strings.NewReader(fmt.Sprintf(`{"logins":[%q]}`, other)), func() {
		_, err := d.reg.Kick(t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{self}})
		require.NoError(t, err)
	}}
	r := httptest.NewRequest("POST", at("ann", "kick"), body)
	for name, value := range map[string]string{"Who": "user:ann", "Self": string(self), "Content-Type": "application/json"} {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	require.Equal(t, 403, w.Code, "%s", w.Body)
	require.Contains(t, w.Body.String(), "not_logged_in")
	_, err := d.reg.Get(t.Context(), "ann", other)
	require.NoError(t, err)
}

// Nothing is read for a login that ends while its request is on the way, either: not even the list of the others.
func TestCallers_EndedWhileTheirRequestIsReadSeeNothing(t *testing.T) {
	d := newDesk(t, session.Config{})
	other := d.login("ann", "d1", "ios")
	for _, rt := range d.h.Routes() {
		if rt.Action != sessionhttp.ActionList && rt.Action != sessionhttp.ActionRecent {
			continue
		}
		self := d.login("ann", "me", "ios")
		target := strings.NewReplacer("{account}", "ann", "{login}", string(other)).Replace(rt.Pattern)
		r := httptest.NewRequest(rt.Method, target, &endsItself{strings.NewReader(""), func() {
			_, err := d.reg.Kick(t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{self}})
			require.NoError(t, err)
		}})
		r.ContentLength = -1 // chunked: whether there is a body is known at its end
		r.Header.Set("Who", "lax user")
		r.Header.Set("Self", string(self))
		w := httptest.NewRecorder()
		d.h.ServeHTTP(w, r)
		require.Equal(t, 403, w.Code, "%s: %s", target, w.Body)
		require.NotContains(t, w.Body.String(), "d1")
	}
}

// The audit trail has each request about an account: who, what, about what, and what came of it.
func TestAudit_HasWhatWasDoneAndWhatWasRefused(t *testing.T) {
	p, err := policy.New(policy.Rules{Primary: policy.PrimaryProtected})
	require.NoError(t, err)
	d := newDesk(t, session.Config{Policy: p})
	a, b := d.login("ann", "d1", "ios"), d.login("ann", "d2", "ios")
	require.NoError(t, d.reg.SetPrimary(t.Context(), "ann", "d1"))
	agent := []string{"Agent", "kim"}
	host, device := sessionhttp.Caller{Role: sessionhttp.RoleHost, Name: "kim"}, sessionhttp.Caller{Role: sessionhttp.RoleDevice, Self: b}
	own := []string{"Who", "user:ann", "Self", string(b)}
	never := event.NewLoginID()
	for _, tt := range []struct {
		name, method, path, body string
		headers                  []string
		want                     sessionhttp.Audit
	}{
		{"read", "GET", at("ann", "logins"), "", agent, sessionhttp.Audit{Action: sessionhttp.ActionList, Caller: host, Outcome: "done", Status: 200}},
		{"nobody", "POST", at("ann", "delete"), "{}", []string{"Who", ""}, sessionhttp.Audit{Action: sessionhttp.ActionDelete, Outcome: "unauthenticated", Status: 401}},
		{"other account", "POST", at("ann", "kick"), `{"all":true}`, []string{"Who", "user:bob"}, sessionhttp.Audit{Action: sessionhttp.ActionKick, Outcome: "forbidden", Status: 403}},
		{"protected", "DELETE", at("ann", "logins", string(a)), "", own, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: device, Target: string(a), Outcome: "protected", Status: 403}},
		{"protected device", "DELETE", at("ann", "devices", "d1"), "", own, sessionhttp.Audit{Action: sessionhttp.ActionRemoveDevice, Caller: device, Target: "d1", Outcome: "protected", Status: 403}},
		{"keeps credential", "POST", at("ann", "kick"), fmt.Sprintf(`{"others":%q,"keep_credential":true}`, b), own, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: device, Target: "others " + string(b), Outcome: "forbidden", Status: 403}},
		{"wrong body", "POST", at("ann", "kick"), `{"ALL":true}`, agent, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: host, Outcome: "body", Status: 400}},
		{"not there", "DELETE", at("ann", "logins", string(never)), "", agent, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: host, Target: string(never), Outcome: "not_found", Status: 404}},
		{"none of a platform", "POST", at("ann", "kick"), `{"platform":"web"}`, agent, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: host, Target: "platform web", Outcome: "nothing", Status: 200}},
		{"ended", "DELETE", at("ann", "logins", string(b)), "", agent, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: host, Target: string(b), Ended: []event.LoginID{b}, Outcome: "done", Status: 204}},
		{"ended device", "GET", at("ann", "logins"), "", own, sessionhttp.Audit{Action: sessionhttp.ActionList, Caller: device, Outcome: "not_logged_in", Status: 403}},
		{"EaseMob, not there", "DELETE", "/users/ann/disconnect/android_1", "", agent, sessionhttp.Audit{Action: sessionhttp.ActionKick, Caller: host, Target: "android_1", Outcome: "nothing", Status: 200}},
		{"ban", "PUT", at("ann", "ban"), "{}", agent, sessionhttp.Audit{Action: sessionhttp.ActionBan, Caller: host, Ended: []event.LoginID{a}, Outcome: "done", Status: 204}},
		{"no such account", "GET", "/accounts/%ff/logins", "", agent, sessionhttp.Audit{Action: sessionhttp.ActionList, Outcome: "invalid", Status: 400}},
	} {
		d.audited()
		d.ask(tt.method, tt.path, tt.body, tt.headers...)
		got := d.audited()
		require.Len(t, got, 1, tt.name)
		require.WithinDuration(t, time.Now(), got[0].Time, time.Minute)
		got[0].Time = time.Time{}
		if tt.name != "no such account" {
			tt.want.Account = "ann"
		}
		require.Equal(t, tt.want, got[0], tt.name)
	}
	d.ask("GET", "/openapi.json", "")
	d.ask("GET", "/nothing", "")
	require.Empty(t, d.audited(), "these are about no account")
}

// An audit hook that panics is logged, and the caller is answered all the same; so is an authorizer. Both are counted (K10, I37).
func TestAudit_ThatPanics(t *testing.T) {
	d := newDesk(t, session.Config{})
	d.login("ann", "d1", "ios")
	var out bytes.Buffer
	h, err := sessionhttp.New(d.reg, authorize, sessionhttp.Config{
		Audit:  func(context.Context, sessionhttp.Audit) { panic("disk full") },
		Logger: slog.New(slog.NewTextHandler(&out, nil)),
	})
	require.NoError(t, err)
	d.h = h
	d.ask("POST", at("ann", "kick"), `{"all":true}`, "Agent", "kim").into(t, 200, nil)
	require.Contains(t, out.String(), "disk full")
	require.Contains(t, out.String(), "role=host")
	require.Contains(t, out.String(), "name=kim", "who it was is not lost")
	require.Contains(t, out.String(), "account=ann")
	require.Contains(t, out.String(), "roles_test.go", "the stack says where")
	out.Reset()
	d.ask("GET", at("ann", "logins"), "", "Who", "panics").refused(t, 500, "internal")
	require.Contains(t, out.String(), "no user directory")
	require.Contains(t, out.String(), "desk_test.go")
	require.Contains(t, out.String(), " err=")
	require.NotContains(t, out.String(), " error=")
	d.ask("GET", at("ann", "logins"), "", "Who", "user:bea").refused(t, 403, "forbidden")
	s := h.Stats()
	require.EqualValues(t, 3, s.Audit.Calls)
	require.EqualValues(t, 3, s.Audit.Panics)
	require.EqualValues(t, 3, s.Authorizer.Calls)
	require.EqualValues(t, 1, s.Authorizer.Panics)
	require.Zero(t, s.Authorizer.Failures, "to let nobody in is no failure")
}
