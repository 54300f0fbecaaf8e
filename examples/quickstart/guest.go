package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// guest is one connection and what is known of who is at its other end. One goroutine reads and handles its lines.
type guest struct {
	s    *server
	conn *lineConn

	account event.Account // empty: not authenticated
	login   event.LoginID // admitted on this connection, or attached; empty: neither
	token   event.ResumeToken
	att     *fanout.Attachment // nil: not attached
}

// serve handles lines until the connection is over.
func (g *guest) serve() {
	sc := lines(g.conn.nc, maxLineBytes)
	for g.await() && sc.Scan() && !g.conn.closed() {
		g.handle(sc.Bytes())
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		g.violation("line too long")
	}
	if g.att != nil {
		g.att.Detach() // the engine calls Close, if it has not done so already
		<-g.conn.over
	} else if err := g.conn.Close(event.Lost.Closed(0)); err != nil {
		g.s.log.Debug("close", "err", err)
	}
	g.conn.drain()
}

// await sets how long the client may be silent: an attached one as long as the engine allows.
func (g *guest) await() bool {
	if g.att != nil {
		return g.conn.setDeadline(g.conn.nc.SetReadDeadline, time.Time{})
	}
	return g.conn.setDeadline(g.conn.nc.SetReadDeadline, time.Now().Add(attachTime))
}

// violation ends the connection because of something that a correct client does not send.
func (g *guest) violation(note string) {
	why := event.ProtocolError.Closed(0)
	why.Note = note
	if g.att != nil {
		g.att.Close(why)
	} else if err := g.conn.Close(why); err != nil {
		g.s.log.Debug("close", "err", err)
	}
}

// envelope is what all requests have.
type envelope struct {
	T   string `json:"t"`
	Ref string `json:"ref,omitempty"`
}

// handle handles one line: a frame for the engine, or a request to the server.
func (g *guest) handle(line []byte) {
	var head envelope
	if !utf8.Valid(line) || json.Unmarshal(line, &head) != nil || event.CheckName("ref", head.Ref) != nil {
		g.violation("not a JSON object with a type, or a bad ref")
		return
	}
	ctx, cancel := context.WithTimeout(g.s.ctx, requestTime)
	defer cancel()
	switch head.T {
	case "ack", "nack", "resetAck", "tokenStored", "background", "ping":
		g.frame(ctx, line)
		return
	}
	do := g.request(head.T)
	if do == nil {
		g.violation("unknown type")
		return
	}
	if g.att != nil {
		g.att.Touch()
	}
	body, err := do(ctx, line)
	if g.att != nil {
		g.att.AwaitClose(ctx) // a request that ends the own login is answered by the closing frame
	}
	if err != nil {
		g.reply("error", head.Ref, g.s.describe(err))
	} else {
		g.reply("ok", head.Ref, body)
	}
}

// frame hands a frame to the engine, whose business it is.
func (g *guest) frame(ctx context.Context, line []byte) {
	if g.att == nil {
		g.reply("error", "", g.s.describe(errNotAttached))
		return
	}
	if err := g.att.HandleJSON(ctx, line); err != nil {
		g.s.log.Debug("frame", "account", string(g.account), "err", err)
	}
}

// reply writes an answer, and lets frames out once that to attach is on its way. If it cannot be written, the next read
// fails too.
func (g *guest) reply(t, ref string, body any) {
	line, err := json.Marshal(envelope{T: t, Ref: ref})
	if err == nil {
		var rest []byte
		if rest, err = json.Marshal(body); err == nil && len(rest) > len("{}") {
			line = append(append(bytes.TrimSuffix(line, []byte{'}'}), ','), rest[1:]...)
		}
	}
	if err == nil {
		err = g.conn.answer(line)
	}
	if err != nil {
		g.s.log.Debug("reply", "account", string(g.account), "err", err)
	}
	if g.att != nil && !g.conn.isReady() {
		close(g.conn.ready)
	}
}

// request returns what handles a type of request, or nil.
func (g *guest) request(t string) func(context.Context, []byte) (any, error) {
	switch t {
	case "auth":
		return decoded(g.auth)
	case "login":
		return decoded(g.logIn)
	case "dryRun":
		return decoded(g.dryRun)
	case "attach":
		return decoded(g.attach)
	case "send":
		return decoded(g.send)
	case "publish":
		return decoded(g.publish)
	case "read":
		return decoded(g.read)
	case "unread":
		return decoded(g.unread)
	case "claim":
		return decoded(g.claim)
	case "clearUnread":
		return decoded(g.clearUnread)
	case "list":
		return decoded(g.list)
	case "peers":
		return decoded(g.peers)
	case "kick":
		return decoded(g.kick)
	case "logout":
		return decoded(g.logOut)
	case "removeDevice":
		return decoded(g.removeDevice)
	}
	return nil
}

// decoded has a request decoded before do gets it. A field that do does not know is refused: a misspelt one would else
// be a request for something else.
func decoded[Q any](do func(context.Context, *Q) (any, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, line []byte) (any, error) {
		var q Q
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&q); err != nil {
			return nil, &fault{codeInvalid, "request: " + err.Error()}
		}
		return do(ctx, &q)
	}
}

// nothing is the answer that says no more than ok.
type nothing struct{}
