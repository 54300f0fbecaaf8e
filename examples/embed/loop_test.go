package main

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

func (h *house) send(to event.Account, text string) {
	h.t.Helper()
	_, err := h.Router.Send(h.t.Context(), fanout.SendRequest{From: "bot", To: []event.Account{to}, Payload: []byte(text)})
	require.NoError(h.t, err)
}

func (h *house) logins(account event.Account) []session.Session {
	h.t.Helper()
	all, err := h.Sessions.List(h.t.Context(), account, "")
	require.NoError(h.t, err)
	return all
}

// A client that loses its connection a hundred times in a row keeps its one login, is never told that it flaps, and misses or
// doubles nothing that is sent meanwhile. The loop that was here before made a login for each connection (K14.1).
func TestReconnects_KeepOneLoginAndLoseNothing(t *testing.T) {
	h := open(t, manydevice.Config{Session: session.Config{AttachesPerAccount: -1}}) // faster than any client comes back
	const connections, every = 100, 3
	a := h.app("ann", "phone")
	var sender sync.WaitGroup
	goOn := make(chan struct{}, connections)
	sender.Go(func() {
		n := 0
		for range goOn {
			for range every {
				h.send("ann", fmt.Sprint(n))
				n++
			}
		}
	})
	for i := range connections {
		a.connect()
		goOn <- struct{}{}
		require.True(t, a.reads(), "%v", a.closed)
		a.until(func() bool { return len(a.texts) >= i })
		a.Hangup() // whatever is under way
	}
	close(goOn)
	sender.Wait()
	a.connect()
	a.until(func() bool { return len(a.texts) >= connections*every })
	var want []string
	for n := range connections * every {
		want = append(want, fmt.Sprint(n))
	}
	require.Equal(t, want, a.texts)
	require.Equal(t, 1, a.logins)
	require.Len(t, h.logins("ann"), 1)
}

// With the default limits, a client that comes back as often as it can is slowed down, is told for how long, and gets in.
func TestReconnects_ThatAreTooFastAreToldToWait(t *testing.T) {
	h := open(t, manydevice.Config{})
	a := h.app("ann", "phone")
	waited := 0
	for range 15 {
		a.connect()
		if !a.reads() { // the first frame
			require.Equal(t, event.RateLimited, a.closed.Reason)
			require.Equal(t, event.RetryAfter, a.closed.Retry)
			time.Sleep(a.closed.After)
			waited++
		}
		a.Hangup()
	}
	require.Positive(t, waited)
	require.Equal(t, 1, a.logins)
	require.Len(t, h.logins("ann"), 1)
}

// reads takes lines up to the first frame of the engine.
func (a *app) reads() bool {
	for a.read() {
		if _, ok := a.m.Position(); ok {
			return true
		}
	}
	return false
}

// A client that does not read is closed within FrameWrite, costs nobody else anything, and gets everything when it is back.
func TestStuckClient_IsClosedAndDelaysNobody(t *testing.T) {
	const frameWrite = 500 * time.Millisecond
	h := open(t, manydevice.Config{Fanout: fanout.Config{FrameWrite: frameWrite, AckWait: time.Hour}})
	stuck, lively := h.app("ann", "phone"), h.app("ann", "tablet")
	stuck.connect()
	require.True(t, stuck.reads())
	lively.connect()
	require.True(t, lively.reads())
	big := strings.Repeat("x", 60<<10)
	sent := 0
	begun := time.Now()
	for ; h.Router.Stats().Slow == 0; sent++ {
		h.send("ann", big)
		lively.until(func() bool { return len(lively.texts) > sent })
		require.Less(t, time.Since(begun), patience)
	}
	require.EqualValues(t, 1, h.Router.Stats().ByCause[fanout.CauseFrameWrite])
	require.Eventually(t, func() bool { // only the lively one is attached, and its goroutines are all there are
		all := h.logins("ann")
		return len(slices.DeleteFunc(all, func(s session.Session) bool { return s.State != session.Online })) == 1
	}, patience, time.Millisecond)
	for stuck.read() { // what was on its way
	}
	stuck.Hangup()
	stuck.connect()
	stuck.until(func() bool { return len(stuck.texts) >= sent })
	require.Len(t, stuck.texts, sent)
	require.Equal(t, 1, stuck.logins)
}

// A client that breaks the protocol is told so, whatever it has sent behind, and may come back with its login.
func TestViolation_IsToldAndEndsTheConnectionOnly(t *testing.T) {
	h := open(t, manydevice.Config{Session: session.Config{AttachesPerAccount: -1}})
	a := h.app("ann", "phone")
	for i, c := range []struct{ name, lines string }{
		{"no JSON", "{\"t\":\n"},
		{"an unknown frame", `{"t":"teleport"}` + "\n"},
		{"a frame of the engine", `{"t":"caughtUp","position":{"epoch":"1","seq":"1"}}` + "\n"},
		{"an unknown field", `{"t":"ping","loud":true}` + "\n"},
		{"an acknowledgement beyond what was sent", `{"t":"ack","position":{"epoch":"1","seq":"4711"}}` + "\n"},
		{"an answer to a reset that was not there", `{"t":"resetAck","position":{"epoch":"1","seq":"1"}}` + "\n"},
		{"a line too long", `{"t":"ping","nonce":"` + strings.Repeat("x", maxLine) + `"}` + "\n"},
		{"a line without an end", strings.Repeat("x", 4*maxLine)},
		{"much behind it", "{\n" + strings.Repeat(`{"t":"ping"}`+"\n", 20_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.t = t
			h.send("ann", "one")
			a.connect()
			a.until(func() bool { return len(a.texts) == i+1 })
			go a.nc.Write([]byte(c.lines)) // ends with the connection
			why := a.end()
			require.Equal(t, event.ProtocolError, why.Reason)
			require.Equal(t, event.RetryNo, why.Retry)
			a.connect() // by hand
			require.True(t, a.reads())
			require.Equal(t, 1, a.logins)
			a.Hangup()
		})
	}
}

// What is wrong with the first line is told, too.
func TestHello_ThatIsRefusedIsToldWhy(t *testing.T) {
	h := open(t, manydevice.Config{})
	h.app("ann", "tablet").connect()
	for _, c := range []struct {
		name, line string
		want       event.Closed
	}{
		{"no JSON", "hello", event.ProtocolError.Closed(0)},
		{"too long", strings.Repeat("x", maxLine+8192), event.ProtocolError.Closed(0)},
		{"a wrong password", `{"account":"ann","password":"x","device":"d","platform":"ios"}`, event.Unknown.Closed(0)},
		{"no account", `{"password":"secret of "}`, event.ProtocolError.Closed(0)},
		{"no platform", `{"account":"ann","password":"secret of ann","device":"d"}`, event.ProtocolError.Closed(0)},
		{"a login without its token", `{"account":"ann","password":"secret of ann","login":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`,
			event.ProtocolError.Closed(0)},
		{"a position that is none", `{"account":"ann","password":"secret of ann","position":{"epoch":-1}}`, event.ProtocolError.Closed(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.app("ann", "phone")
			a.t = t
			a.dial()
			go a.nc.Write([]byte(c.line + "\n"))
			require.Equal(t, c.want, a.end())
		})
	}
}

// A wrong token lets nobody in, and harms the login's owner in nothing.
func TestWrongToken_IsToldToLogIn(t *testing.T) {
	h := open(t, manydevice.Config{})
	owner := h.app("ann", "phone")
	owner.connect()
	require.True(t, owner.reads())
	thief := h.app("ann", "phone")
	thief.m.LoggedIn(owner.m.Login(), event.ResumeTokenOf(strings.Repeat("a", 52)))
	thief.connect()
	require.Equal(t, event.Unknown.Closed(0), thief.end())
	h.send("ann", "still there")
	owner.until(func() bool { return len(owner.texts) == 1 })
}

// A login that was kicked is told why, at once or when it comes back, and the client stays away until its user logs in.
func TestKickedLogin_IsToldWhyAndStaysAway(t *testing.T) {
	h := open(t, manydevice.Config{})
	here, away := h.app("ann", "phone"), h.app("ann", "tablet")
	for _, a := range []*app{here, away} {
		a.connect()
		require.True(t, a.reads())
	}
	away.Hangup()
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(h.logins("ann"), func(s session.Session) bool { return s.State == session.Lingering })
	},
		patience, time.Millisecond)
	_, err := h.Sessions.Kick(t.Context(), session.KickRequest{Account: "ann", All: true, Reason: event.KickedHost, Note: "bye"})
	require.NoError(t, err)
	why := here.end()
	require.Equal(t, event.KickedHost, why.Reason)
	require.Equal(t, event.RetryNo, why.Retry)
	for range 2 { // one that asks again hears the same
		away.connect()
		require.Equal(t, why, away.end())
	}
	require.Empty(t, h.logins("ann"))

	here.m.LoggedIn("", event.ResumeToken{}) // its user logs in
	here.connect()
	require.True(t, here.reads())
	require.Equal(t, 2, here.logins)
}

// A second connection of a login takes over; the first is told, and neither loses anything.
func TestSecondConnection_TakesOver(t *testing.T) {
	h := open(t, manydevice.Config{})
	a := h.app("ann", "phone")
	a.connect()
	require.True(t, a.reads())
	again := h.app("ann", "phone")
	again.m.LoggedIn(a.m.Login(), a.m.Token())
	again.connect()
	require.True(t, again.reads())
	require.Equal(t, event.Moved, a.end().Reason)
	h.send("ann", "hello")
	again.until(func() bool { return len(again.texts) == 1 })
}

// A client that ends its half, or is silent, is let go.
func TestEndOfInput_IsTheEndOfTheConnection(t *testing.T) {
	h := open(t, manydevice.Config{Session: session.Config{IdleTimeout: time.Second, SweepInterval: 50 * time.Millisecond}})
	half, silent, busy := h.app("ann", "phone"), h.app("ben", "phone"), h.app("cat", "phone")
	for _, a := range []*app{half, silent, busy} {
		a.connect()
		require.True(t, a.reads())
	}
	require.NoError(t, half.nc.(*net.TCPConn).CloseWrite())
	require.Equal(t, event.Lost, half.end().Reason)
	ended := make(chan event.Closed)
	go func() {
		defer close(ended)
		for silent.read() {
		}
		if silent.closed != nil {
			ended <- *silent.closed
		}
	}()
	for i := 0; ; i++ { // a request is a sign of life
		busy.say(map[string]any{"t": "send", "id": fmt.Sprint(i), "to": "bob", "text": "hello"})
		busy.until(func() bool { return len(busy.sent) > i })
		select {
		case why := <-ended:
			require.Equal(t, event.Lost, why.Reason)
			busy.say(map[string]any{"t": "send", "id": "last", "to": "bob", "text": "hello"})
			busy.until(func() bool { return slices.Contains(busy.sent, "last") })
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Sends over the wire are answered; a repetition has no second effect; the sender's other device has the carbon.
func TestSend_OverTheWire(t *testing.T) {
	h := open(t, manydevice.Config{})
	ann, other, bob := h.app("ann", "phone"), h.app("ann", "tablet"), h.app("bob", "phone")
	for _, a := range []*app{ann, other, bob} {
		a.connect()
		require.True(t, a.reads())
	}
	for range 2 {
		ann.say(map[string]any{"t": "send", "id": "c-17", "to": "bob", "text": "hello"})
		ann.until(func() bool { return len(ann.sent) > 0 })
		ann.sent = nil
	}
	ann.say(map[string]any{"t": "send", "id": "c-18", "to": "bob", "text": "bye"})
	for _, a := range []*app{bob, other} {
		a.until(func() bool { return len(a.texts) == 2 })
		require.Equal(t, []string{"hello", "bye"}, a.texts)
	}
	require.Empty(t, ann.texts)
	ann.say(map[string]any{"t": "send", "id": "c-18", "to": "bob", "text": "something else"})
	line, err := ann.in.ReadBytes('\n')
	for err == nil && !strings.Contains(string(line), `"c-18"`) || strings.Contains(string(line), `"sent"`) {
		line, err = ann.in.ReadBytes('\n')
	}
	require.NoError(t, err)
	var answer struct{ T, Error string }
	require.NoError(t, json.Unmarshal(line, &answer))
	require.Equal(t, "error", answer.T)
	require.NotEmpty(t, answer.Error)
}

// A client that reads is told why its login ends also if the engine is just writing to it: the line under way is finished, and
// the closing frame comes after it.
func TestKickInTraffic_IsTold(t *testing.T) {
	h := open(t, manydevice.Config{Session: session.Config{AttachesPerAccount: -1, LoginsPerMinute: -1}})
	text := strings.Repeat("x", 60<<10)
	var sender sync.WaitGroup
	stop := make(chan struct{})
	sender.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				h.send("ann", text)
			}
		}
	})
	for range 30 {
		a := h.app("ann", "phone")
		a.connect()
		a.until(func() bool { return len(a.texts) > 3 })
		kicked := make(chan error, 1)
		go func() {
			_, err := h.Sessions.Kick(t.Context(), session.KickRequest{Account: "ann", All: true})
			kicked <- err
		}()
		require.Equal(t, event.KickedHost, a.end().Reason)
		require.NoError(t, <-kicked)
	}
	close(stop)
	sender.Wait()
}
