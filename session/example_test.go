package session_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// printer is a connection that says what it is told. A real one writes to a socket.
type printer struct{ name string }

func (p printer) Send(_ context.Context, frames []event.Frame) error {
	fmt.Println(p.name, "gets", len(frames), "frames")
	return nil
}

func (p printer) Close(why event.Closed) error {
	fmt.Println(p.name, "is closed:", why.Reason)
	return nil
}

func ExampleNew() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	defer st.Close(ctx)
	_, err := session.New(st, session.Config{MaxDevices: 100, IdleDevice: 30})
	fmt.Println(err)

	reg, err := session.New(st, session.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	presence, err := reg.Presence(ctx, "ann")
	fmt.Println(presence.State, err)
	fmt.Println(reg.Close(ctx))
	// Output:
	// session: new: config: invalid IdleDevice: 30ns, want 10m to 100y, or negative; a number without a unit counts nanoseconds, 30 seconds are 30*time.Second
	// invalid MaxDevices: 100, want 1 to 64
	// offline <nil>
	// <nil>
}

func ExampleRegistry_Login() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	defer st.Close(ctx)
	rules, err := policy.New(policy.Rules{Platforms: map[event.Platform]int{"ios": 1, "web": 0}})
	if err != nil {
		fmt.Println(err)
		return
	}
	reg, err := session.New(st, session.Config{Policy: rules})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reg.Close(ctx)

	phone, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "iOS"})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, printer{"phone"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(conn.Send(ctx, []event.Frame{&event.Pong{}}))

	tablet, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "tablet", Platform: "ios"})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn.AwaitClose(ctx) // the login did not
	for _, v := range tablet.Victims {
		fmt.Println("tablet ended", v.Session.Device)
	}
	_, err = reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, printer{"phone"})
	if ended, ok := errors.AsType[*session.EndedError](err); ok {
		fmt.Println("phone learns:", ended.Why.Reason, "by", ended.Why.Cause.Device)
	}
	_, err = reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "browser", Platform: "web"})
	fmt.Println(err)
	// Output:
	// phone gets 1 frames
	// <nil>
	// phone is closed: evicted_quota
	// tablet ended phone
	// phone learns: evicted_quota by tablet
	// session: login: refused by rule "platform": no logins on platform "web"
}

func ExampleRegistry_Kick() {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	defer st.Close(ctx)
	reg, err := session.New(st, session.Config{
		Revoke: func(_ context.Context, e session.Ended) error {
			fmt.Println("make the credential of", e.Session.Device, "void")
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reg.Close(ctx)

	var ids []event.LoginID
	for _, d := range []event.DeviceID{"phone", "laptop"} {
		res, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: d, Platform: "linux"})
		if err != nil {
			fmt.Println(err)
			return
		}
		ids = append(ids, res.Session.Login)
	}
	// The laptop's user has lost the phone.
	results, err := reg.Kick(ctx, session.KickRequest{
		Account: "ann", Logins: []event.LoginID{ids[0], event.NewLoginID()}, By: ids[1], Note: "lost",
	})
	for _, r := range results {
		fmt.Println(r.Login == ids[0], r.Ended)
	}
	fmt.Println(err)
	left, err := reg.List(ctx, "ann", ids[1])
	fmt.Println(len(left), left[0].Device, left[0].Self, err)
	// Output:
	// make the credential of phone void
	// true true
	// false false
	// <nil>
	// 1 laptop true <nil>
}
