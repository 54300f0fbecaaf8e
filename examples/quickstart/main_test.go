package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

// serveFile names the file that a child process serves; see kill_test.go.
const serveFile = "QUICKSTART_TEST_SERVE"

func TestMain(m *testing.M) {
	if db := os.Getenv(serveFile); db != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := run(ctx, []string{"-serve", "-db", db}, nil, os.Stdout, os.Stderr)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newTestServer runs a server over a store in memory until the test ends.
func newTestServer(t *testing.T) *server {
	t.Helper()
	return serveStore(t, memstore.New(memstore.Config{}))
}

func serveStore(t *testing.T, st store.Store) *server {
	t.Helper()
	s, err := newServer("127.0.0.1:0", st, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		require.NoError(t, s.close(ctx))
	})
	return s
}

func TestStory(t *testing.T) {
	var out, log bytes.Buffer
	begun := time.Now()
	err := run(t.Context(), nil, nil, &out, &log)
	t.Log(out.String())
	require.NoError(t, err)
	require.Less(t, time.Since(begun), storyTime)
	require.Empty(t, log.String())
	for _, want := range []string{
		"ann's old phone is told: closed: evicted_quota by ann's new phone, retry: no",
		`arrived: message from bob: "hello ann, this is bob"`,
		"ann's laptop is back and has caught up",
		"arrived: read mark: direct:ann:bob",
		`ann's browser is told: closed: kicked_self by ann's phone ("left open at the library"), retry: no`,
		"ann's browser tries to resume: refused",
		"all is well",
	} {
		require.Contains(t, out.String(), want)
	}
	require.NotContains(t, out.String(), "MISS")
}

// The story has to notice a device that lacks a message, has one too many, or has one twice.
func TestStory_SeesMisses(t *testing.T) {
	tests := []struct {
		name string
		harm func(c *cast)
	}{
		{"message lacking", func(c *cast) { c.tablet.applied = c.tablet.applied[1:] }},
		{"message of another device", func(c *cast) { c.sent[0].to = c.sent[0].to[1:] }},
		{"entry twice", func(c *cast) { c.tablet.applied = append(c.tablet.applied, c.tablet.applied[0]) }},
		{"reset", func(c *cast) { c.tablet.resets++ }},
		{"conversation state differs", func(c *cast) {
			c.tablet.machine.Record(event.State{Conversation: "direct:ann:bob", Name: event.StateRead, Number: 1 << 40})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c := &cast{story: &story{out: io.Discard, gone: map[*device]bool{}, told: map[*device]int{}}}
			c.srv = newTestServer(t)
			c.tablet = c.device("ann", "ios-2", "ios", "tablet")
			c.android = c.device("bob", "and-1", "android", "phone")
			defer c.tablet.drop()
			defer c.android.drop()
			for _, d := range []*device{c.tablet, c.android} {
				_, err := c.enter(ctx, d)
				require.NoError(t, err)
			}
			_, err := c.send(ctx, c.android, &sendRequest{To: "ann", Text: "hello"}, "ann")
			require.NoError(t, err)
			require.NoError(t, c.arrives(ctx))
			c.tablet.mu.Lock()
			tt.harm(c)
			c.tablet.mu.Unlock()
			require.Error(t, c.balance(ctx))
			c.console.drop()
		})
	}
}

func TestRun_BadArguments(t *testing.T) {
	tests := []struct {
		name string
		args []string
	}{
		{"unknown flag", []string{"-shout"}},
		{"leftover", []string{"now"}},
		{"two modes", []string{"-serve", "-client"}},
		{"no such folder", []string{"-db", filepath.Join(t.TempDir(), "missing", "chat.db")}},
		{"no such address", []string{"-serve", "-addr", "127.0.0.1:none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Error(t, run(t.Context(), tt.args, strings.NewReader(""), io.Discard, io.Discard))
		})
	}
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, nil, io.Discard, io.Discard), flag.ErrHelp)
}

func TestServe_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-serve", "-db", filepath.Join(t.TempDir(), "chat.db")}, nil, w, io.Discard)
		w.Close()
	}()
	sc := lines(r, 1024)
	require.True(t, sc.Scan(), "the address is the first line")
	d := newDevice("ann", "d", "web", "browser")
	defer d.drop()
	_, err := d.enter(t.Context(), sc.Text())
	require.NoError(t, err)
	cancel()
	why, err := d.awaitClosed(t.Context())
	require.NoError(t, err)
	require.Equal(t, event.Shutdown, why.Reason)
	require.NoError(t, <-ended)
}

// The client that a person drives, from the first line to the last.
func TestTalk(t *testing.T) {
	s := newTestServer(t)
	bob := newDevice("bob", "desk", "web", "browser")
	defer bob.drop()
	_, err := bob.enter(t.Context(), s.addr())
	require.NoError(t, err)
	in, commands := io.Pipe()
	out := &screen{changed: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- run(t.Context(), []string{"-client", "-addr", s.addr(), "-account", "ann"}, in, out, out)
	}()
	say := func(line, want string) {
		t.Helper()
		_, err := io.WriteString(commands, line+"\n")
		require.NoError(t, err)
		out.await(t, want)
	}
	say("", "you are ann")
	say("dance", "login <device> <platform> [name]")
	say("send bob too early", "error: ")
	say("login phone", "login <device>")
	say("login phone ios my phone", "logged in as ")
	say("login phone ios my phone", "ann's my phone had to go: replaced")
	say("send bob hello from ann", "sent as ")
	e, err := bob.awaitEntry(t.Context(), func(e *event.Sealed) bool { return e.Kind == event.KindMessage })
	require.NoError(t, err)
	require.Equal(t, "hello from ann", string(e.Payload))
	say("read", "no message yet")
	require.NoError(t, bob.call(t.Context(), "send", &sendRequest{To: "ann", Text: "and from bob"}, nil))
	out.await(t, `message from bob: "and from bob"`)
	say("read", "direct:ann:bob is read up to entry")
	say("typing bob", "ok")
	say("group team hi all", "sent as ")
	say("group nobody hi", "error: not_found")
	say("list", "<- asks")
	say("kick aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "0 ended")
	say("drop", "connection dropped")
	say("resume", "attached")
	say("others gone", "0 ended")
	say("logout", "closed: logout, retry: no")
	_, err = io.WriteString(commands, "quit\n")
	require.NoError(t, err)
	require.NoError(t, <-ended)
	require.NoError(t, commands.Close())
}

// screen is an output that a test can wait for. Each await goes on behind what the one before found.
type screen struct {
	mu      sync.Mutex
	text    string
	changed chan struct{}
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += string(b)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (s *screen) await(t *testing.T, want string) {
	t.Helper()
	late := time.After(5 * time.Second)
	for {
		s.mu.Lock()
		_, rest, found := strings.Cut(s.text, want)
		if found {
			s.text = rest
		}
		seen := s.text
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-s.changed:
		case <-late:
			require.Fail(t, "did not appear", "%q in %q", want, seen)
		}
	}
}
