package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

const slots = 4 // of a platform

// churner logs devices of one account in and kicks them, and knows what must have become of each.
type churner struct {
	w       *world
	rng     *rand.Rand
	control *device // on another platform: it kicks
	n       int
	alive   []loginAnswer // earliest first; without a token if the answer was lost
	ended   []endedEntry

	device event.DeviceID // whose login was asked for and not answered; empty: none
	target event.LoginID  // whose kick was asked for and not answered; empty: none
}

// endedEntry is a login that has ended, and what its device must be told.
type endedEntry struct {
	login  loginAnswer
	reason event.Reason
	by     event.DeviceID
}

func newChurner(w *world, rng *rand.Rand) *churner {
	return &churner{w: w, rng: rng, control: newDevice("eve", "control", "web", "control")}
}

// work reconciles what it knows with what there is, and goes on until the server is dead.
func (c *churner) work(ctx context.Context, srv *child) error {
	addr := srv.addr
	if err := c.control.resume(ctx, addr); err != nil {
		return err
	}
	if err := c.reconcile(ctx); err != nil {
		return err
	}
	for _, e := range c.ended[max(0, len(c.ended)-2):] { // the latest are the ones in danger
		if err := c.refused(ctx, addr, e); err != nil {
			return err
		}
	}
	srv.there <- struct{}{}
	for {
		var err error
		if len(c.alive) > 0 && c.rng.IntN(3) == 0 {
			err = c.kick(ctx, c.alive[c.rng.IntN(len(c.alive))].Login)
		} else {
			err = c.logIn(ctx, addr)
		}
		if err != nil {
			return err
		}
	}
}

// reconcile decides, by the list, what became of the operation whose answer was lost. There are two possibilities, and
// everything else is wrong.
func (c *churner) reconcile(ctx context.Context) error {
	var list listAnswer
	if err := c.control.call(ctx, "list", nil, &list); err != nil {
		return err
	}
	there := slices.DeleteFunc(list.Logins, func(l listedLogin) bool { return l.Self })
	if i := slices.IndexFunc(there, func(l listedLogin) bool { return l.Device == c.device }); c.device != "" && i >= 0 {
		c.admitted(loginAnswer{Login: there[i].Login, Device: c.device})
	}
	if c.target != "" && !slices.ContainsFunc(there, func(l listedLogin) bool { return l.Login == c.target }) {
		c.kicked(c.target)
	}
	c.device, c.target = "", ""
	same := slices.EqualFunc(there, c.alive, func(l listedLogin, a loginAnswer) bool { return l.Login == a.Login })
	if !same {
		return fmt.Errorf("%w: I1: logins %+v, want %+v", errWrong, there, c.alive)
	}
	return nil
}

// admitted notes a login, and the eviction that comes with it.
func (c *churner) admitted(a loginAnswer) (victims []event.LoginID) {
	for len(c.alive) >= slots {
		victims = append(victims, c.alive[0].Login)
		c.ended = append(c.ended, endedEntry{c.alive[0], event.EvictedQuota, a.Device})
		c.alive = c.alive[1:]
	}
	c.alive = append(c.alive, a)
	return victims
}

func (c *churner) kicked(id event.LoginID) {
	i := slices.IndexFunc(c.alive, func(a loginAnswer) bool { return a.Login == id })
	c.ended = append(c.ended, endedEntry{c.alive[i], event.KickedSelf, c.control.id})
	c.alive = slices.Delete(c.alive, i, i+1)
}

func (c *churner) logIn(ctx context.Context, addr string) error {
	c.n++
	d := newDevice("eve", event.DeviceID("phone"+strconv.Itoa(c.n)), "ios", "phone")
	defer d.drop()
	if err := d.connect(ctx, addr); err != nil {
		return err
	}
	c.device = d.id
	a, err := d.logIn(ctx)
	if err != nil {
		return err
	}
	c.device = ""
	want := c.admitted(a)
	same := slices.EqualFunc(a.Ended, want, func(e endedLogin, id event.LoginID) bool {
		return e.Login == id && e.Reason == event.EvictedQuota
	})
	if !same {
		return fmt.Errorf("%w: I19: login ends %+v, want %v", errWrong, a.Ended, want)
	}
	return nil
}

func (c *churner) kick(ctx context.Context, id event.LoginID) error {
	c.target = id
	var a kickAnswer
	if err := c.control.call(ctx, "kick", &kickRequest{Logins: []event.LoginID{id}}, &a); err != nil {
		return err
	}
	c.target = ""
	c.kicked(id)
	if len(a.Results) != 1 || a.Results[0] != (kickResult{Login: id, Ended: true}) {
		return fmt.Errorf("%w: I20: kick says %+v", errWrong, a.Results)
	}
	return nil
}

// refused checks that a login that has ended does not come back, and that its device is told why.
func (c *churner) refused(ctx context.Context, addr string, e endedEntry) error {
	if e.login.Token == "" {
		return nil // its answer was lost
	}
	d := newDevice("eve", e.login.Device, "ios", "phone")
	defer d.drop()
	if err := d.connect(ctx, addr); err != nil {
		return err
	}
	d.machine.LoggedIn(e.login.Login, event.ResumeTokenOf(e.login.Token))
	err := d.attach(ctx)
	if errors.Is(err, errOver) {
		return err
	}
	r, ok := errors.AsType[*requestError](err)
	if !ok || r.Code != codeEnded || r.closed == nil || r.closed.Reason != e.reason || r.closed.Cause == nil || r.closed.Cause.Device != e.by {
		return fmt.Errorf("%w: S13: %s comes back: %v (%+v), want %s by %s", errWrong, e.login.Device, err, r, e.reason, e.by)
	}
	return nil
}

// check looks at everything once more, as far back as tombstones reach.
func (c *churner) check(t *testing.T, addr string) {
	ctx := t.Context()
	require.NoError(t, c.control.resume(ctx, addr))
	require.NoError(t, c.reconcile(ctx))
	require.NotEmpty(t, c.ended)
	for _, e := range c.ended[max(0, len(c.ended)-64):] {
		require.NoError(t, c.refused(ctx, addr, e))
	}
	for _, a := range c.alive {
		if a.Token == "" {
			continue
		}
		d := newDevice("eve", a.Device, "ios", "phone")
		require.NoError(t, d.connect(ctx, addr))
		d.machine.LoggedIn(a.Login, event.ResumeTokenOf(a.Token))
		require.NoError(t, d.attach(ctx), "I1: a login that was answered is there")
		d.drop()
	}
}
