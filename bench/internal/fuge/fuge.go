// Package fuge drives Centrifuge: an account is a user channel, its devices are clients of one user on a transport that
// counts.
package fuge

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/centrifugal/protocol"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// Node is one Centrifuge node. Clients that connect are subscribed to the channel of their user by the server.
type Node struct {
	node    *centrifuge.Node
	history int
}

// keep is how long history is kept.
const keep = time.Hour

// NewNode returns a node that keeps so many publications of each channel, from which clients can recover; 0: none. It is
// closed with the scene.
func NewNode(s *lab.Scene, history int) (*Node, error) {
	goroutines := runtime.NumGoroutine()
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
	if err != nil {
		return nil, err
	}
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		who, ok := centrifuge.GetCredentials(ctx)
		if !ok {
			return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
		}
		return centrifuge.ConnectReply{Subscriptions: map[string]centrifuge.SubscribeOptions{
			channel(who.UserID): {EnableRecovery: history > 0, EnablePositioning: history > 0},
		}}, nil
	})
	if err := node.Run(); err != nil {
		return nil, err
	}
	s.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		err := node.Shutdown(ctx)
		for runtime.NumGoroutine() > goroutines && ctx.Err() == nil { // workers end, and free their memory, a while later
			time.Sleep(time.Millisecond)
		}
		return err
	})
	return &Node{node: node, history: history}, nil
}

func channel(user string) string { return "inbox#" + user }

// User returns a context under which clients of a user connect.
func User(ctx context.Context, user string) context.Context {
	return centrifuge.SetCredentials(ctx, &centrifuge.Credentials{UserID: user})
}

// Publish hands a message, which must be JSON, to all clients of a user.
func (n *Node) Publish(user string, data []byte) error {
	var opts []centrifuge.PublishOption
	if n.history > 0 {
		opts = append(opts, centrifuge.WithHistory(n.history, keep))
	}
	_, err := n.node.Publish(channel(user), data, opts...)
	return err
}

// Client is a connected client.
type Client struct {
	client *centrifuge.Client
	close  centrifuge.ClientCloseFunc
}

// Connect connects a client on the transport. The context must come from User.
func (n *Node) Connect(ctx context.Context, t *Transport) (*Client, error) {
	c, end, err := centrifuge.NewClient(ctx, n.node, t)
	if err != nil {
		return nil, err
	}
	if !c.HandleCommand(&protocol.Command{Id: 1, Connect: &protocol.ConnectRequest{}}, 0) {
		return nil, errors.New("connect was refused")
	}
	if n := len(c.Channels()); n != 1 {
		return nil, errors.New("client is not subscribed")
	}
	return &Client{client: c, close: end}, nil
}

// Close disconnects the client.
func (c *Client) Close() error { return c.close() }

// Transport counts publications and throws them away. Its zero value is ready.
type Transport struct {
	Pending *lab.Pending // told of each publication; nil: nobody
	bytes   atomic.Int64
}

var _ centrifuge.Transport = (*Transport)(nil)

var publication = []byte(`"pub":`)

// Write implements centrifuge.Transport.
func (t *Transport) Write(reply []byte) error {
	t.take(reply)
	return nil
}

// WriteMany implements centrifuge.Transport.
func (t *Transport) WriteMany(replies ...[]byte) error {
	for _, r := range replies {
		t.take(r)
	}
	return nil
}

func (t *Transport) take(reply []byte) {
	t.bytes.Add(int64(len(reply)))
	head := reply[:min(len(reply), 64)]
	if t.Pending != nil && bytes.Contains(head, publication) {
		t.Pending.Arrive(1)
	}
}

// Close implements centrifuge.Transport.
func (t *Transport) Close(centrifuge.Disconnect) error { return nil }

// Name implements centrifuge.TransportInfo.
func (t *Transport) Name() string { return "count" }

// AcceptProtocol implements centrifuge.TransportInfo.
func (t *Transport) AcceptProtocol() string { return "" }

// Protocol implements centrifuge.TransportInfo.
func (t *Transport) Protocol() centrifuge.ProtocolType { return centrifuge.ProtocolTypeJSON }

// ProtocolVersion implements centrifuge.TransportInfo.
func (t *Transport) ProtocolVersion() centrifuge.ProtocolVersion { return centrifuge.ProtocolVersion2 }

// Unidirectional implements centrifuge.TransportInfo.
func (t *Transport) Unidirectional() bool { return false }

// Emulation implements centrifuge.TransportInfo.
func (t *Transport) Emulation() bool { return false }

// DisabledPushFlags implements centrifuge.TransportInfo.
func (t *Transport) DisabledPushFlags() uint64 { return 0 }

// PingPongConfig implements centrifuge.TransportInfo. There are no pings, as on our side, where hosts have their own.
func (t *Transport) PingPongConfig() centrifuge.PingPongConfig {
	return centrifuge.PingPongConfig{PingInterval: -1, PongTimeout: -1}
}
