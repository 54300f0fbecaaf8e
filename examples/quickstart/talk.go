package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

const pingTime = 30 * time.Second // the engine takes 90 s of silence for a lost connection

const help = `login <device> <platform> [name]   log in, attach, and show what arrives
resume                             attach again, after the connection ended
send <account> <text>              a message to an account; your own: to all your devices
group <name> <text>                a message to a group: team, weekend
tell <login> <text>                a message to one of your own devices
typing <account>                   tell that you type
read                               mark the conversation of the last message as read
list | peers                       your logins
kick <login> [note]                end one of them
others [note]                      end all but this one
logout                             end this one
drop                               lose the network
quit`

// talker is a client that a person drives, one command a line.
type talker struct {
	addr string
	d    *device

	mu   sync.Mutex // one line of output at a time
	out  io.Writer
	last *event.Sealed // last message that arrived
}

// talk runs commands from in until it ends or says quit.
func talk(ctx context.Context, addr, account string, in io.Reader, out io.Writer) error {
	t := &talker{addr: addr, out: out}
	t.d = newDevice(event.Account(account), "", "", "")
	t.d.watch = t.show
	defer t.d.drop()
	t.print("you are " + account + "; help lists the commands")
	commands := make(chan string)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with the input, or at the next line; a terminal cannot be waited for
		defer close(commands)
		for sc := bufio.NewScanner(in); sc.Scan(); {
			select {
			case commands <- sc.Text():
			case <-stop:
				return
			}
		}
	}()
	alive := time.NewTicker(pingTime)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
			t.d.ping()
		case line, ok := <-commands:
			if !ok || strings.TrimSpace(line) == "quit" {
				return nil
			}
			t.obey(ctx, line)
		}
	}
}

func (t *talker) obey(ctx context.Context, line string) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if word == "" {
		return
	}
	answer, err := t.run(ctx, word, strings.TrimSpace(rest))
	if err != nil {
		answer = "error: " + err.Error()
	}
	t.print(answer)
}

// run runs one command and returns what to print.
func (t *talker) run(ctx context.Context, word, rest string) (string, error) {
	first, text, _ := strings.Cut(rest, " ")
	switch word {
	case "login":
		return t.logIn(ctx, strings.Fields(rest))
	case "resume":
		return "attached", t.d.resume(ctx, t.addr)
	case "drop":
		t.d.drop()
		return "connection dropped", nil
	case "send":
		return t.send(ctx, &sendRequest{To: event.Account(first), Text: text})
	case "group":
		return t.send(ctx, &sendRequest{Group: first, Text: text})
	case "tell":
		return t.send(ctx, &sendRequest{Logins: []event.LoginID{event.LoginID(first)}, Text: text})
	case "typing":
		return "ok", t.d.call(ctx, "publish", &publishRequest{To: event.Account(first)}, nil)
	case "read":
		return t.read(ctx)
	case "list", "peers":
		return t.list(ctx)
	case "kick":
		return t.kick(ctx, &kickRequest{Logins: []event.LoginID{event.LoginID(first)}, Note: text})
	case "others":
		return t.kick(ctx, &kickRequest{Others: true, Note: rest})
	case "logout":
		return "logged out", t.d.call(ctx, "logout", nil, nil)
	}
	return help, nil
}

func (t *talker) logIn(ctx context.Context, words []string) (string, error) {
	if len(words) < 2 {
		return "login <device> <platform> [name]", nil
	}
	t.d.drop()
	d := newDevice(t.d.account, event.DeviceID(words[0]), event.Platform(words[1]), words[0])
	if len(words) > 2 {
		d.name = strings.Join(words[2:], " ")
	}
	d.watch = t.show
	t.d = d
	a, err := d.enter(ctx, t.addr)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("logged in as " + string(a.Login))
	for _, e := range a.Ended {
		fmt.Fprintf(&b, "\n  %s had to go: %s", nameOf(e.Name, e.Device), e.Reason)
	}
	return b.String(), nil
}

func (t *talker) send(ctx context.Context, q *sendRequest) (string, error) {
	var a sendAnswer
	err := t.d.call(ctx, "send", q, &a)
	return "sent as " + string(a.ID), err
}

func (t *talker) read(ctx context.Context) (string, error) {
	t.mu.Lock()
	last := t.last
	t.mu.Unlock()
	if last == nil {
		return "no message yet", nil
	}
	a, err := t.d.markRead(ctx, last.Conversation, last.Seq)
	return fmt.Sprintf("%s is read up to entry %d", last.Conversation, a.Seq), err
}

func (t *talker) list(ctx context.Context) (string, error) {
	var a listAnswer
	if err := t.d.call(ctx, "list", nil, &a); err != nil {
		return "", err
	}
	var b strings.Builder
	for i, l := range a.Logins {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "  %s %-8s %-9s %s%s", l.Login, l.Platform, l.State, nameOf(l.Name, l.Device), selfMark(l))
	}
	return b.String(), nil
}

func (t *talker) kick(ctx context.Context, q *kickRequest) (string, error) {
	var a kickAnswer
	err := t.d.call(ctx, "kick", q, &a)
	n := 0
	for _, r := range a.Results {
		if r.Ended {
			n++
		}
	}
	return strconv.Itoa(n) + " ended", err
}

// show prints what arrives.
func (t *talker) show(_ *device, step client.Step) {
	for _, e := range step.Apply {
		if e.Kind == event.KindMessage {
			t.mu.Lock()
			t.last = e
			t.mu.Unlock()
		}
		t.print(fmt.Sprintf("< %d %s", e.Seq, describe(e)))
	}
	if step.Live != nil {
		t.print("< " + describe(step.Live))
	}
	if step.Reset != nil {
		t.print(fmt.Sprintf("< reset (%s): entries up to %d will not come", step.Reset.Reason, step.Reset.To.Seq))
	}
	if step.CaughtUp {
		t.print("< that was all so far")
	}
	if step.Closed != nil {
		t.print("< " + describeClosed(*step.Closed))
	}
}

func (t *talker) print(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintln(t.out, line) // a terminal that is gone ends the input too
}
