package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
)

func (c *cast) kick(ctx context.Context) error {
	all, err := c.list(ctx, c.phone)
	if err != nil {
		return err
	}
	for _, l := range all {
		c.say(fmt.Sprintf("  %-18s %-6s %-8s admission %d%s", l.Name, l.Platform, l.State, l.Admission, selfMark(l)))
	}
	if err := c.check(len(all) == 6, "%d logins, want 6", len(all)); err != nil {
		return err
	}
	var a kickAnswer
	q := &kickRequest{Logins: []event.LoginID{c.browser.login()}, Note: "left open at the library"}
	if err := c.phone.call(ctx, "kick", q, &a); err != nil {
		return err
	}
	if err := c.check(len(a.Results) == 1 && a.Results[0].Ended, "kick says %+v", a.Results); err != nil {
		return err
	}
	if c.kicked, err = c.browser.awaitClosed(ctx); err != nil {
		return err
	}
	c.gone[c.browser] = true
	c.say(fmt.Sprintf("%s is told: %s", c.browser, describeClosed(c.kicked)))
	right := c.kicked.Reason == event.KickedSelf && c.kicked.Note == q.Note && c.kicked.Cause != nil && c.kicked.Cause.Device == c.phone.id
	if err := c.check(right, "browser is told %+v", c.kicked); err != nil {
		return err
	}
	if err := c.refused(ctx, c.browser, c.kicked); err != nil {
		return err
	}
	if all, err = c.list(ctx, c.phone); err != nil {
		return err
	}
	return c.check(len(all) == 5, "%d logins after the kick, want 5", len(all))
}

func selfMark(l listedLogin) string {
	if l.Self {
		return "  <- asks"
	}
	return ""
}

func (c *cast) logout(ctx context.Context) error {
	// The closing frame is the answer, so the call ends without one.
	_ = c.work.call(ctx, "logout", nil, nil)
	var err error
	if c.left, err = c.work.awaitClosed(ctx); err != nil {
		return err
	}
	c.gone[c.work] = true
	c.say(fmt.Sprintf("%s is told: %s", c.work, describeClosed(c.left)))
	if err := c.check(c.left.Reason == event.Logout, "reason %s", c.left.Reason); err != nil {
		return err
	}
	return c.refused(ctx, c.work, c.left)
}

func (c *cast) stopServer(ctx context.Context) (err error) {
	if err := c.laptop.restart(); err != nil {
		return err
	}
	c.say(fmt.Sprintf("%s is shut, its app ends", c.laptop))
	if _, err := c.send(ctx, c.android, &sendRequest{To: "ann", Text: "see you tomorrow"}, "ann"); err != nil {
		return err
	}
	if err := c.arrives(ctx, c.laptop); err != nil {
		return err
	}
	if c.before, err = c.list(ctx, c.phone); err != nil {
		return err
	}
	if err := c.stop(ctx); err != nil {
		return err
	}
	for _, d := range c.present([]event.Account{"ann", "bob"}, c.laptop) {
		why, err := d.awaitClosed(ctx)
		if err != nil {
			return err
		}
		right := why.Reason == event.Shutdown && why.Retry == event.RetryAfter && why.After > 0
		if err := c.check(right, "%s is told %s", d, describeClosed(why)); err != nil {
			return err
		}
	}
	c.say("all devices are told: shutdown, come back later")
	return nil
}

func (c *cast) startAgain(ctx context.Context) error {
	if err := c.start(); err != nil {
		return err
	}
	for _, d := range c.present([]event.Account{"ann", "bob"}) {
		if d != c.laptop {
			if err := d.restart(); err != nil { // only what was saved counts
				return err
			}
		}
		if err := d.resume(ctx, c.srv.addr()); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		if err := d.awaitCaughtUp(ctx); err != nil {
			return err
		}
		c.checks++
	}
	c.say("all devices have resumed from what they saved")
	if err := c.arrives(ctx); err != nil { // what the laptop has missed
		return err
	}
	if err := c.repetition(ctx); err != nil {
		return err
	}
	for _, r := range []struct {
		d   *device
		why event.Closed
	}{{c.oldPhone, c.evicted}, {c.browser, c.kicked}, {c.work, c.left}} {
		if err := c.refused(ctx, r.d, r.why); err != nil {
			return err
		}
	}
	all, err := c.list(ctx, c.phone)
	if err != nil {
		return err
	}
	same := slices.EqualFunc(all, c.before, func(a, b listedLogin) bool { return a.Login == b.Login && a.Admission == b.Admission })
	if err := c.check(same, "logins %+v, want %+v", all, c.before); err != nil {
		return err
	}
	if _, err := c.send(ctx, c.laptop, &sendRequest{To: "bob", Text: "good morning"}, "bob"); err != nil {
		return err
	}
	return c.arrives(ctx)
}

// balance checks that every message is where it belongs, exactly once, and that a device which sees the account for the
// first time has the same conversation state as the others.
func (c *cast) balance(ctx context.Context) error {
	c.console = c.device("ann", "lin-1", "linux", "console")
	if _, err := c.enter(ctx, c.console); err != nil {
		return err
	}
	for _, m := range c.sent {
		for _, d := range c.devices {
			want := 0
			if slices.Contains(m.to, d) {
				want = 1
			}
			if got := d.count(withID(m.id)); c.check(got == want, "") != nil {
				return fmt.Errorf("%q: %s has it %d times, want %d", m.text, d, got, want)
			}
		}
	}
	for _, d := range c.devices {
		c.checks++
		if err := d.sound(); err != nil {
			return err
		}
	}
	for _, d := range c.present([]event.Account{"ann"}, c.console) {
		c.console.mu.Lock()
		want := c.console.machine.Digest()
		c.console.mu.Unlock()
		c.checks++
		if err := d.await(ctx, func() bool { return d.machine.Digest() == want }); err != nil {
			return fmt.Errorf("conversation state differs: %w", err)
		}
	}
	c.say("every message is on every device that it is for, once; conversation state is equal everywhere")
	return nil
}
