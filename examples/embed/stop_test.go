package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

const child = "EMBED_TEST_CHILD"

// TestMain makes the test binary the program itself when a test starts it as a child.
func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start starts the program as a process of its own, and returns once it listens.
func start(t *testing.T, addr, db string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-addr", addr, "-db", db)
	cmd.Env = append(os.Environ(), child+"=1")
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	read := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-read
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening") {
		t.Log(lines.Text())
	}
	require.NoError(t, lines.Err())
	go func() { // ends with the process
		defer close(read)
		for lines.Scan() {
			t.Log(lines.Text())
		}
	}()
	return cmd
}

// comeBack connects as the client rule says: after the advice of the closing frame, and again while nobody listens.
func (a *app) comeBack() {
	a.t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; {
		if a.closed != nil {
			require.Contains(a.t, []event.Reason{event.Shutdown, event.Unavailable, event.RateLimited}, a.closed.Reason)
			time.Sleep(a.closed.After)
		}
		probe, err := net.Dial("tcp", a.addr)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		probe.Close()
		a.connect()
		if a.reads() {
			return
		}
		a.Hangup()
	}
	a.t.Fatal("cannot come back")
}

// talk sends messages one after another, each until it is answered, over any number of connections.
func (a *app) talk(texts ...string) {
	a.comeBack()
	for _, text := range texts {
		for !slices.Contains(a.sent, text) {
			if err := a.trySay(map[string]any{"t": "send", "id": text, "to": "bob", "text": text}); err == nil {
				for !slices.Contains(a.sent, text) && a.read() {
				}
			}
			if !slices.Contains(a.sent, text) {
				for a.closed == nil && a.read() { // to the end: it may say why
				}
				a.Hangup()
				a.comeBack()
			}
		}
	}
}

// A SIGTERM in the middle of traffic: the process tells its clients to come back, writes what is pending and ends by itself;
// what it has answered is there when the next one starts, and every message arrives once.
func TestSIGTERM_DuringTrafficLosesNothingAnswered(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr, db := ln.Addr().String(), filepath.Join(t.TempDir(), "chat.db")
	require.NoError(t, ln.Close())
	process := start(t, addr, db)

	const senders, each = 4, 400
	bob := newApp(t, addr, "bob", "phone")
	bob.comeBack()
	var talking sync.WaitGroup
	var want []string
	all := make([]*app, senders)
	for s := range all {
		all[s] = newApp(t, addr, event.Account(fmt.Sprintf("ann%d", s)), "phone")
		var texts []string
		for n := range each {
			texts = append(texts, fmt.Sprintf("%d-%d", s, n))
		}
		want = append(want, texts...)
		talking.Go(func() { all[s].talk(texts...) })
	}
	bob.until(func() bool { return len(bob.texts) > senders*each/4 })
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	why := bob.end()
	require.Equal(t, event.Shutdown, why.Reason)
	require.Equal(t, event.RetryAfter, why.Retry)
	require.Positive(t, why.After)
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}

	again := start(t, addr, db)
	bob.comeBack()
	talking.Wait()
	bob.until(func() bool { return len(bob.texts) >= len(want) })
	require.ElementsMatch(t, want, bob.texts)
	for _, a := range append(all, bob) {
		require.Equal(t, 1, a.logins)
	}
	require.NoError(t, again.Process.Signal(syscall.SIGTERM))
	require.NoError(t, again.Wait())
}

// Connections that say nothing, and clients that were told and stay, do not keep the process: the next one is started when it is gone.
func TestSIGTERM_IsNotDelayedByWhoIsSilent(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr, db := ln.Addr().String(), filepath.Join(t.TempDir(), "chat.db")
	require.NoError(t, ln.Close())
	process := start(t, addr, db)
	mute, stays := newApp(t, addr, "ann", "phone"), newApp(t, addr, "bob", "phone")
	mute.dial() // and never says who it is
	stays.connect()
	require.True(t, stays.reads())
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	for stays.read() {
	}
	require.NotNil(t, stays.closed)
	told := time.Now()
	require.NoError(t, process.Wait())
	require.Less(t, time.Since(told), 5*time.Second, "the first line may take 10 s")
}
