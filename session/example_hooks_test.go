package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// The host looks at each login before the rules do.
func ExampleConfig_decideLogin() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{
		DecideLogin: func(_ context.Context, q session.Question) (bool, error) {
			return q.Description.AppVersion != "1.0", nil // too old
		},
	})
	defer reg.Close(ctx)
	_, err := reg.Login(ctx, session.LoginRequest{
		Account: "ann", Device: "phone", Platform: "ios", Description: session.Description{AppVersion: "1.0"},
	})
	if refused, ok := errors.AsType[*session.RefusedError](err); ok {
		fmt.Println("refused by", refused.Rule)
	}
	// Output: refused by host
}

// A login in the background would rather not get in than end another one.
func ExampleLoginRequest_wish() {
	ctx := context.Background()
	reg := registry(policy.Rules{PerPlatform: 1}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "tablet", Platform: "ios", Wish: policy.NeverEvict})
	if refused, ok := errors.AsType[*session.RefusedError](err); ok {
		fmt.Println("refused, cause:", refused.Cause)
	}
	// Output: refused, cause: wish
}

// A login is over after a time even if its device is there. A device that does not come back for IdleDevice is forgotten.
// Here the host moves the clock.
func ExampleConfig_lifetimes() {
	const day = 24 * time.Hour
	ctx := context.Background()
	var ahead atomic.Int64
	reg := registry(policy.Rules{}, session.Config{
		AbsoluteLifetime: 90 * day, IdleDevice: 30 * day, SweepInterval: 5 * time.Millisecond,
		Wall: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	defer reg.Close(ctx)
	changes := must(reg.Subscribe(100))
	defer changes.Close()
	phone := login(reg, "phone", "ios")
	must(reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, nowhere{}))
	ahead.Store(int64(91 * day))
	for c := range changes.All(ctx) {
		if c.Kind == session.ChangeEnded {
			fmt.Println(c.Kind, c.Session.Device, c.Reason)
			break
		}
	}
	// Output: ended phone expired_absolute
}

// Whether the end of a login also takes what the device logs in with is up to whoever ends it.
func ExampleKickRequest_keepCredential() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{
		Revoke: func(_ context.Context, e session.Ended) error {
			fmt.Println("credential of", e.Session.Device, "is void")
			return nil
		},
	})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	must(reg.Kick(ctx, session.KickRequest{Account: "ann", All: true, KeepCredential: true}))
	login(reg, "phone", "ios") // it still has it
	must(reg.Kick(ctx, session.KickRequest{Account: "ann", All: true}))
	// Output: credential of phone is void
}

// Enforcing takes its time. What was cut short goes on where it stopped, after a restart, too.
func ExampleEnforceRequest_after() {
	ctx := context.Background()
	short, cancel := context.WithCancel(ctx)
	reg := registry(policy.Rules{}, session.Config{
		Revoke: func(context.Context, session.Ended) error { cancel(); return nil }, // after the first account
	})
	defer reg.Close(ctx)
	for _, account := range []event.Account{"ann", "bob", "cyd"} {
		for _, device := range []event.DeviceID{"a", "b"} {
			must(reg.Login(ctx, session.LoginRequest{Account: account, Device: device, Platform: "ios"}))
		}
	}
	if err := reg.SetPolicy(must(policy.New(policy.Rules{PerPlatform: 1}))); err != nil {
		fmt.Println(err)
	}
	first, err := reg.Enforce(short, session.EnforceRequest{})
	fmt.Println(first.Ends, "up to", first.Next, errors.Is(err, context.Canceled))
	rest := must(reg.Enforce(ctx, session.EnforceRequest{After: first.Next}))
	fmt.Println(rest.Ends, rest.ByRule)
	// Output:
	// 1 up to ann true
	// 2 map[platform:2]
}
