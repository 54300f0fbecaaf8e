package main

import (
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manydevice/manydevice/bench/internal/jetstream"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

func readLines(sc lab.Scale) []lab.Line {
	return []lab.Line{
		{
			Name: fmt.Sprintf("catch-up/entries=%d", sc.CatchUp), Unit: "entries/s", Against: "scan and copy on bbolt", Goal: lab.AtLeast(0.4),
			Headline: "entries/s, catching up from disk, encoded",
			Notes: "A device comes back to an inbox of entries of 512 B in a file: they are read, copied, filtered, put into frames in " +
				"the reference encoding and acknowledged window by window (64). The reference walks a cursor over as many records of " +
				"640 B and copies each; it encodes nothing.",
			Prepare: catchUp,
		},
		{
			Name: "read/devices=4", Unit: "deliveries/s", Against: "JetStream, four durable consumers", Goal: lab.AtLeast(3),
			Notes: fmt.Sprintf("Four devices of an account read %d messages of 512 B from a file and acknowledge them; over when their "+
				"places are on disk. JetStream: four durable pull consumers, explicit acks, the last of them confirmed; its "+
				"messages pass through client connections within the process.", sc.Readers),
			Prepare: readers,
		},
		{
			Name: "unread/entries=5000", Unit: "µs p50", Against: "ours, 10 unread entries", Goal: lab.AtMost(1.5),
			Notes:   "Unread count of one conversation with 5,000 unread messages, against one with 10: it is derived, not counted.",
			Prepare: unread,
		},
		{
			Name: fmt.Sprintf("state/conversations=%d", sc.States), Unit: "µs p50", Against: "scan and copy on bbolt", Goal: lab.AtMost(4),
			Notes: "A device without any state attaches and is caught up: it gets the read markers of all conversations, from a file, " +
				"and no messages. The reference walks a cursor over as many records of 64 B and copies them.",
			Prepare: stateAtAttach,
		},
	}
}

// oneInbox opens a file in which an account has messages and one login.
func oneInbox(s *lab.Scene, n int) (*ours.Engine, *session.LoginResult, error) {
	cfg, err := ours.Config()
	if err != nil {
		return nil, nil, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return nil, nil, err
	}
	login, err := e.Login(s.Context(), "ann", 0)
	if err != nil {
		return nil, nil, err
	}
	return e, login, ours.FillOne(s.Context(), e.Store, "ann", n, ours.Payload(ours.PayloadBytes))
}

func catchUp(s *lab.Scene) (lab.Run, lab.Run, error) {
	n := s.Scale.CatchUp
	e, login, err := oneInbox(s, n)
	if err != nil {
		return nil, nil, err
	}
	q, err := raw.NewSequence(s)
	if err != nil {
		return nil, nil, err
	}
	if err := q.PutAll(n, raw.RecordBytes); err != nil {
		return nil, nil, err
	}
	ctx := s.Context()
	our := func() (lab.Sample, error) {
		from := time.Now()
		d := ours.NewDevice()
		d.Frames = true
		att, err := e.Attach(ctx, login, d, &event.Position{Epoch: login.Position.Epoch})
		if err != nil {
			return lab.Sample{}, err
		}
		defer att.Detach()
		if err := d.CaughtUp(ctx); err != nil {
			return lab.Sample{}, err
		}
		took := time.Since(from)
		if got := d.Messages(); got != int64(n) {
			return lab.Sample{}, fmt.Errorf("%d messages, want %d", got, n)
		}
		return lab.Sample{Value: float64(n) / took.Seconds()}, nil
	}
	return our, func() (lab.Sample, error) {
		from := time.Now()
		got, _, err := q.Scan()
		if err == nil && got != n {
			err = fmt.Errorf("%d records, want %d", got, n)
		}
		return lab.Sample{Value: float64(n) / time.Since(from).Seconds()}, err
	}, nil
}

func readers(s *lab.Scene) (lab.Run, lab.Run, error) {
	return s.Fresh(ourReaders), s.Fresh(jetStreamReaders), nil
}

const readerCount = 4

// together has all readers read at once and returns deliveries per second.
func together(n int, read func(i int) error, durable func() error) (lab.Sample, error) {
	var group errgroup.Group
	from := time.Now()
	for i := range readerCount {
		group.Go(func() error { return read(i) })
	}
	if err := group.Wait(); err != nil {
		return lab.Sample{}, err
	}
	if err := durable(); err != nil {
		return lab.Sample{}, err
	}
	return lab.Sample{Value: float64(readerCount*n) / time.Since(from).Seconds()}, nil
}

func ourReaders(s *lab.Scene) (lab.Sample, error) {
	n, ctx := s.Scale.Readers, s.Context()
	e, first, err := oneInbox(s, n)
	if err != nil {
		return lab.Sample{}, err
	}
	logins := []*session.LoginResult{first}
	for i := 1; i < readerCount; i++ {
		l, err := e.Login(ctx, "ann", i)
		if err != nil {
			return lab.Sample{}, err
		}
		logins = append(logins, l)
	}
	return together(n, func(i int) error {
		d := ours.NewDevice()
		if _, err := e.Attach(ctx, logins[i], d, &event.Position{Epoch: first.Position.Epoch}); err != nil {
			return err
		}
		if err := d.CaughtUp(ctx); err != nil {
			return err
		}
		if got := d.Messages(); got != int64(n) {
			return fmt.Errorf("device %d has %d messages, want %d", i, got, n)
		}
		return nil
	}, func() error { return e.Router.Flush(ctx) })
}

func jetStreamReaders(s *lab.Scene) (lab.Sample, error) {
	n, ctx := s.Scale.Readers, s.Context()
	stream, err := jetstream.NewStream(s, false) // synced or not makes no difference to what is read
	if err != nil {
		return lab.Sample{}, err
	}
	var group errgroup.Group
	group.SetLimit(256)
	for i := range n {
		group.Go(func() error { return stream.Send(ctx, i, 0, "", ours.Payload(ours.PayloadBytes)) })
	}
	if err := group.Wait(); err != nil {
		return lab.Sample{}, err
	}
	return together(n, func(i int) error { return stream.Read(ctx, 0, "r"+strconv.Itoa(i), n) }, func() error { return nil })
}

func unread(s *lab.Scene) (lab.Run, lab.Run, error) {
	const many, few = 5_000, 10
	e, _, err := oneInbox(s, many)
	if err != nil {
		return nil, nil, err
	}
	ctx := s.Context()
	if err := ours.FillOne(ctx, e.Store, "ben", few, ours.Payload(ours.PayloadBytes)); err != nil {
		return nil, nil, err
	}
	run := func(account event.Account, want uint64) lab.Run {
		return func() (lab.Sample, error) {
			return lab.Timed(s.Scale.Ops*10, time.Microsecond, func(int) error {
				u, err := e.Router.Unread(ctx, account, "c")
				if err == nil && u.Total != want {
					err = fmt.Errorf("%s has %d unread, want %d", account, u.Total, want)
				}
				return err
			})
		}
	}
	return run("ann", many), run("ben", few), nil
}

func stateAtAttach(s *lab.Scene) (lab.Run, lab.Run, error) {
	n, ctx := s.Scale.States, s.Context()
	cfg, err := ours.Config()
	if err != nil {
		return nil, nil, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return nil, nil, err
	}
	login, err := e.Login(ctx, "ann", 0)
	if err != nil {
		return nil, nil, err
	}
	if err := readAll(s, e, n); err != nil {
		return nil, nil, err
	}
	q, err := raw.NewSequence(s)
	if err != nil {
		return nil, nil, err
	}
	if err := q.PutAll(n, 64); err != nil {
		return nil, nil, err
	}
	return func() (lab.Sample, error) {
			return lab.Timed(s.Scale.Ops/10, time.Microsecond, func(int) error {
				d := ours.NewDevice()
				att, err := e.Attach(ctx, login, d, nil)
				if err != nil {
					return err
				}
				defer att.Detach()
				if err := d.CaughtUp(ctx); err != nil {
					return err
				}
				if got := d.States(); got < n {
					return fmt.Errorf("%d registers, want %d", got, n)
				}
				return nil
			})
		}, func() (lab.Sample, error) {
			return lab.Timed(s.Scale.Ops/10, time.Microsecond, func(int) error {
				got, _, err := q.Scan()
				if err == nil && got != n {
					err = fmt.Errorf("%d records, want %d", got, n)
				}
				return err
			})
		}, nil
}

// readAll sends ann a message in each of n conversations and marks them as read.
func readAll(s *lab.Scene, e *ours.Engine, n int) error {
	ctx := s.Context()
	var group errgroup.Group
	group.SetLimit(64)
	for i := range n {
		group.Go(func() error {
			c := event.ConversationID("c" + strconv.Itoa(i))
			_, err := e.Router.Send(ctx, fanout.SendRequest{
				From: "ben", To: []event.Account{"ann"}, Conversation: c, Payload: []byte("x"), NoSenderCopy: true,
			})
			if err != nil {
				return err
			}
			page, err := e.Store.Read(ctx, "ann", store.ReadOptions{})
			if err != nil {
				return err
			}
			_, err = e.Router.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Conversation: c, Seq: page.Head.Seq})
			return err
		})
	}
	return group.Wait()
}
