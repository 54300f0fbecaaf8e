package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/manydevice/manydevice/bench/internal/jetstream"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/mochi"
	"github.com/manydevice/manydevice/bench/internal/ours"
)

const devicesOfPeers = 4

// durablePeer is a way to have a message stored for an account.
type durablePeer struct {
	send  func(ctx context.Context, sender int, n uint64) error
	check func(sent int) error // after a run: all that was sent is there, or was delivered
}

type makePeer func(s *lab.Scene, accounts int) (*durablePeer, error)

func peerLines(sc lab.Scale) []lab.Line {
	accounts := sc.Accounts[0]
	line := func(name, against string, goal float64, accounts, senders int, our, other makePeer, notes string) lab.Line {
		return lab.Line{
			Name: name, Unit: "messages/s", Against: against, Goal: lab.AtLeast(goal), Notes: notes,
			Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
				return s.Fresh(peerRun(our, accounts, senders)), s.Fresh(peerRun(other, accounts, senders)), nil
			},
		}
	}
	all := []lab.Line{
		line("peer/jetstream-sync-always", "JetStream, sync_always", 20, accounts, sc.Crowd, named, jetStream(true),
			fmt.Sprintf("%d senders, 512 B into the inbox of one of %d accounts, no sender's copy, with a client message ID (there Nats-Msg-Id); "+
				"answered when it is on disk. An inbox is a subject of one stream. Ours remembers the ID for 24 h, JetStream for "+
				"2 minutes.", sc.Crowd, accounts)),
		line("peer/jetstream-default", "JetStream, default", 0.9, accounts, sc.Crowd, named, jetStream(false),
			"The same, but JetStream answers before it has synced, which it does every 2 minutes: what it answered may be lost with "+
				"the power. Ours syncs."),
		line("peer/mochi-offline", "mochi-mqtt with bbolt", 10, sc.Sessions, sc.PeerSenders, unnamed, mochiPeer(false),
			fmt.Sprintf("%d senders, 512 B to one of %d accounts with four devices that are away, no client message ID. mochi-mqtt has four "+
				"persistent sessions with QoS 1 and writes a copy for each; ours writes one and has four cursors. Answered when all is "+
				"on disk.", sc.PeerSenders, sc.Sessions)),
		line("peer/mochi-online", "mochi-mqtt with bbolt", 10, sc.Sessions, sc.PeerSenders, unnamedAttached, mochiPeer(true),
			"The same with the devices connected: each takes and acknowledges every message, and a run ends when all have arrived. "+
				"MQTT clients are on pipes within the process; ours are calls."),
	}
	all[0].Headline = "messages/s on disk, recipient away"
	all[3].Headline = "messages/s on disk and to 4 devices, acknowledged"
	return all
}

func peerRun(build makePeer, accounts, senders int) func(*lab.Scene) (lab.Sample, error) {
	return func(s *lab.Scene) (lab.Sample, error) {
		p, err := build(s, accounts)
		if err != nil {
			return lab.Sample{}, err
		}
		ctx := s.Context()
		var n atomic.Uint64
		sample, err := lab.Load{
			Workers: senders, Warm: s.Scale.Warm, Time: s.Scale.Time,
			Op: func(w, _ int) (int, error) { return 1, p.send(ctx, w, n.Add(1)) },
		}.Run(ctx)
		if err != nil {
			return sample, err
		}
		return sample, p.check(int(n.Load()))
	}
}

func named(s *lab.Scene, accounts int) (*durablePeer, error) {
	return ourPeer(s, accounts, true, false)
}

func unnamed(s *lab.Scene, accounts int) (*durablePeer, error) {
	return ourPeer(s, accounts, false, false)
}

func unnamedAttached(s *lab.Scene, accounts int) (*durablePeer, error) {
	return ourPeer(s, accounts, false, true)
}

func ourPeer(s *lab.Scene, accounts int, ids, attached bool) (*durablePeer, error) {
	cfg, err := ours.Config()
	if err != nil {
		return nil, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return nil, err
	}
	t := ours.NewTraffic(accounts, ours.Payload(ours.PayloadBytes))
	t.Alone, t.Unnamed = true, !ids
	arrived := lab.NewPending()
	if attached {
		for i := range accounts {
			each := func(_ int, d *ours.Device) { d.Pending = arrived }
			if _, err := e.Devices(s.Context(), ours.Account(i), devicesOfPeers, each); err != nil {
				return nil, err
			}
		}
	}
	before, err := entries(e.Store, accounts)
	if err != nil {
		return nil, err
	}
	return &durablePeer{
		send: func(ctx context.Context, _ int, _ uint64) error {
			if attached {
				arrived.Begin(devicesOfPeers)
			}
			return t.Send(ctx, e)
		},
		check: func(sent int) error {
			if err := arrived.Wait(s.Context()); err != nil {
				return err
			}
			return allThere(e.Store, accounts, before+sent)
		},
	}, nil
}

func jetStream(syncAlways bool) makePeer {
	return func(s *lab.Scene, accounts int) (*durablePeer, error) {
		stream, err := jetstream.NewStream(s, syncAlways)
		if err != nil {
			return nil, err
		}
		payload := ours.Payload(ours.PayloadBytes)
		return &durablePeer{
			send: func(ctx context.Context, sender int, n uint64) error {
				return stream.Send(ctx, sender, ours.Scatter(n, accounts), "m"+strconv.FormatUint(n, 36), payload)
			},
			check: func(sent int) error {
				got, err := stream.Count(s.Context())
				if err == nil && got != sent {
					err = fmt.Errorf("stream has %d messages, want %d", got, sent)
				}
				return err
			},
		}, nil
	}
}

func mochiPeer(online bool) makePeer {
	return func(s *lab.Scene, accounts int) (*durablePeer, error) {
		b, err := mochi.NewBroker(s)
		if err != nil {
			return nil, err
		}
		arrived := lab.NewPending()
		for i := range accounts {
			for j := range devicesOfPeers {
				d, err := b.Connect(i, j, arrived)
				if err != nil {
					return nil, err
				}
				if online {
					s.Cleanup(d.Close)
				} else if err := d.Close(); err != nil {
					return nil, err
				}
			}
		}
		payload := ours.Payload(ours.PayloadBytes)
		return &durablePeer{
			send: func(_ context.Context, _ int, n uint64) error {
				if online {
					arrived.Begin(devicesOfPeers)
				}
				return b.Send(ours.Scatter(n, accounts), payload)
			},
			check: func(sent int) error {
				if err := arrived.Wait(s.Context()); err != nil {
					return err
				}
				if n := b.Dropped(); n > 0 {
					return fmt.Errorf("broker dropped %d messages", n)
				}
				if got := b.Stored(); !online && got != int64(sent*devicesOfPeers) {
					return fmt.Errorf("broker keeps %d messages, want %d", got, sent*devicesOfPeers)
				}
				return nil
			},
		}, nil
	}
}
