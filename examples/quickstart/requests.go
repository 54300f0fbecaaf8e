package main

import (
	"context"
	"encoding/base64"
	"net"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// authRequest says who is there. Everything else comes after it.
type authRequest struct {
	envelope
	Account  event.Account `json:"account"`
	Password string        `json:"password"`
}

func (g *guest) auth(_ context.Context, q *authRequest) (any, error) {
	if g.account != "" {
		return nil, &fault{codeConflict, "this connection is authenticated already"}
	}
	if !authentic(q.Account, q.Password) {
		return nil, &fault{codeNotAuthenticated, "wrong account or password"}
	}
	g.account = q.Account
	return nothing{}, nil
}

// loginRequest asks for a new login of a device.
type loginRequest struct {
	envelope
	Device   event.DeviceID `json:"device,omitempty"`
	Platform event.Platform `json:"platform"`
	Name     string         `json:"name,omitempty"`
	Model    string         `json:"model,omitempty"`
	OS       string         `json:"os,omitempty"`
	App      string         `json:"app,omitempty"`
	BackFill uint64         `json:"backFill,omitempty,string"`
}

type loginAnswer struct {
	Login    event.LoginID  `json:"login"`
	Token    string         `json:"token"`
	Device   event.DeviceID `json:"device"`
	Position event.Position `json:"position"`
	Ended    []endedLogin   `json:"ended,omitempty"`
}

func (q *loginRequest) admission(g *guest) session.LoginRequest {
	ip, _, err := net.SplitHostPort(g.conn.RemoteAddr())
	if err != nil {
		ip = ""
	}
	return session.LoginRequest{
		Account: g.account, Device: q.Device, Platform: q.Platform, BackFill: q.BackFill,
		Description: session.Description{Name: q.Name, Model: q.Model, OS: q.OS, AppVersion: q.App, IP: ip},
	}
}

func (g *guest) logIn(ctx context.Context, q *loginRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	if g.att != nil {
		return nil, &fault{codeConflict, "this connection is attached: log in on a new one"}
	}
	res, err := g.s.engine.Sessions.Login(ctx, q.admission(g))
	if err != nil {
		return nil, err
	}
	g.login, g.token = res.Session.Login, res.Token
	return loginAnswer{
		Login: g.login, Token: g.token.Reveal(), Device: res.Session.Device, Position: res.Position, Ended: endedLogins(res.Victims),
	}, nil
}

type dryRunAnswer struct {
	Verdict string   `json:"verdict"`
	Rule    string   `json:"rule"`
	Limit   int      `json:"limit"`
	Victims []victim `json:"victims,omitempty"`
	Why     string   `json:"why"`
}

type victim struct {
	Login  event.LoginID `json:"login"`
	Reason event.Reason  `json:"reason"`
}

func (g *guest) dryRun(ctx context.Context, q *loginRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	e, err := g.s.engine.Sessions.DryRun(ctx, q.admission(g))
	if err != nil {
		return nil, err
	}
	a := dryRunAnswer{Verdict: e.Verdict.String(), Rule: e.Rule, Limit: e.Limit, Why: e.String()}
	for _, v := range e.Victims {
		a.Victims = append(a.Victims, victim{Login: v.Login, Reason: v.Reason})
	}
	return a, nil
}

// attachRequest binds the connection to a login, which is that of this connection if it names none.
type attachRequest struct {
	envelope
	Login    event.LoginID   `json:"login,omitempty"`
	Token    string          `json:"token,omitempty"`
	Position *event.Position `json:"position,omitempty"`
}

type attachAnswer struct {
	Login  event.LoginID  `json:"login"`
	Device event.DeviceID `json:"device"`
}

func (g *guest) attach(ctx context.Context, q *attachRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	if g.att != nil {
		return nil, &fault{codeConflict, "this connection is attached already"}
	}
	token := event.ResumeTokenOf(q.Token)
	if q.Login == "" && q.Token == "" {
		q.Login, token = g.login, g.token
	}
	att, err := g.s.engine.Router.Attach(ctx, fanout.AttachRequest{
		Account: g.account, Login: q.Login, Token: token, Position: q.Position,
	}, g.conn)
	if err != nil {
		return nil, err
	}
	g.att, g.login, g.token = att, att.Login(), event.ResumeToken{}
	return attachAnswer{Login: att.Login(), Device: att.Device()}, nil
}

// sendRequest is a message or an operation: to an account, to a group, to devices of one's own, about a conversation, or
// about a message.
type sendRequest struct {
	envelope
	ClientID     event.ClientMessageID `json:"clientId,omitempty"`
	To           event.Account         `json:"to,omitempty"`
	Group        string                `json:"group,omitempty"`
	Logins       []event.LoginID       `json:"logins,omitempty"`
	Conversation event.ConversationID  `json:"conversation,omitempty"`
	Of           event.MessageID       `json:"of,omitempty"`
	Kind         event.Kind            `json:"kind,omitempty"`
	Subject      string                `json:"subject,omitempty"`
	Text         string                `json:"text,omitempty"`
	Data         string                `json:"data,omitempty"`
	TTL          int64                 `json:"ttlMs,omitempty,string"`
}

type sendAnswer struct {
	ID        event.MessageID `json:"id"`
	Position  event.Position  `json:"position"`
	Duplicate bool            `json:"duplicate,omitempty"`
	States    []register      `json:"states,omitempty"`
}

func (g *guest) send(ctx context.Context, q *sendRequest) (any, error) {
	if g.att == nil {
		return nil, errNotAttached
	}
	const most = int64(365 * 24 * time.Hour / time.Millisecond)
	if q.TTL < 0 || q.TTL > most {
		return nil, &event.InvalidError{Field: "ttlMs", Reason: "want 0 to a year"}
	}
	payload, err := payloadOf(q.Text, q.Data)
	if err != nil {
		return nil, err
	}
	send := fanout.SendRequest{
		From: g.account, Origin: g.login, ClientID: q.ClientID, Kind: q.Kind, Of: q.Of, Subject: q.Subject, Targets: q.Logins,
		Payload: payload, TTL: time.Duration(q.TTL) * time.Millisecond,
	}
	if send.Conversation, send.To, err = g.addressees(ctx, q); err != nil {
		return nil, err
	}
	res, err := g.s.engine.Router.Send(ctx, send)
	if err != nil {
		return nil, err
	}
	return sendAnswer{ID: res.ID, Position: res.Position, Duplicate: res.Duplicate, States: registers(res.States)}, nil
}

// addressees returns the conversation and recipients of a send. There are none but the own devices if it is for logins of
// the account, or about a conversation; what is about a message goes to everybody who got that.
func (g *guest) addressees(ctx context.Context, q *sendRequest) (event.ConversationID, []event.Account, error) {
	ways := 0
	for _, on := range []bool{q.To != "", q.Group != "", len(q.Logins) > 0, q.Conversation != "", q.Of != ""} {
		if on {
			ways++
		}
	}
	switch {
	case ways != 1:
		return "", nil, &event.InvalidError{Field: "to", Reason: "want exactly one of to, group, logins, conversation and of"}
	case q.Of != "":
		return "", nil, g.s.mayChange(ctx, g.account, q.Kind, q.Of)
	case len(q.Logins) > 0:
		return directConversation(g.account, g.account), nil, nil
	case q.Conversation != "":
		return q.Conversation, nil, g.s.belongs(g.account, q.Conversation)
	}
	return g.s.audience(g.account, q.To, q.Group)
}

func payloadOf(text, data string) ([]byte, error) {
	if data == "" {
		return []byte(text), nil
	}
	if text != "" {
		return nil, &event.InvalidError{Field: "data", Reason: "want text or data, not both"}
	}
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, &event.InvalidError{Field: "data", Reason: "not base64"}
	}
	return b, nil
}

// publishRequest is a live-only event, such as typing.
type publishRequest struct {
	envelope
	To      event.Account `json:"to,omitempty"`
	Group   string        `json:"group,omitempty"`
	Kind    event.Kind    `json:"kind,omitempty"`
	Subject string        `json:"subject,omitempty"`
	Text    string        `json:"text,omitempty"`
	Mirror  bool          `json:"mirror,omitempty"`
}

type publishAnswer struct {
	Connections int `json:"connections"`
}

func (g *guest) publish(ctx context.Context, q *publishRequest) (any, error) {
	if g.att == nil {
		return nil, errNotAttached
	}
	conv, to, err := g.s.audience(g.account, q.To, q.Group)
	if err != nil {
		return nil, err
	}
	if q.Kind == "" {
		q.Kind = event.KindTyping
	}
	n, err := g.s.engine.Router.Publish(ctx, fanout.PublishRequest{
		From: g.account, Origin: g.login, Kind: q.Kind, Conversation: conv, To: to, Mirror: q.Mirror, Subject: q.Subject,
		Payload: []byte(q.Text),
	})
	return publishAnswer{Connections: n}, err
}
