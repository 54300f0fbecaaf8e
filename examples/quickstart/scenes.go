package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
)

// cast are the devices of the story, and what later scenes have to know.
type cast struct {
	*story
	oldPhone, tablet, phone, work, browser, laptop, newPhone, console *device // ann's
	android, desk                                                     *device // bob's

	evicted, kicked, left event.Closed
	first                 sendAnswer // answer to a send that is repeated
	before                []listedLogin
}

const firstText = "hello ann, this is bob"

func (s *story) scenes() []scene {
	c := &cast{story: s}
	return []scene{
		{"two accounts log in, ann on six devices of three platforms", c.everybody},
		{"a fifth login on ios ends the earliest one there", c.eviction},
		{"a message arrives at every device of both, but not at the one that sent it", c.message},
		{"typing is for those who are there", c.typing},
		{"one device is offline and catches up", c.offline},
		{"read state is the same everywhere", c.readState},
		{"a device talks to one other device of its account", c.ownDevice},
		{"a send that is repeated has one effect", c.repetition},
		{"a group", c.group},
		{"list, and kick one", c.kick},
		{"one logs out", c.logout},
		{"the server stops", c.stopServer},
		{"the server starts again, and nothing is lost", c.startAgain},
		{"the books are balanced", c.balance},
	}
}

func (c *cast) everybody(ctx context.Context) error {
	if err := c.start(); err != nil {
		return err
	}
	c.oldPhone = c.device("ann", "ios-1", "ios", "old phone")
	c.tablet = c.device("ann", "ios-2", "ios", "tablet")
	c.phone = c.device("ann", "ios-3", "ios", "phone")
	c.work = c.device("ann", "ios-4", "ios", "work phone")
	c.browser = c.device("ann", "web-1", "web", "browser")
	c.laptop = c.device("ann", "mac-1", "macos", "laptop")
	c.android = c.device("bob", "and-1", "android", "phone")
	c.desk = c.device("bob", "web-1", "web", "desktop browser")
	for _, d := range c.devices {
		a, err := c.enter(ctx, d)
		if err != nil {
			return err
		}
		if err := c.check(len(a.Ended) == 0, "%s ends %d others", d, len(a.Ended)); err != nil {
			return err
		}
	}
	return nil
}

func (c *cast) eviction(ctx context.Context) error {
	c.newPhone = c.device("ann", "ios-5", "ios", "new phone")
	a, err := c.enter(ctx, c.newPhone)
	if err != nil {
		return err
	}
	right := len(a.Ended) == 1 && a.Ended[0].Login == c.oldPhone.login() && a.Ended[0].Reason == event.EvictedQuota
	if err := c.check(right, "ended %+v, want ann's old phone", a.Ended); err != nil {
		return err
	}
	if c.evicted, err = c.oldPhone.awaitClosed(ctx); err != nil {
		return err
	}
	c.gone[c.oldPhone] = true
	c.say(fmt.Sprintf("%s is told: %s", c.oldPhone, describeClosed(c.evicted)))
	cause := event.Cause{Login: a.Login, Device: c.newPhone.id, Platform: "ios", Name: c.newPhone.String()}
	right = c.evicted.Reason == event.EvictedQuota && c.evicted.Cause != nil && *c.evicted.Cause == cause
	if err := c.check(right, "old phone is told %+v", c.evicted); err != nil {
		return err
	}
	return c.refused(ctx, c.oldPhone, c.evicted)
}

func (c *cast) message(ctx context.Context) (err error) {
	q := &sendRequest{To: "ann", ClientID: "first", Text: firstText}
	if c.first, err = c.send(ctx, c.android, q, "ann"); err != nil {
		return err
	}
	if err := c.arrives(ctx); err != nil {
		return err
	}
	c.checks++
	_, err = c.android.awaitEntry(ctx, func(e *event.Sealed) bool {
		var r event.Receipt
		return e.Kind == event.KindDelivered && json.Unmarshal(e.Payload, &r) == nil && r.Message == c.first.ID && r.By == "ann"
	})
	return err
}

func (c *cast) typing(ctx context.Context) error {
	var a publishAnswer
	if err := c.phone.call(ctx, "publish", &publishRequest{To: "bob"}, &a); err != nil {
		return err
	}
	c.say(fmt.Sprintf("%s types, handed to %d connections", c.phone, a.Connections))
	for _, d := range []*device{c.android, c.desk} {
		c.checks++
		err := d.await(ctx, func() bool {
			return slices.ContainsFunc(d.lives, func(e *event.Sealed) bool { return e.Kind == event.KindTyping && e.From == "ann" })
		})
		if err != nil {
			return err
		}
		c.say(fmt.Sprintf("  %s sees it", d))
	}
	return nil
}

func (c *cast) offline(ctx context.Context) error {
	c.laptop.drop()
	c.say(fmt.Sprintf("%s loses its network", c.laptop))
	for _, text := range []string{"one", "two", "three"} {
		if _, err := c.send(ctx, c.desk, &sendRequest{To: "ann", Text: text}, "ann"); err != nil {
			return err
		}
		if err := c.arrives(ctx, c.laptop); err != nil {
			return err
		}
	}
	if err := c.laptop.resume(ctx, c.srv.addr()); err != nil {
		return err
	}
	if err := c.laptop.awaitCaughtUp(ctx); err != nil {
		return err
	}
	c.say(fmt.Sprintf("%s is back and has caught up", c.laptop))
	for _, m := range c.sent[len(c.sent)-3:] {
		if err := c.check(c.laptop.count(withID(m.id)) == 1, "%q is not on the laptop", m.text); err != nil {
			return err
		}
	}
	return nil
}

func (c *cast) readState(ctx context.Context) error {
	last := c.sent[len(c.sent)-1]
	e, err := c.phone.awaitEntry(ctx, withID(last.id))
	if err != nil {
		return err
	}
	a, err := c.phone.markRead(ctx, e.Conversation, e.Seq)
	if err != nil {
		return err
	}
	c.say(fmt.Sprintf("%s has read %s up to entry %d", c.phone, e.Conversation, a.Seq))
	if err := c.check(a.Advanced && a.Seq == e.Seq, "marker at %d, want %d", a.Seq, e.Seq); err != nil {
		return err
	}
	for _, d := range c.present([]event.Account{"ann"}, c.phone) {
		c.checks++
		err := d.await(ctx, func() bool {
			st, ok := d.machine.Register(e.Conversation, event.StateRead)
			return ok && st.Number == e.Seq
		})
		if err != nil {
			return err
		}
	}
	for _, d := range c.present([]event.Account{"bob"}) {
		c.checks++
		if _, err := d.awaitEntry(ctx, func(r *event.Sealed) bool { return r.Kind == event.KindRead }); err != nil {
			return err
		}
	}
	less, err := c.tablet.markRead(ctx, e.Conversation, e.Seq-1)
	if err != nil {
		return err
	}
	c.say(fmt.Sprintf("%s reports less: the mark stays at %d", c.tablet, less.Seq))
	return c.check(!less.Advanced && less.Seq == e.Seq, "marker went to %d", less.Seq)
}

func (c *cast) ownDevice(ctx context.Context) error {
	q := &sendRequest{Logins: []event.LoginID{c.laptop.login()}, Text: "open this link on the laptop"}
	if _, err := c.send(ctx, c.phone, q); err != nil {
		return err
	}
	c.sent[len(c.sent)-1].to = []*device{c.laptop}
	if err := c.arrives(ctx); err != nil {
		return err
	}
	// Entries come in order, so who has the next one would have had this one before.
	if _, err := c.send(ctx, c.phone, &sendRequest{To: "ann", Text: "note to all my devices"}); err != nil {
		return err
	}
	return c.arrives(ctx)
}

func (c *cast) repetition(ctx context.Context) error {
	var a sendAnswer
	q := &sendRequest{To: "ann", ClientID: "first", Text: firstText}
	if err := c.android.call(ctx, "send", q, &a); err != nil {
		return err
	}
	c.say(fmt.Sprintf("%s sends %q again: it is %s still", c.android, q.Text, short(a.ID)))
	right := a.Duplicate && a.ID == c.first.ID && a.Position == c.first.Position
	if err := c.check(right, "answer %+v, want that of the first send %+v", a, c.first); err != nil {
		return err
	}
	q.Text = "another text under the same ID"
	e, ok := errors.AsType[*requestError](c.android.call(ctx, "send", q, &a))
	return c.check(ok && e.Code == codeConflict, "another text under the same clientId is not refused")
}

func (c *cast) group(ctx context.Context) error {
	if _, err := c.send(ctx, c.tablet, &sendRequest{Group: "weekend", Text: "who has time?"}, "ann", "bob"); err != nil {
		return err
	}
	return c.arrives(ctx)
}
