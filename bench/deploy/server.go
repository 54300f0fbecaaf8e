package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/boltstore"
)

// serverConfig is how a server process is started. Stop says what it does at SIGTERM: close, or drain with a time.
type serverConfig struct {
	Addr, Path, Stop string
	Back             time.Duration
}

// request is what a client asks for. Lines that are frames have a member t instead of op.
type request struct {
	Op       string                `json:"op,omitempty"` // login, attach, send
	Account  event.Account         `json:"account,omitempty"`
	Device   event.DeviceID        `json:"device,omitempty"`
	Login    event.LoginID         `json:"login,omitempty"`
	Token    string                `json:"token,omitempty"`
	Position *event.Position       `json:"position,omitempty"`
	To       event.Account         `json:"to,omitempty"`
	ID       event.ClientMessageID `json:"id,omitempty"`
}

// reply is the answer. Lines that are frames have no member op.
type reply struct {
	Op    string                `json:"op"`
	Login event.LoginID         `json:"login,omitempty"`
	Token string                `json:"token,omitempty"`
	ID    event.ClientMessageID `json:"id,omitempty"`
	Error string                `json:"error,omitempty"`
}

func (c *serverConfig) serve() error {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	st, err := boltstore.Open(c.Path, boltstore.Config{})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	engine, err := manydevice.Open(st, manydevice.Config{Session: session.Config{Logger: log}, Fanout: fanout.Config{Logger: log}})
	if err != nil {
		return err
	}
	l, err := listen(c.Addr)
	if err != nil {
		return err
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { serveConn(engine, conn) })
		}
	})
	go answers(func(string) any {
		s := engine.Router.Stats()
		return outcomeStats{Redelivered: s.Redelivered, Delivered: s.Delivered}
	})
	<-terminated
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancel()
	if over, ok := strings.CutPrefix(c.Stop, "drain"); ok {
		d, err := time.ParseDuration(over)
		if err != nil {
			return err
		}
		if err := engine.Drain(ctx, session.DrainRequest{Over: d, Back: c.Back}); err != nil {
			log.Warn("drain", "err", err)
		}
	}
	err = engine.Close(ctx) // those who come meanwhile are told when to come again
	err = errors.Join(err, l.Close(), st.Close(ctx))
	return err
}

type outcomeStats struct{ Redelivered, Delivered uint64 }

// serveConn serves one socket: login or attach, then frames and messages.
func serveConn(engine *manydevice.Engine, conn net.Conn) {
	c := &wire{conn: conn}
	defer conn.Close()
	ctx := context.Background()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	var att *fanout.Attachment
	var me request
	for lines.Scan() {
		var q request
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return
		}
		switch q.Op {
		case "login":
			res, err := engine.Sessions.Login(ctx, session.LoginRequest{Account: q.Account, Device: q.Device, Platform: "ios"})
			if err != nil {
				_ = c.Close(event.ClosedOf(err))
				return
			}
			_ = c.line(reply{Op: "login", Login: res.Session.Login, Token: res.Token.Reveal()})
		case "attach":
			var err error
			me = q
			att, err = engine.Router.Attach(ctx, fanout.AttachRequest{Account: q.Account, Login: q.Login, Token: event.ResumeTokenOf(q.Token), Position: q.Position}, c)
			if err != nil {
				_ = c.Close(event.ClosedOf(err))
				_ = drainConn(lines)
				return
			}
			defer att.Detach()
		case "send":
			_, err := engine.Router.Send(ctx, fanout.SendRequest{
				From: me.Account, Origin: me.Login, ClientID: q.ID, Conversation: event.ConversationID(me.Account + "+" + q.To),
				To: []event.Account{q.To}, Payload: []byte(q.ID),
			})
			r := reply{Op: "sent", ID: q.ID}
			if err != nil {
				r.Error = err.Error()
			}
			_ = c.line(r)
		default:
			if att == nil || att.HandleJSON(ctx, lines.Bytes()) != nil {
				_ = drainConn(lines)
				return
			}
		}
	}
}

// drainConn reads what the client still says, so that the closing frame is not lost with it.
func drainConn(lines *bufio.Scanner) error {
	for lines.Scan() {
	}
	return lines.Err()
}

// wire is the connection of a client: a line for each frame.
type wire struct {
	mu   sync.Mutex
	conn net.Conn
	buf  []byte
}

func (w *wire) Send(ctx context.Context, frames []event.Frame) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetWriteDeadline(time.Now()) })
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = w.buf[:0]
	for _, f := range frames {
		var err error
		if w.buf, err = event.AppendFrame(w.buf, f); err != nil {
			return err
		}
		w.buf = append(w.buf, '\n')
	}
	_, err := w.conn.Write(w.buf)
	return err
}

// Close writes the closing frame. It leaves a write under way, and the reader for what the client says meanwhile, half a second.
func (w *wire) Close(why event.Closed) error {
	line, err := event.AppendFrame(nil, &why)
	if err != nil {
		return err
	}
	_ = w.conn.SetDeadline(time.Now().Add(500 * time.Millisecond)) // before the turn, which a write under way may have
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.conn.Write(append(line, '\n'))
	if tcp, ok := w.conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	return err
}

func (w *wire) line(r reply) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.conn.Write(append(line, '\n'))
	return err
}
