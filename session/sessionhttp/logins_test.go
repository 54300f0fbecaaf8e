package sessionhttp_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
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

// The reason of an end is the host's word, except the two that a user may give.
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
