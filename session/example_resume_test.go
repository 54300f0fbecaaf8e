package session_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// A host that knows which device it talks to, such as by a client certificate, attaches the login that the device has.
func ExampleAttachRequest_vouched() {
	ctx := context.Background()
	reg := registry(policy.Rules{}, session.Config{})
	defer reg.Close(ctx)
	login(reg, "phone", "ios")
	q := session.AttachRequest{Account: "ann", Device: "phone", Vouched: true}
	conn := must(reg.Attach(ctx, q, nowhere{}))
	fmt.Println(conn.Device(), "has a new token:", !conn.Token().IsZero())
	must(reg.Kick(ctx, session.KickRequest{Account: "ann", All: true, Note: "stolen"}))
	_, err := reg.Attach(ctx, q, nowhere{})
	if ended, ok := errors.AsType[*session.EndedError](err); ok {
		fmt.Println("ended:", ended.Why.Reason, ended.Why.Note)
	}
	// Output:
	// phone has a new token: false
	// ended: kicked_host stolen
}

// The directory that decides about logins cannot be reached. By default nobody gets in; this host would rather let the
// rules decide by themselves.
func ExampleFallback() {
	ctx := context.Background()
	for _, otherwise := range []session.Fallback{session.Refuse, session.Admit} {
		reg := registry(policy.Rules{}, session.Config{
			DecideLogin: func(context.Context, session.Question) (bool, error) {
				return false, errors.New("no directory")
			},
			DecideLoginFallback: otherwise,
		})
		_, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		if errors.Is(err, session.ErrHookFailed) {
			fmt.Println("not now:", event.ClosedOf(err).Reason)
		} else {
			fmt.Println("logged in:", err == nil)
		}
		fmt.Println(reg.Close(ctx))
	}
	// Output:
	// not now: unavailable
	// <nil>
	// logged in: true
	// <nil>
}
