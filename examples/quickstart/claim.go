package main

import (
	"context"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// claimRequest asks to be the device that handles something, such as a call that rings on all of them.
type claimRequest struct {
	envelope
	Key  string `json:"key"`
	Text string `json:"text,omitempty"`
	Data string `json:"data,omitempty"`
}

type claimAnswer struct {
	Won      bool           `json:"won,omitempty"`
	Winner   event.Claim    `json:"winner"`
	Position event.Position `json:"position"`
}

func (g *guest) claim(ctx context.Context, q *claimRequest) (any, error) {
	if g.att == nil {
		return nil, errNotAttached
	}
	data, err := payloadOf(q.Text, q.Data)
	if err != nil {
		return nil, err
	}
	res, err := g.s.engine.Router.Claim(ctx, fanout.ClaimRequest{Account: g.account, Origin: g.login, Key: q.Key, Data: data})
	return claimAnswer{Won: res.Won, Winner: res.Winner, Position: res.Position}, err
}
