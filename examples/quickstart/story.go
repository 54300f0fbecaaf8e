package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
)

const sceneTime = 10 * time.Second // more means that something did not arrive

// story drives a server with clients over real connections and checks what they get.
type story struct {
	out   io.Writer
	begun time.Time
	addr  string // to listen on
	db    string

	srv     *server
	devices []*device
	gone    map[*device]bool // their logins have ended
	told    map[*device]int  // how many of their entries have been printed
	sent    []delivery
	checks  int
	failed  error // of the output
}

// delivery is a message that was sent, and what must become of it.
type delivery struct {
	id   event.MessageID
	text string
	to   []*device // gets it once; nobody else gets it
}

type scene struct {
	title string
	play  func(context.Context) error
}

// tellStory runs the story over a file. An error is a miss.
func tellStory(ctx context.Context, addr, db string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storyTime)
	defer cancel()
	s := &story{
		out: out, begun: time.Now(), addr: addr, db: db, gone: make(map[*device]bool), told: make(map[*device]int),
	}
	defer func() {
		for _, d := range s.devices {
			d.drop()
		}
		if s.srv != nil {
			err = errors.Join(err, s.stop(ctx))
		}
	}()
	for _, sc := range s.scenes() {
		s.print("")
		s.say("== " + sc.title)
		if err := s.play(ctx, sc); err != nil {
			return fmt.Errorf("%s: %w", sc.title, err)
		}
	}
	s.print("")
	s.say(fmt.Sprintf("== all is well: %d checks, %d messages, %d devices", s.checks, len(s.sent), len(s.devices)))
	return s.failed
}

func (s *story) play(ctx context.Context, sc scene) error {
	ctx, cancel := context.WithTimeout(ctx, sceneTime)
	defer cancel()
	err := sc.play(ctx)
	s.report()
	if err != nil {
		s.say("MISS: " + err.Error())
	}
	return err
}

// start opens the server over the file.
func (s *story) start() error {
	srv, err := startServer(s.addr, s.db, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	s.srv = srv
	s.say("server listens on " + srv.addr())
	return nil
}

func (s *story) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	srv := s.srv
	s.srv = nil
	return srv.close(ctx)
}

// say prints a line of the timeline.
func (s *story) say(line string) {
	s.print(fmt.Sprintf("%6.3fs  %s", time.Since(s.begun).Seconds(), line))
}

func (s *story) print(line string) {
	if _, err := fmt.Fprintln(s.out, line); err != nil && s.failed == nil {
		s.failed = err
	}
}

// report prints what has arrived since the last report: each thing once, with the devices that got it.
func (s *story) report() {
	var order []string
	got := make(map[string][]string)
	for _, d := range s.devices {
		d.mu.Lock()
		fresh := d.applied[s.told[d]:]
		d.mu.Unlock()
		s.told[d] += len(fresh)
		for _, e := range fresh {
			what := describe(e)
			if got[what] == nil {
				order = append(order, what)
			}
			got[what] = append(got[what], fmt.Sprintf("%s (%d)", d, e.Seq))
		}
	}
	for _, what := range order {
		s.say("  arrived: " + what)
		s.print("             at " + strings.Join(got[what], ", "))
	}
}

// check counts a check and returns an error if it is a miss.
func (s *story) check(ok bool, format string, args ...any) error {
	s.checks++
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// device returns a new device of the story.
func (s *story) device(account event.Account, id event.DeviceID, platform event.Platform, name string) *device {
	d := newDevice(account, id, platform, name)
	s.devices = append(s.devices, d)
	return d
}

// enter logs a device in and attaches it.
func (s *story) enter(ctx context.Context, d *device) (loginAnswer, error) {
	a, err := d.enter(ctx, s.srv.addr())
	if err != nil {
		return a, fmt.Errorf("%s: %w", d, err)
	}
	s.say(fmt.Sprintf("%s logs in on %s, admission is durable, login %s…", d, d.platform, a.Login[:6]))
	return a, d.awaitCaughtUp(ctx)
}

// present returns the devices of the accounts whose logins have not ended, without those left out.
func (s *story) present(accounts []event.Account, without ...*device) []*device {
	var all []*device
	for _, d := range s.devices {
		if slices.Contains(accounts, d.account) && !s.gone[d] && !slices.Contains(without, d) {
			all = append(all, d)
		}
	}
	return all
}

// send sends a message from a device and notes who has to get it: every device of the recipients and of the sender, but
// not the one that sent it.
func (s *story) send(ctx context.Context, from *device, q *sendRequest, accounts ...event.Account) (sendAnswer, error) {
	var a sendAnswer
	if err := from.call(ctx, "send", q, &a); err != nil {
		return a, fmt.Errorf("%s sends: %w", from, err)
	}
	s.say(fmt.Sprintf("%s sends %q, accepted as %s", from, q.Text, short(a.ID)))
	if err := s.check(!a.Duplicate, "%q is taken for a repetition", q.Text); err != nil {
		return a, err
	}
	s.sent = append(s.sent, delivery{id: a.ID, text: q.Text, to: s.present(append(accounts, from.account), from)})
	return a, nil
}

// arrives waits until the last message has arrived wherever it has to, but for the devices that are away.
func (s *story) arrives(ctx context.Context, away ...*device) error {
	last := s.sent[len(s.sent)-1]
	for _, d := range last.to {
		if slices.Contains(away, d) {
			continue
		}
		s.checks++
		if _, err := d.awaitEntry(ctx, withID(last.id)); err != nil {
			return fmt.Errorf("%q: %w", last.text, err)
		}
	}
	return nil
}

// refused checks that a device whose login has ended cannot come back, and is told why.
func (s *story) refused(ctx context.Context, d *device, want event.Closed) error {
	err := d.resume(ctx, s.srv.addr())
	d.drop()
	e, ok := errors.AsType[*requestError](err)
	if err := s.check(ok && e.Code == codeEnded && e.closed != nil, "%s comes back: %v, want %s", d, err, codeEnded); err != nil {
		return err
	}
	s.say(fmt.Sprintf("%s tries to resume: refused, %s", d, describeClosed(*e.closed)))
	same := e.closed.Reason == want.Reason && e.closed.Note == want.Note && e.closed.Retry == want.Retry &&
		(e.closed.Cause == nil) == (want.Cause == nil) && (want.Cause == nil || *e.closed.Cause == *want.Cause)
	return s.check(same, "%s is told %s, want %s", d, describeClosed(*e.closed), describeClosed(want))
}

// list asks a device for all logins of its account.
func (s *story) list(ctx context.Context, d *device) ([]listedLogin, error) {
	var a listAnswer
	err := d.call(ctx, "list", nil, &a)
	return a.Logins, err
}

func withID(id event.MessageID) func(*event.Sealed) bool {
	return func(e *event.Sealed) bool { return e.ID == id }
}
