package manydevice_test

import (
	"context"
	"errors"
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

// pairOf is an account with two devices, of which the first one asks for its peers.
type pairOf struct {
	*manydevice.Engine
	account event.Account
	own     *session.LoginResult
	other   *session.LoginResult
	address string // of the other login, as Peers hands it out
}

func newPair(t *testing.T, account event.Account) *pairOf {
	t.Helper()
	e, err := manydevice.Open(memstore.New(memstore.Config{}), manydevice.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close(context.Background())) })
	p := &pairOf{Engine: e, account: account}
	p.own = p.login(t, "a1")
	p.other = p.login(t, "a2")
	peers, err := e.Sessions.Peers(t.Context(), account, p.own.Session.Login)
	require.NoError(t, err)
	require.Len(t, peers, 1)
	p.address = peers[0].Address.String()
	return p
}

func (p *pairOf) login(t *testing.T, device event.DeviceID) *session.LoginResult {
	t.Helper()
	res, err := p.Sessions.Login(t.Context(), session.LoginRequest{Account: p.account, Device: device, Platform: "ios"})
	require.NoError(t, err)
	return res
}

// didLast reports whether the other login is the one that has done the account's latest entry.
func (p *pairOf) didLast(ctx context.Context, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	in, err := p.Router.Inspect(ctx, p.account, fanout.InspectOptions{})
	if err != nil {
		return false, err
	}
	return in.Entries[len(in.Entries)-1].Origin == p.other.Session.Login, nil
}

// asLogin are the calls that ask for a login of an account. They say whether they have meant the other login.
var asLogin = map[string]func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error){
	"Get": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		s, err := p.Sessions.Get(ctx, p.account, id)
		return s.Device == "a2", err
	},
	"Current": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		s, err := p.Sessions.Current(ctx, p.account, id)
		return s.Device == "a2", err
	},
	"Resolve": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		b, err := p.Sessions.Resolve(ctx, p.account, id)
		return b.Device == "a2", err
	},
	"Authenticate": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		s, err := p.Sessions.Authenticate(ctx, p.account, id, p.other.Token)
		return s.Device == "a2", err
	},
	"List": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		all, err := p.Sessions.List(ctx, p.account, id)
		return err == nil && all[1].Self, err
	},
	"Peers": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		all, err := p.Sessions.Peers(ctx, p.account, id)
		return err == nil && len(all) == 1 && all[0].Device == "a1", err
	},
	"Attach": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		a, err := p.Router.Attach(ctx, fanout.AttachRequest{Account: p.account, Login: id, Token: p.other.Token}, new(ear))
		return err == nil && a.Device() == "a2" && a.Login() == p.other.Session.Login, err
	},
	"Attach, vouched": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		a, err := p.Router.Attach(ctx, fanout.AttachRequest{Account: p.account, Login: id, Vouched: true}, new(ear))
		return err == nil && a.Device() == "a2", err
	},
	"LoginReplacing": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		res, err := p.Sessions.LoginReplacing(ctx, session.LoginRequest{Account: p.account, Device: "a3", Platform: "ios"}, id)
		return err == nil && res.Victims[0].Session.Device == "a2", err
	},
	"Kick": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		given := []event.LoginID{id}
		res, err := p.Sessions.Kick(ctx, session.KickRequest{Account: p.account, Logins: given})
		return err == nil && res[0] == session.KickResult{Login: p.other.Session.Login, Ended: true} && given[0] == id, err
	},
	"Kick, others": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		res, err := p.Sessions.Kick(ctx, session.KickRequest{Account: p.account, Others: id})
		return err == nil && len(res) == 1 && res[0].Login == p.own.Session.Login, err
	},
	"Kick, by": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		res, err := p.Sessions.Kick(ctx, session.KickRequest{Account: p.account, Logins: []event.LoginID{p.own.Session.Login}, By: id})
		return err == nil && res[0].Ended, err
	},
	"RemoveDevice, by": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		return true, p.Sessions.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: p.account, Device: "a1", By: id})
	},
	"Logout": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		return true, p.Sessions.Logout(ctx, p.account, id)
	},
	"Send, targets": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		given := []event.LoginID{id}
		_, err := p.Router.Send(ctx, fanout.SendRequest{From: p.account, Targets: given, Payload: []byte("x")})
		return given[0] == id, err
	},
	"Send, origin": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		return p.didLast(ctx, given(p.Router.Send(ctx, fanout.SendRequest{From: p.account, Origin: id, To: []event.Account{"bob"}})))
	},
	"Send, narrow": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		n := []fanout.Narrow{{Account: p.account, Logins: []event.LoginID{id}}}
		_, err := p.Router.Send(ctx, fanout.SendRequest{From: p.account, Narrow: n})
		return n[0].Logins[0] == id, err
	},
	"Send, except": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		n := []fanout.Narrow{{Account: p.account, Logins: []event.LoginID{p.other.Session.Login}, Except: []event.LoginID{id}}}
		err := given(p.Router.Send(ctx, fanout.SendRequest{From: p.account, Narrow: n}))
		if errors.Is(err, fanout.ErrUnknownTarget) { // nobody is left: it was understood
			return true, nil
		}
		return false, err
	},
	"Publish": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		return true, given(p.Router.Publish(ctx, fanout.PublishRequest{From: p.account, Origin: id, Kind: "typing", Mirror: true}))
	},
	"Publish, narrow": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		n := []fanout.Narrow{{Account: p.account, Logins: []event.LoginID{id}}}
		return true, given(p.Router.Publish(ctx, fanout.PublishRequest{From: p.account, Kind: "typing", Mirror: true, Narrow: n}))
	},
	"MarkRead": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		return p.didLast(ctx, given(p.Router.MarkRead(ctx, fanout.MarkReadRequest{Account: p.account, Origin: id, Conversation: "c", Seq: 1})))
	},
	"ClearUnread": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		return true, given(p.Router.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: p.account, Origin: id}))
	},
	"Claim": func(ctx context.Context, p *pairOf, id event.LoginID) (bool, error) {
		c, err := p.Router.Claim(ctx, fanout.ClaimRequest{Account: p.account, Origin: id, Key: "k"})
		return c.Winner.Login == p.other.Session.Login, err
	},
	"HTTP, get":     overHTTP("GET", "logins/{login}", "", `"device":"a2"`),
	"HTTP, delete":  overHTTP("DELETE", "logins/{login}", "", ""),
	"HTTP, kick":    overHTTP("POST", "kick", `{"logins":["{login}"]}`, `"ended":true`),
	"HTTP, others":  overHTTP("POST", "kick", `{"others":"{login}"}`, `"ended":true`),
	"HTTP, self":    overHTTP("GET", "logins", "", `"self":true`),
	"HTTP, EaseMob": overHTTP("DELETE", "/users/{account}/disconnect/{login}", "", `"result":true`),
}

// given drops what a call returns besides its error.
func given[T any](_ T, err error) error { return err }

// overHTTP makes a request as the host, or, for the list, as the login.
func overHTTP(method, path, body, want string) func(context.Context, *pairOf, event.LoginID) (bool, error) {
	return func(_ context.Context, p *pairOf, id event.LoginID) (bool, error) {
		caller := sessionhttp.Caller{Role: sessionhttp.RoleHost}
		if path == "logins" {
			caller = sessionhttp.Caller{Role: sessionhttp.RoleDevice, Self: id}
		}
		h, err := sessionhttp.New(p.Sessions, func(*http.Request, event.Account, sessionhttp.Action) (sessionhttp.Caller, error) {
			return caller, nil
		}, sessionhttp.Config{EaseMob: &sessionhttp.EaseMob{}})
		if err != nil {
			return false, err
		}
		full := path
		if !strings.HasPrefix(path, "/") {
			full = "/accounts/{account}/" + path
		}
		fill := strings.NewReplacer("{account}", url.PathEscape(string(p.account)), "{login}", url.PathEscape(string(id)))
		r := httptest.NewRequest(method, fill.Replace(full), strings.NewReader(strings.ReplaceAll(body, "{login}", string(id))))
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch text := w.Body.String(); {
		case w.Code == 400 || w.Code == 403 || strings.Contains(text, `"result":false`):
			return false, &event.InvalidError{Field: "over HTTP", Reason: text}
		case w.Code/100 != 2:
			return false, errors.New(text)
		default:
			return strings.Contains(text, want), nil
		}
	}
}

// TestK12_PeersHandsOutLogins (K12.4): what Peers hands out is taken for the login that it is, by each call that asks for a
// login of the account, and refused for another account's. An account may have slashes itself.
func TestK12_PeersHandsOutLogins(t *testing.T) {
	for name, call := range asLogin {
		t.Run(name, func(t *testing.T) {
			for _, account := range []event.Account{"ann", "acme/ann"} {
				p := newPair(t, account)
				require.Equal(t, string(account)+"/"+string(p.other.Session.Login), p.address)
				for _, foreign := range []string{"bob/" + string(p.other.Session.Login), "/" + string(p.other.Session.Login), p.address + "/", "x/" + p.address} {
					_, err := call(t.Context(), p, event.LoginID(foreign))
					invalid, ok := errors.AsType[*event.InvalidError](err)
					require.True(t, ok, "%s: %v", foreign, err)
					if name != "HTTP, EaseMob" { // whose answers name their path
						require.NotContains(t, invalid.Error(), string(p.other.Session.Login))
					}
				}
				meant, err := call(t.Context(), p, event.LoginID(p.address))
				require.NoError(t, err)
				require.True(t, meant)
			}
		})
	}
}

// asAccount are the calls that ask for an account, with the field that errors name.
var asAccount = map[string]struct {
	field string
	call  func(ctx context.Context, p *pairOf, a event.Account) error
}{
	"Send, to": {"to[0]", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Send(ctx, fanout.SendRequest{From: "ann", To: []event.Account{a}}))
	}},
	"Send, members": {"members", func(ctx context.Context, p *pairOf, a event.Account) error {
		all := func(yield func(event.Account) bool) { yield(a) }
		return given(p.Router.Send(ctx, fanout.SendRequest{From: "ann", Members: all}))
	}},
	"Send, from": {"from", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Send(ctx, fanout.SendRequest{From: a, To: []event.Account{"bob"}}))
	}},
	"Send, narrow": {"narrow[0].account", func(ctx context.Context, p *pairOf, a event.Account) error {
		n := []fanout.Narrow{{Account: a, Platforms: []event.Platform{"ios"}}}
		return given(p.Router.Send(ctx, fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Narrow: n}))
	}},
	"Publish, to": {"to[0]", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Publish(ctx, fanout.PublishRequest{From: "ann", Kind: "typing", To: []event.Account{a}}))
	}},
	"Publish, from": {"from", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Publish(ctx, fanout.PublishRequest{From: a, Kind: "typing", To: []event.Account{"bob"}}))
	}},
	"Login": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Login(ctx, session.LoginRequest{Account: a, Platform: "ios"}))
	}},
	"Connect": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		_, _, err := p.Router.Connect(ctx, session.LoginRequest{Account: a, Device: "a1", Platform: "ios"}, fanout.AttachRequest{}, new(ear))
		return err
	}},
	"MarkRead": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.MarkRead(ctx, fanout.MarkReadRequest{Account: a, Conversation: "c", Seq: 1}))
	}},
	"Claim": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Claim(ctx, fanout.ClaimRequest{Account: a, Origin: p.own.Session.Login, Key: "k"}))
	}},
	"Unread": {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return given(p.Router.Unread(ctx, a, "")) }},
	"Ban": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Ban(ctx, session.BanRequest{Account: a}))
	}},
	"Delete": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.DeleteAccount(ctx, session.DeleteRequest{Account: a}))
	}},
	"Trim": {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return p.Router.Trim(ctx, a) }},
	"Park": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return p.Router.Park(ctx, a, "a1", event.Position{Epoch: 1, Seq: 1})
	}},
	"Unpark": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return p.Router.Unpark(ctx, a, "a1", event.Position{Epoch: 1, Seq: 1})
	}},
	"Router.Inspect": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Inspect(ctx, a, fanout.InspectOptions{}))
	}},
	"ClearUnread": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: a}))
	}},
	"Attach": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Router.Attach(ctx, fanout.AttachRequest{Account: a, Login: p.own.Session.Login, Token: p.own.Token}, new(ear)))
	}},
	"DryRun": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.DryRun(ctx, session.LoginRequest{Account: a, Platform: "ios"}))
	}},
	"LoginReplacing": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.LoginReplacing(ctx, session.LoginRequest{Account: a, Platform: "ios"}, p.own.Session.Login))
	}},
	"Kick": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Kick(ctx, session.KickRequest{Account: a, All: true}))
	}},
	"Logout": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return p.Sessions.Logout(ctx, a, p.own.Session.Login)
	}},
	"RemoveDevice": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return p.Sessions.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: a, Device: "a1"})
	}},
	"SetPrimary": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return p.Sessions.SetPrimary(ctx, a, "a1")
	}},
	"Unban":  {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return p.Sessions.Unban(ctx, a) }},
	"Banned": {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return given(p.Sessions.Banned(ctx, a)) }},
	"List": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.List(ctx, a, ""))
	}},
	"Get": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Get(ctx, a, p.own.Session.Login))
	}},
	"Current": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Current(ctx, a, p.own.Session.Login))
	}},
	"Resolve": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Resolve(ctx, a, p.own.Session.Login))
	}},
	"Authenticate": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Authenticate(ctx, a, p.own.Session.Login, p.own.Token))
	}},
	"Presence": {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return given(p.Sessions.Presence(ctx, a)) }},
	"Devices":  {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return given(p.Sessions.Devices(ctx, a)) }},
	"Recent":   {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return given(p.Sessions.Recent(ctx, a)) }},
	"Inspect":  {"account", func(ctx context.Context, p *pairOf, a event.Account) error { return given(p.Sessions.Inspect(ctx, a)) }},
	"Parked": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Parked(ctx, a, p.own.Session.Incarnation))
	}},
	"Peers": {"account", func(ctx context.Context, p *pairOf, a event.Account) error {
		return given(p.Sessions.Peers(ctx, a, ""))
	}},
	"HTTP": {"over HTTP", func(ctx context.Context, p *pairOf, a event.Account) error {
		q := *p
		q.account = a
		return given(overHTTP("GET", "presence", "", "")(ctx, &q, ""))
	}},
	"HTTP, delete": {"over HTTP", func(ctx context.Context, p *pairOf, a event.Account) error {
		q := *p
		q.account = a
		return given(overHTTP("POST", "delete", `{}`, "")(ctx, &q, ""))
	}},
}

// TestK12_AnAddressIsNoAccount (K12.4): the shape that Peers hands out, put where an account is meant, is refused and names
// no new inbox.
func TestK12_AnAddressIsNoAccount(t *testing.T) {
	p := newPair(t, "ann")
	for name, c := range asAccount {
		t.Run(name, func(t *testing.T) {
			err := c.call(t.Context(), p, event.Account(p.address))
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, c.field, invalid.Field)
			require.Contains(t, invalid.Reason, "the address of a login")
			require.NotContains(t, err.Error(), string(p.other.Session.Login))
		})
	}
}

// TestK12_AccountsWithSlashesStay (K12.4): what only resembles an address is an account as before.
func TestK12_AccountsWithSlashesStay(t *testing.T) {
	for _, a := range []event.Account{
		"acme/ann", "acme/2a6f4c7e5d3b2a6f4c7e5d3b2a6f4c7e", "acme/d41d8cd98f00b204e9800998ecf8427e", "acme/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6",
		"acme/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6oo", "acme/7IXAJKF3ND3DBS7N3CTQ2LW4XE5MZQ6O", "7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o",
		"/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o", "acme/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o/phone", "acme:7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o",
	} {
		require.NoError(t, a.Validate(), a)
		p := newPair(t, a)
		require.NoError(t, given(p.Router.Send(t.Context(), fanout.SendRequest{From: "bob", To: []event.Account{a}, Payload: []byte("x")})))
		require.Error(t, event.Account(p.address).Validate())
	}
	for range 10_000 {
		require.Error(t, event.Account("ann/"+event.NewLoginID()).Validate(), "each address is told apart")
	}
}
