// Package jetstream drives an embedded NATS server with JetStream: an account is an inbox subject of one file-backed stream.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

const (
	streamName = "inbox"
	startWait  = 10 * time.Second
	maxPending = 1 << 14 // more than any line has senders: they wait for their own acks
)

// Stream is a stream on a server of its own, over connections within the process.
type Stream struct {
	js     []jetstream.JetStream // several, so that no connection is what is measured
	stream jetstream.Stream
}

// NewStream starts a server with an empty stream. syncAlways: an acknowledged message is on disk, as on our side. It is
// stopped with the scene.
func NewStream(s *lab.Scene, syncAlways bool) (*Stream, error) {
	dir, err := s.Dir()
	if err != nil {
		return nil, err
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "bench", JetStream: true, StoreDir: dir, SyncAlways: syncAlways, DontListen: true, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return nil, err
	}
	srv.Start()
	s.Cleanup(func() error {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil
	})
	if !srv.ReadyForConnections(startWait) {
		return nil, errors.New("server did not start")
	}
	st := &Stream{}
	for range 2 {
		nc, err := nats.Connect("", nats.InProcessServer(srv))
		if err != nil {
			return nil, err
		}
		s.Cleanup(func() error {
			nc.Close()
			return nil
		})
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPending))
		if err != nil {
			return nil, err
		}
		st.js = append(st.js, js)
	}
	st.stream, err = st.js[0].CreateStream(s.Context(), jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"inbox.*"}, Storage: jetstream.FileStorage,
	})
	return st, err
}

func subject(account int) string { return "inbox." + strconv.Itoa(account) }

// Send returns when the server has acknowledged a message. A client message ID, unless empty, protects against repetition.
func (s *Stream) Send(ctx context.Context, sender, account int, clientID string, payload []byte) error {
	var opts []jetstream.PublishOpt
	if clientID != "" {
		opts = append(opts, jetstream.WithMsgID(clientID))
	}
	ack, err := s.js[sender%len(s.js)].PublishAsync(subject(account), payload, opts...)
	if err != nil {
		return err
	}
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Count is how many messages the stream holds.
func (s *Stream) Count(ctx context.Context) (int, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}

// Read has a new durable consumer read and acknowledge n messages of an account.
func (s *Stream) Read(ctx context.Context, account int, name string, n int) error {
	consumer, err := s.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: subject(account), AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1024,
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1024))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for i := range n {
		m, err := messages.Next()
		if err != nil {
			return fmt.Errorf("after %d messages: %w", i, err)
		}
		if i == n-1 {
			err = m.DoubleAck(ctx) // the server has it, and with it all acks before
		} else {
			err = m.Ack()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
