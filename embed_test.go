package manydevice_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// What stands between the markers is the example of the README, word for word.

// readme begin
// serve is one connection of a chat server that has authenticated its client as account.
func serve(ctx context.Context, engine *manydevice.Engine, account event.Account, c net.Conn) error {
	login, err := engine.Sessions.Login(ctx, session.LoginRequest{Account: account, Device: "d1", Platform: "ios"})
	if err != nil {
		return err // a *session.RefusedError says which rule refused
	}
	att, err := engine.Router.Attach(ctx, fanout.AttachRequest{
		Account: account, Login: login.Session.Login, Token: login.Token,
	}, lineConn{c})
	if err != nil {
		return err
	}
	defer att.Detach()
	for lines := bufio.NewScanner(c); lines.Scan(); { // acks, pings: what the client's sync frames say
		if err := att.HandleJSON(ctx, lines.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

type lineConn struct{ net.Conn } // transport.Conn over a socket, one JSON frame a line

func (c lineConn) Send(ctx context.Context, frames []event.Frame) (err error) {
	var b []byte
	for _, f := range frames {
		if b, err = event.AppendFrame(b, f); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	_, err = c.Write(b) // Close makes it return
	return err
}

func (c lineConn) Close(event.Closed) error { return c.Conn.Close() }

// readme end

func TestReadmeExampleIsTheCodeAbove(t *testing.T) {
	code, err := os.ReadFile("embed_test.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(code), "// readme begin\n")
	require.True(t, ok)
	want, _, ok := strings.Cut(rest, "\n// readme end")
	require.True(t, ok)
	require.Contains(t, string(readme), "```go\n"+want+"```", "README.md and embed_test.go differ")
}

func TestReadmeExampleWorks(t *testing.T) {
	st, err := boltstore.Open(filepath.Join(t.TempDir(), "chat.db"), boltstore.Config{})
	require.NoError(t, err)
	engine, err := manydevice.Open(st, manydevice.Config{})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		served <- serve(context.Background(), engine, "bob", c)
	}()

	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, client.SetDeadline(time.Now().Add(20*time.Second)))
	lines := bufio.NewScanner(client)
	next := func() event.Frame {
		require.True(t, lines.Scan(), lines.Err())
		f, err := event.DecodeFrame(lines.Bytes())
		require.NoError(t, err)
		return f
	}
	require.IsType(t, &event.Welcome{}, next())

	_, err = engine.Router.Send(t.Context(), fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Payload: []byte("hello")})
	require.NoError(t, err)
	for {
		d, ok := next().(*event.Data)
		if !ok || len(d.Entries) == 0 {
			continue
		}
		require.Equal(t, "hello", string(d.Entries[0].Payload))
		ack, err := event.AppendClientFrame(nil, &event.Ack{Position: event.Position{Epoch: d.Epoch, Seq: d.Seq}})
		require.NoError(t, err)
		_, err = fmt.Fprintf(client, "%s\n", ack)
		require.NoError(t, err)
		break
	}
	require.NoError(t, client.Close())
	require.NoError(t, <-served)
	require.NoError(t, listener.Close())
	require.NoError(t, engine.Close(t.Context()))
	require.NoError(t, engine.Close(t.Context()), "Close may be called again")
	require.NoError(t, st.Close(t.Context()))
}

func TestOpenRefusesBadInput(t *testing.T) {
	_, err := manydevice.Open(nil, manydevice.Config{})
	var invalid *event.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, "store", invalid.Field)
}

func TestDrainThenClose(t *testing.T) {
	st := memstore.New(memstore.Config{})
	engine, err := manydevice.Open(st, manydevice.Config{})
	require.NoError(t, err)
	require.NoError(t, engine.Drain(t.Context(), session.DrainRequest{Over: time.Second}))
	_, err = engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Platform: "ios"})
	require.ErrorIs(t, err, session.ErrDraining)
	require.NoError(t, engine.Close(t.Context()))
	select {
	case <-engine.Failed():
		t.Fatal("nothing has failed")
	default:
	}
	require.NoError(t, st.Close(t.Context()))
}
