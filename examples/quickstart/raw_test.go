package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// rawConn is a connection as netcat has it: lines of text.
type rawConn struct {
	t  *testing.T
	nc net.Conn
	sc *bufio.Scanner
}

func dialRaw(t *testing.T, s *server) *rawConn {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	return &rawConn{t: t, nc: nc, sc: lines(nc, event.MaxFrameBytes+1)}
}

func (c *rawConn) write(raw string) {
	c.t.Helper()
	_, err := io.WriteString(c.nc, raw)
	require.NoError(c.t, err)
}

// next returns the next line, decoded.
func (c *rawConn) next() map[string]any {
	c.t.Helper()
	require.True(c.t, c.sc.Scan(), "no line: %v", c.sc.Err())
	var m map[string]any
	require.NoError(c.t, json.Unmarshal(c.sc.Bytes(), &m))
	return m
}

// until returns the next line of the given type and skips others.
func (c *rawConn) until(t string) map[string]any {
	c.t.Helper()
	for {
		if m := c.next(); m["t"] == t {
			return m
		}
	}
}

// ask sends a request and returns its answer.
func (c *rawConn) ask(line string) map[string]any {
	c.t.Helper()
	c.write(line + "\n")
	for {
		if m := c.next(); m["t"] == "ok" || m["t"] == "error" {
			return m
		}
	}
}

func (c *rawConn) enter(account, device, platform string) map[string]any {
	c.t.Helper()
	require.Equal(c.t, "ok", c.ask(fmt.Sprintf(`{"t":"auth","account":%q,"password":"secret-of-%s"}`, account, account))["t"])
	login := c.ask(fmt.Sprintf(`{"t":"login","device":%q,"platform":%q}`, device, platform))
	require.Equal(c.t, "ok", login["t"], login)
	require.Equal(c.t, "ok", c.ask(`{"t":"attach"}`)["t"])
	c.until("caughtUp")
	return login
}

// over requires that the connection has nothing more to say.
func (c *rawConn) over() {
	c.t.Helper()
	require.False(c.t, c.sc.Scan(), "%s", c.sc.Bytes())
	require.NoError(c.t, c.sc.Err(), "closed in order, so that the closing frame is not lost")
}

// What a correct client does not send ends the connection with protocol_error, and no other one notices.
func TestRaw_ProtocolErrors(t *testing.T) {
	s := newTestServer(t)
	other := dialRaw(t, s)
	other.enter("ann", "other", "web")
	tests := []struct {
		name  string
		enter bool // attach before
		raw   string
	}{
		{"not JSON", false, "hello\n"},
		{"not JSON, attached", true, "hello\n"},
		{"JSON cut off", true, `{"t":"ack"` + "\n"},
		{"two values", true, `{"t":"ping"}{"t":"ping"}` + "\n"},
		{"array", true, "[]\n"},
		{"null", true, "null\n"},
		{"empty line", true, "\n"},
		{"empty object", true, "{}\n"},
		{"type is a number", true, `{"t":1}` + "\n"},
		{"unknown type", false, `{"t":"dance"}` + "\n"},
		{"unknown type, attached", true, `{"t":"dance"}` + "\n"},
		{"frame of the engine", true, `{"t":"welcome"}` + "\n"},
		{"ref too long", true, `{"t":"list","ref":"` + strings.Repeat("r", 129) + `"}` + "\n"},
		{"not UTF-8", true, "{\"t\":\"list\",\"ref\":\"\xff\"}\n"},
		{"line too long", false, strings.Repeat("x", maxLineBytes+1)},
		{"line too long, attached", true, strings.Repeat("x", 4*maxLineBytes)},
		{"request too long", true, `{"t":"send","to":"bob","text":"` + strings.Repeat("x", maxLineBytes) + `"}` + "\n"},
		{"frame too long", true, `{"t":"ping","nonce":"` + strings.Repeat("x", event.MaxClientFrameBytes) + `"}` + "\n"},
		{"unknown field in a frame", true, `{"t":"ping","from":"bob"}` + "\n"},
		{"field twice in a frame", true, `{"t":"background","on":true,"on":false}` + "\n"},
		{"ack of what was not sent", true, `{"t":"ack","position":{"epoch":"1","seq":"1000000"}}` + "\n"},
		{"answer to no reset", true, `{"t":"resetAck","position":{"epoch":"1","seq":"1"}}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dialRaw(t, s)
			if tt.enter {
				c.enter("ann", "victim", "ios")
			}
			_, err := io.WriteString(c.nc, tt.raw)
			if err != nil {
				t.Log(err) // the server has closed in the middle of it
			}
			closed := c.until("closed")
			require.Equal(t, "protocol_error", closed["reason"])
			require.Equal(t, "no", closed["retry"])
			c.over()
			other.write(`{"t":"ping","nonce":"` + fmt.Sprint(len(tt.name)) + `"}` + "\n")
			require.Equal(t, fmt.Sprint(len(tt.name)), other.until("pong")["nonce"])
		})
	}
}

// A request that was cut off by the end of the connection has no effect.
func TestRaw_CutOff(t *testing.T) {
	s := newTestServer(t)
	bob := dialRaw(t, s)
	bob.enter("bob", "desk", "web")
	for i := range 3 {
		c := dialRaw(t, s)
		c.enter("ann", "phone", "ios")
		c.write(`{"t":"send","to":"bob","text":"half a messa`)
		if i == 1 {
			require.NoError(t, c.nc.(*net.TCPConn).CloseWrite())
			require.Equal(t, "lost", c.until("closed")["reason"])
			c.over()
		}
		require.NoError(t, c.nc.Close())
	}
	c := dialRaw(t, s)
	c.enter("ann", "phone", "ios")
	require.Equal(t, "ok", c.ask(`{"t":"send","to":"bob","text":"whole"}`)["t"])
	entries := bob.until("data")["entries"].([]any)
	require.Len(t, entries, 1)
	require.Equal(t, "whole", entries[0].(map[string]any)["text"])
}

// However a stream is cut into packets, it is the same lines.
func TestRaw_Packets(t *testing.T) {
	s := newTestServer(t)
	c := dialRaw(t, s)
	all := `{"t":"auth","ref":"a","account":"ann","password":"secret-of-ann"}` + "\r\n" +
		`{"t":"login","ref":"b","platform":"web"}` + "\n" + ` { "ref" : "c" , "t" : "attach" } ` + "\n" + `{"t":"ping","nonce":"n"}` + "\n"
	for i := range len(all) {
		c.write(all[i : i+1])
	}
	for _, ref := range []string{"a", "b", "c"} {
		m := c.next()
		require.Equal(t, "ok", m["t"])
		require.Equal(t, ref, m["ref"])
	}
	require.Equal(t, "welcome", c.next()["t"], "after the answer, never before it")
	require.Equal(t, "n", c.until("pong")["nonce"])
}

// Many connections at once, some of which break off, while the server closes under them.
func TestRaw_ManyAtOnce(t *testing.T) {
	s := newTestServer(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			account := event.Account([]string{"ann", "bob", "eve"}[i%3])
			for j := range 4 {
				d := newDevice(account, event.DeviceID(fmt.Sprint("d", i)), event.Platform([]string{"ios", "web"}[j%2]), "device")
				_, err := d.enter(t.Context(), s.addr())
				for k := 0; err == nil && k < 5; k++ {
					err = d.call(t.Context(), "send", &sendRequest{Group: "team", Text: fmt.Sprint(i, j, k)}, nil)
				}
				if err == nil && j == 3 {
					_ = d.call(t.Context(), "kick", &kickRequest{Others: true}, nil) // and is kicked in turn
				}
				d.drop()
				if fault := d.sound(); fault != nil {
					t.Error(fault)
				}
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { return len(s.open()) == 0 }, 5*time.Second, time.Millisecond, "every connection is forgotten")
}

// The session in docs/protocol.md works as it is printed.
func TestRaw_DocumentedSession(t *testing.T) {
	page, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	_, section, ok := bytes.Cut(page, []byte("<!-- quickstart requests -->"))
	require.True(t, ok)
	s := newTestServer(t)
	bob := dialRaw(t, s)
	bob.enter("bob", "desk", "web")
	block := regexp.MustCompile("(?s)```console\n\\$ nc [^\n]+\n(.*?)```").FindSubmatch(section)
	require.NotNil(t, block)
	c := dialRaw(t, s)
	asked := 0
	for line := range strings.Lines(string(block[1])) {
		m := c.ask(strings.TrimSpace(line))
		require.Equal(t, "ok", m["t"], "%s: %v", line, m)
		asked++
	}
	require.Greater(t, asked, 5)

	examples := regexp.MustCompile("(?m)^\\{\"t\":\"([a-zA-Z]+)\".*$").FindAllSubmatch(section, -1)
	require.NotEmpty(t, examples)
	for _, e := range examples {
		kind := string(e[1])
		if kind == "ok" || kind == "error" {
			require.True(t, json.Valid(e[0]), "%s", e[0])
			continue
		}
		if _, err := event.DecodeFrame(e[0]); err == nil {
			continue
		}
		do := (&guest{s: s}).request(kind)
		require.NotNil(t, do, "%s", e[0])
		_, err := do(t.Context(), e[0])
		require.NotContains(t, fmt.Sprint(err), "request: ", "%s: fields are those of the code", e[0])
	}
}
