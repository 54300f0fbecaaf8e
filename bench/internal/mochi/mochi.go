// Package mochi drives a mochi-mqtt broker with its bbolt hook: an account is a topic, its devices are persistent sessions
// that are subscribed to it with QoS 1.
package mochi

import (
	"log/slog"
	"strconv"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

const atLeastOnce = 1

// Broker is a broker with an empty file.
type Broker struct{ server *mqtt.Server }

// NewBroker starts a broker. It is stopped with the scene.
func NewBroker(s *lab.Scene) (*Broker, error) {
	path, err := s.File()
	if err != nil {
		return nil, err
	}
	server := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return nil, err
	}
	if err := server.AddHook(new(bolt.Hook), &bolt.Options{Path: path}); err != nil {
		return nil, err
	}
	if err := server.Serve(); err != nil {
		return nil, err
	}
	s.Cleanup(server.Close)
	return &Broker{server: server}, nil
}

func topic(account int) string { return "inbox/" + strconv.Itoa(account) }

// Send publishes to an account. When it returns, the broker has written the message for every session of the account.
func (b *Broker) Send(account int, payload []byte) error {
	return b.server.Publish(topic(account), payload, false, atLeastOnce)
}

// Dropped is how many messages the broker has given up.
func (b *Broker) Dropped() int64 {
	info := b.server.Info.Clone()
	return info.InflightDropped + info.MessagesDropped
}

// Stored is how many messages wait for a session.
func (b *Broker) Stored() int64 { return b.server.Info.Clone().Inflight }
