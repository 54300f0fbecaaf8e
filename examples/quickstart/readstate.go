package main

import (
	"context"
	"encoding/base64"
	"unicode/utf8"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// register is a register of conversation state, as in the frame state.
type register struct {
	Name         string               `json:"name"`
	Conversation event.ConversationID `json:"conversation,omitempty"`
	Number       uint64               `json:"number,omitempty,string"`
	Seq          uint64               `json:"seq,string"`
	Text         string               `json:"text,omitempty"`
	Data         string               `json:"data,omitempty"`
}

func registers(states []event.State) []register {
	list := make([]register, 0, len(states))
	for _, s := range states {
		r := register{Name: s.Name, Conversation: s.Conversation, Number: s.Number, Seq: s.Seq}
		if utf8.Valid(s.Value) {
			r.Text = string(s.Value)
		} else {
			r.Data = base64.StdEncoding.EncodeToString(s.Value)
		}
		list = append(list, r)
	}
	return list
}

// state is what the client makes of it.
func (r *register) state() (event.State, error) {
	value, err := payloadOf(r.Text, r.Data)
	return event.State{Conversation: r.Conversation, Name: r.Name, Number: r.Number, Value: value, Seq: r.Seq}, err
}

// readRequest says how far a conversation was read.
type readRequest struct {
	envelope
	Conversation event.ConversationID `json:"conversation,omitempty"`
	Seq          uint64               `json:"seq,omitempty,string"`
	Message      event.MessageID      `json:"message,omitempty"`
	Private      bool                 `json:"private,omitempty"`
}

type readAnswer struct {
	Seq      uint64         `json:"seq,string"`
	Advanced bool           `json:"advanced,omitempty"`
	Pending  bool           `json:"pending,omitempty"`
	Position event.Position `json:"position"` // of the entry about it; seq 0: none
	States   []register     `json:"states,omitempty"`
}

func (g *guest) read(ctx context.Context, q *readRequest) (any, error) {
	if g.att == nil {
		return nil, errNotAttached
	}
	if q.Conversation != "" || q.Message == "" {
		if err := g.s.belongs(g.account, q.Conversation); err != nil {
			return nil, err
		}
	}
	res, err := g.s.engine.Router.MarkRead(ctx, fanout.MarkReadRequest{
		Account: g.account, Origin: g.login, Conversation: q.Conversation, Seq: q.Seq, Message: q.Message, Private: q.Private,
	})
	return readAnswer{
		Seq: res.Seq, Advanced: res.Advanced, Pending: res.Pending, Position: res.Position, States: registers(res.States),
	}, err
}

// conversationRequest is about one conversation, or about all if it names none.
type conversationRequest struct {
	envelope
	Conversation event.ConversationID `json:"conversation,omitempty"`
}

// may returns an error unless the account may ask about the conversation.
func (q *conversationRequest) may(g *guest) error {
	if q.Conversation == "" {
		return nil
	}
	return g.s.belongs(g.account, q.Conversation)
}

type unreadAnswer struct {
	Total         uint64     `json:"total,string"`
	Conversations []unreadIn `json:"conversations,omitempty"`
}

type unreadIn struct {
	Conversation event.ConversationID `json:"conversation"`
	Count        uint64               `json:"count,string"`
	Marked       bool                 `json:"marked,omitempty"`
}

func (g *guest) unread(ctx context.Context, q *conversationRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	if err := q.may(g); err != nil {
		return nil, err
	}
	u, err := g.s.engine.Router.Unread(ctx, g.account, q.Conversation)
	a := unreadAnswer{Total: u.Total}
	for _, c := range u.Conversations {
		a.Conversations = append(a.Conversations, unreadIn(c))
	}
	return a, err
}

type clearUnreadAnswer struct {
	Conversations int            `json:"conversations"`
	Position      event.Position `json:"position"` // of the last entry about it; seq 0: none
	States        []register     `json:"states,omitempty"`
}

func (g *guest) clearUnread(ctx context.Context, q *conversationRequest) (any, error) {
	if g.att == nil {
		return nil, errNotAttached
	}
	if err := q.may(g); err != nil {
		return nil, err
	}
	res, err := g.s.engine.Router.ClearUnread(ctx, fanout.ClearUnreadRequest{
		Account: g.account, Origin: g.login, Conversation: q.Conversation,
	})
	return clearUnreadAnswer{Conversations: res.Conversations, Position: res.Position, States: registers(res.States)}, err
}
