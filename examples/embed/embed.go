// Embed is the chat server of the README: the least code around the engine that is right. It runs until SIGTERM.
//
//	go run ./examples/embed -addr 127.0.0.1:7777 -db chat.db
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"log/slog"
	"net"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/boltstore"
)

// What stands between the markers is in the README, word for word.

// readme: connection

// conn is a transport.Conn: a TCP connection on which each frame is a line. A *tls.Conn has the same methods.
type conn struct {
	nc   *net.TCPConn
	in   *bufio.Reader
	mu   sync.Mutex // held while lines are written
	over bool       // nothing may follow: the closing frame was written, or half a line. Guarded by mu
}

func (c *conn) Send(ctx context.Context, frames []event.Frame) (err error) {
	var b []byte
	for _, f := range frames {
		if b, err = event.AppendFrame(b, f); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	return c.write(ctx, b)
}

// write writes lines, the engine's or the server's own.
func (c *conn) write(ctx context.Context, lines []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || ctx.Err() != nil {
		return cmp.Or(ctx.Err(), net.ErrClosed)
	}
	defer context.AfterFunc(ctx, c.hurry)()
	n, err := c.nc.Write(lines)
	c.over = 0 < n && n < len(lines)
	return err
}

// hurry leaves a write that waits for the client half a second.
func (c *conn) hurry() { c.nc.SetWriteDeadline(time.Now().Add(time.Second / 2)) }

func (c *conn) Close(why event.Closed) error {
	c.hurry()
	c.nc.SetReadDeadline(time.Now().Add(2 * time.Second))
	c.mu.Lock()
	defer c.mu.Unlock()
	if line, err := event.AppendFrame(nil, &why); err == nil && !c.over {
		c.nc.Write(append(line, '\n'))
	}
	c.over = true
	c.nc.CloseWrite() // fails if the client is gone already, which is nobody's fault
	return nil
}

// readme: attach

// hello is the first line of a connection.
type hello struct {
	Account  event.Account
	Password string
	Device   event.DeviceID // the app makes it up once and keeps it
	Platform event.Platform
	Login    event.LoginID // these two are the answer to the first hello: the client keeps them, and sends them from then on
	Token    event.ResumeToken
	Position *event.Position // up to where the client has stored everything
}

func attach(ctx context.Context, engine *manydevice.Engine, c *conn) (*fanout.Attachment, event.Account, error) {
	c.nc.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := c.readLine()
	if err != nil {
		return nil, "", err
	}
	var h hello
	if err := json.Unmarshal(line, &h); err != nil {
		return nil, "", &event.InvalidError{Field: "hello", Reason: err.Error()}
	}
	if !authentic(h.Account, h.Password) {
		return nil, "", session.ErrUnknownLogin
	}
	if h.Login == "" {
		res, err := engine.Sessions.Login(ctx, session.LoginRequest{Account: h.Account, Device: h.Device, Platform: h.Platform})
		if err != nil {
			return nil, "", err
		}
		h.Login, h.Token = res.Session.Login, res.Token
		if err := c.reply(ctx, map[string]any{"t": "login", "login": h.Login, "token": h.Token.Reveal()}); err != nil {
			return nil, "", err
		}
	}
	c.nc.SetDeadline(time.Time{})
	att, err := engine.Router.Attach(ctx, fanout.AttachRequest{
		Account: h.Account, Login: h.Login, Token: h.Token, Position: h.Position,
	}, c)
	return att, h.Account, err
}

// readme: serve

// serve is one connection, from its first line to its end.
func serve(ctx context.Context, engine *manydevice.Engine, nc *net.TCPConn) {
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	c := &conn{nc: nc, in: bufio.NewReader(nc)}
	defer io.Copy(io.Discard, c.in)
	att, account, err := attach(ctx, engine, c)
	if err != nil {
		c.Close(event.ClosedOf(err))
		return
	}
	defer att.AwaitClose(ctx)
	defer att.Detach()
	for err == nil {
		var line []byte
		if line, err = c.readLine(); err == nil {
			err = handle(ctx, engine, att, account, c, line)
		}
	}
	if errors.Is(err, errTooLong) {
		att.Close(event.ClosedOf(err))
	}
}

// handle does what a line asks for: a request of your own protocol, here only send, or a frame for the engine.
func handle(ctx context.Context, engine *manydevice.Engine, att *fanout.Attachment, from event.Account, c *conn, line []byte) error {
	var q struct {
		T, Text string
		ID      event.ClientMessageID
		To      event.Account
	}
	if json.Unmarshal(line, &q) != nil || q.T != "send" {
		return att.HandleJSON(ctx, line)
	}
	att.Touch()
	res, err := engine.Router.Send(ctx, fanout.SendRequest{
		From: from, Origin: att.Login(), ClientID: q.ID, To: []event.Account{q.To},
		Conversation: conversation(from, q.To), Payload: []byte(q.Text),
	})
	if err != nil {
		return c.reply(ctx, map[string]any{"t": "error", "id": q.ID, "error": err.Error()})
	}
	return c.reply(ctx, map[string]any{"t": "sent", "id": q.ID, "position": res.Position})
}

// readme: main

func main() {
	addr, db := flag.String("addr", "127.0.0.1:7777", "where to listen"), flag.String("db", "chat.db", "the file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	logger := slog.Default()
	st := must(boltstore.Open(*db, boltstore.Config{Logger: logger}))
	engine := must(manydevice.Open(st, manydevice.Config{
		Session: session.Config{Logger: logger}, Fanout: fanout.Config{Logger: logger},
	}))
	ln := must(net.Listen("tcp", *addr))
	logger.Info("listening", "addr", ln.Addr().String())
	serving, cut := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		accept(ln, func(nc *net.TCPConn) { conns.Go(func() { serve(serving, engine, nc) }) })
	})

	select {
	case <-ctx.Done():
	case <-engine.Failed():
	}
	end, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := engine.Drain(end, session.DrainRequest{Over: 10 * time.Second, Back: time.Second})
	err = errors.Join(err, engine.Close(end), ln.Close(), st.Close(end))
	time.AfterFunc(time.Second/2, cut)
	conns.Wait()
	if err != nil {
		log.Fatal(err)
	}
}

// readme: end

const maxLine = 160 << 10 // the longest message, even if every other byte is escaped

var errTooLong = &event.InvalidError{Field: "line", Reason: "too long"}

// readLine returns the next whole line. What the end of the connection has cut off is none.
func (c *conn) readLine() (line []byte, err error) {
	for len(line) <= maxLine {
		part, err := c.in.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
	return nil, errTooLong
}

// reply writes a line of the server's own.
func (c *conn) reply(ctx context.Context, answer map[string]any) error {
	line, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return c.write(ctx, append(line, '\n'))
}

// accept hands out connections until the listener is closed.
func accept(ln net.Listener, serve func(*net.TCPConn)) {
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			serve(nc.(*net.TCPConn))
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as too many open files: it may get better
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// authentic stands for what your server knows of its users.
func authentic(account event.Account, password string) bool {
	return password == "secret of "+string(account)
}

// conversation names the conversation of two accounts, alike for both.
func conversation(a, b event.Account) event.ConversationID {
	return event.ConversationID(min(a, b) + " " + max(a, b))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
