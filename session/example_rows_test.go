package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport/membus"
)

// must keeps the examples short. A server handles its errors.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func registry(rules policy.Rules, cfg session.Config) *session.Registry {
	cfg.Policy = must(policy.New(rules))
	return must(session.New(memstore.New(memstore.Config{}), cfg))
}

func login(reg *session.Registry, device event.DeviceID, p event.Platform) *session.LoginResult {
	return must(reg.Login(context.Background(), session.LoginRequest{
		Account: "ann", Device: device, Platform: p, Description: session.Description{Name: "Ann's " + string(device)},
	}))
}

// Two phones, one tablet and a browser whose tabs share one login. Who comes when all places are taken is refused, and
// told who has them.
func ExampleRegistry_Login_refused() {
	ctx := context.Background()
	reg := registry(policy.Rules{
		Platforms: map[event.Platform]int{"phone": 2, "tablet": 1, "web": 1}, AtPlatform: policy.RefuseNew,
		Tabs: map[event.Platform]int{"web": 8},
	}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "red", "phone")
	login(reg, "blue", "phone")
	login(reg, "slate", "tablet")
	browser := login(reg, "browser", "web")
	for _, tab := range []string{"mail", "chat"} {
		must(reg.Attach(ctx, session.AttachRequest{
			Account: "ann", Login: browser.Session.Login, Token: browser.Token, Tab: tab,
		}, printer{"a tab"}))
	}
	_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "green", Platform: "phone"})
	if refused, ok := errors.AsType[*session.RefusedError](err); ok {
		fmt.Println("refused by", refused.Rule, "with limit", refused.Limit)
		for _, s := range refused.Logins {
			fmt.Println("  ", s.Device, s.Platform, s.State)
		}
	}
	// Output:
	// refused by platform with limit 2
	//    red phone lingering
	//    blue phone lingering
	// a tab is closed: shutdown
	// a tab is closed: shutdown
}

// The user who was refused chooses who is to make room.
func ExampleRegistry_LoginReplacing() {
	ctx := context.Background()
	reg := registry(policy.Rules{PerPlatform: 1, AtPlatform: policy.RefuseNew}, session.Config{})
	defer reg.Close(ctx)
	old := login(reg, "old", "ios")
	res := must(reg.LoginReplacing(ctx, session.LoginRequest{Account: "ann", Device: "new", Platform: "ios"}, old.Session.Login))
	fmt.Println(res.Session.Device, "in place of", res.Victims[0].Session.Device)
	// Output: new in place of old
}

func ExampleRegistry_DryRun() {
	ctx := context.Background()
	reg := registry(policy.PresetSingle(), session.Config{})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	e := must(reg.DryRun(ctx, session.LoginRequest{Account: "ann", Device: "laptop", Platform: "macos"}))
	for _, v := range e.Victims {
		fmt.Println(e.Verdict, "after", v.Rule, "ends", v.Reason)
	}
	// Output: admit after single ends evicted_single
}

// An account of a paying tenant has other rules.
func ExampleConfig_decidePolicy() {
	ctx := context.Background()
	vip := must(policy.New(policy.Rules{PerPlatform: 10}))
	reg := registry(policy.PresetSingle(), session.Config{
		DecidePolicy: func(_ context.Context, q session.Question) (*policy.Policy, error) {
			if q.Account == "ann" {
				return vip, nil
			}
			return nil, nil // the registry's
		},
	})
	defer reg.Close(ctx)
	for i := range 3 {
		login(reg, event.DeviceID(fmt.Sprint("phone", i)), "ios")
	}
	fmt.Println(len(must(reg.List(ctx, "ann", ""))))
	// Output: 3
}

// The host chooses who makes room, for instance by asking the user. It is asked outside any lock.
func ExampleConfig_decideVictims() {
	ctx := context.Background()
	reg := registry(policy.Rules{PerPlatform: 1, AtPlatform: policy.AskHost}, session.Config{
		DecideVictims: func(_ context.Context, q session.Question) (policy.Answer, error) {
			fmt.Println(q.Device, "wants in, limit", q.Limit)
			return policy.Answer{End: []event.LoginID{q.Candidates[0].Login}}, nil
		},
	})
	defer reg.Close(ctx)
	login(reg, "old", "ios")
	fmt.Println(login(reg, "new", "ios").Victims[0].Session.Device, "had to go")
	// Output:
	// new wants in, limit 1
	// old had to go
}

// New rules hold from the next login on. Enforce makes them hold for everybody who is there.
func ExampleRegistry_Enforce() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "a", "ios")
	login(reg, "b", "ios")
	if err := reg.SetPolicy(must(policy.New(policy.Rules{PerPlatform: 1}))); err != nil {
		fmt.Println(err)
	}
	would := must(reg.Enforce(ctx, session.EnforceRequest{DryRun: true}))
	fmt.Println("would end", would.Ends, "of", len(must(reg.List(ctx, "ann", ""))))
	did := must(reg.Enforce(ctx, session.EnforceRequest{PerSecond: 100}))
	fmt.Println("ended", did.Ends, "in", did.Affected, "account")
	// Output:
	// would end 1 of 2
	// ended 1 in 1 account
}

// A protected device stays, whoever comes.
func ExampleRegistry_SetPrimary() {
	ctx := context.Background()
	reg := registry(policy.Rules{PerPlatform: 2}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "main", "ios")
	fmt.Println(reg.SetPrimary(ctx, "ann", "main"))
	login(reg, "second", "ios")
	fmt.Println(login(reg, "third", "ios").Victims[0].Session.Device, "had to go")
	// Output:
	// <nil>
	// second had to go
}

// What a client shows as "your devices", and how it addresses one of them.
func ExampleRegistry_Peers() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	me := login(reg, "phone", "ios").Session.Login
	login(reg, "laptop", "macos")
	for _, s := range must(reg.List(ctx, "ann", me)) {
		fmt.Println(s.Description.Name, s.Platform, s.State, "me:", s.Self)
	}
	for _, p := range must(reg.Peers(ctx, "ann", me)) {
		fmt.Println("address of", p.Device, "has", len(p.Address.String()), "characters")
	}
	// Output:
	// Ann's phone ios lingering me: true
	// Ann's laptop macos lingering me: false
	// address of laptop has 36 characters
}

// A connection comes back with the login's ID and token: same login, same age, nobody evicted.
func ExampleRegistry_Attach() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	phone := login(reg, "phone", "ios")
	q := session.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
	conn := must(reg.Attach(ctx, q, printer{"wifi"}))
	conn.Detach() // the network is gone
	fmt.Println(must(reg.Presence(ctx, "ann")).State)
	must(reg.Attach(ctx, q, printer{"mobile"}))
	fmt.Println(must(reg.Presence(ctx, "ann")).State)
	q.Token = event.NewResumeToken()
	_, err := reg.Attach(ctx, q, printer{"thief"})
	fmt.Println(errors.Is(err, session.ErrUnknownLogin))
	fmt.Println(reg.Logout(ctx, "ann", phone.Session.Login))
	// Unordered output:
	// wifi is closed: lost
	// lingering
	// online
	// true
	// mobile is closed: logout
	// <nil>
}

// Kick keeps a device's place in the inbox; removing it does not.
func ExampleRegistry_RemoveDevice() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	first := login(reg, "phone", "ios").Session
	must(reg.Kick(ctx, session.KickRequest{Account: "ann", Platform: "ios", Note: "lost"}))
	second := login(reg, "phone", "ios").Session
	fmt.Println("same place after a kick:", first.Incarnation == second.Incarnation)
	fmt.Println(reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "phone"}))
	third := login(reg, "phone", "ios").Session
	fmt.Println("same place after removal:", second.Incarnation == third.Incarnation)
	// Output:
	// same place after a kick: true
	// <nil>
	// same place after removal: false
}

func ExampleRegistry_Recent() {
	ctx := context.Background()
	reg := registry(policy.PresetSingle(), session.Config{})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	login(reg, "laptop", "macos")
	for _, e := range must(reg.Recent(ctx, "ann")) {
		fmt.Printf("%s %s %q\n", e.Device, e.Platform, e.Reason)
	}
	// Output:
	// laptop macos ""
	// phone ios "evicted_single"
	// phone ios ""
}

// A stream of every change of a login, after it was committed and in order. What a subscriber cannot keep up with is dropped
// and counted.
func ExampleRegistry_Subscribe() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	changes := must(reg.Subscribe(100))
	phone := login(reg, "phone", "ios")
	conn := must(reg.Attach(ctx, session.AttachRequest{
		Account: "ann", Login: phone.Session.Login, Token: phone.Token,
	}, printer{"phone"}))
	conn.SetBackground(true)
	must(reg.Kick(ctx, session.KickRequest{Account: "ann", All: true}))
	fmt.Println(reg.Close(ctx))
	for c := range changes.All(ctx) { // what was left when it ended
		fmt.Println(strings.TrimSpace(fmt.Sprintf("%v %v %v", c.Kind, c.Session.Device, c.Reason)))
	}
	fmt.Println(changes.Dropped())
	// Output:
	// phone is closed: kicked_host
	// <nil>
	// login phone
	// online phone
	// away phone
	// ended phone kicked_host
	// 0 0
}

func ExampleRegistry_Ban() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	ended := must(reg.Ban(ctx, session.BanRequest{Account: "ann", Note: "spam", Until: time.Now().Add(24 * time.Hour)}))
	fmt.Println(len(ended), ended[0].Closed.Reason)
	_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
	if banned, ok := errors.AsType[*session.BannedError](err); ok {
		fmt.Println(banned.Closed().Reason, banned.Ban.Note)
	}
	fmt.Println(reg.Unban(ctx, "ann"))
	// Output:
	// 1 banned
	// banned spam
	// <nil>
}

func ExampleRegistry_DeleteAccount() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	ended := must(reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann", Refuse: true}))
	fmt.Println(ended[0].Closed.Reason)
	_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
	fmt.Println(err)
	// Output:
	// account_deleted
	// session: login: account may not log in: account_deleted
}

// Before a deploy: no new work, and connections are closed with advice that spreads their return.
func ExampleRegistry_Drain() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	phone := login(reg, "phone", "ios")
	must(reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, adviser{}))
	fmt.Println(reg.Drain(ctx, session.DrainRequest{}))
	_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
	fmt.Println(err)
	// Unordered output:
	// shutdown after, at least a second: true
	// <nil>
	// session: login: draining
}

// adviser is a connection that says what it is advised.
type adviser struct{}

func (adviser) Send(context.Context, []event.Frame) error { return nil }

func (adviser) Close(why event.Closed) error {
	fmt.Printf("%s %s, at least a second: %v\n", why.Reason, why.Retry, why.After >= time.Second)
	return nil
}

// Who logs in too often is told when to come back.
func ExampleLimitedError() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{LoginsPerMinute: 1})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
	if limited, ok := errors.AsType[*session.LimitedError](err); ok {
		fmt.Println(limited.Reason, limited.RetryAfter > 50*time.Second)
	}
	// Output: rate_limited true
}

// teller is a connection that says when it is closed, and why.
type teller struct{ closed chan event.Closed }

func (teller) Send(context.Context, []event.Frame) error { return nil }

func (c teller) Close(why event.Closed) error {
	fmt.Println("phone is closed:", why.Reason)
	c.closed <- why
	return nil
}

// Two engines over one store: a kick on one closes the connection on the other.
func ExampleConfig_leases() {
	ctx := context.Background()
	st, leases, bus := memstore.New(memstore.Config{}), memstore.NewLeases(), membus.New(membus.Config{})
	east := must(session.New(st, session.Config{Node: "east", Leases: leases, Bus: bus}))
	west := must(session.New(st, session.Config{Node: "west", Leases: leases, Bus: bus}))
	phone := login(east, "phone", "ios")
	closed := make(chan event.Closed, 1)
	must(east.Attach(ctx, session.AttachRequest{
		Account: "ann", Login: phone.Session.Login, Token: phone.Token,
	}, teller{closed}))
	fmt.Println("attached at", must(west.List(ctx, "ann", ""))[0].Node)
	must(west.Kick(ctx, session.KickRequest{Account: "ann", All: true}))
	fmt.Println((<-closed).Reason)
	fmt.Println(east.Close(ctx), west.Close(ctx))
	// Unordered output:
	// attached at east
	// kicked_host
	// phone is closed: kicked_host
	// <nil> <nil>
}
