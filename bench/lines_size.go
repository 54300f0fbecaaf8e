package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

const (
	bytesPerMember = 48 // of a message to a large group: an inbox number, its head, what the entry needs, and a share of a page
	wraps          = 10
)

func sizeLines(sc lab.Scale) []lab.Line {
	return []lab.Line{
		{
			Name: fmt.Sprintf("size/messages=%d", sc.FileSize), Unit: "bytes/message", Against: sequential, Goal: lab.AtMost(2),
			Notes: "Size of the closed file over the messages that were sent: 512 B, two inboxes, client message ID. Against the file " +
				"with as many records of 640 B. Files grow in steps of 16 MiB.",
			Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) { return s.Fresh(ourSize), s.Fresh(rawSize), nil },
		},
		{
			Name: fmt.Sprintf("size/wraps=%d", wraps), Unit: "bytes", Against: "ours, after the first time", Goal: lab.AtMost(1.5),
			Notes: "Size of the file after retention has taken out everything ten times, against the first time: room is used again. " +
				"Without client message IDs, which are kept for a day whatever retention does. Files grow in steps of 16 MiB, which is " +
				"much of a small one.",
			Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
				var first lab.Sample
				our := s.Fresh(func(s *lab.Scene) (last lab.Sample, err error) {
					first, last, err = wrapped(s)
					return last, err
				})
				return our, func() (lab.Sample, error) { return first, nil }, nil
			},
		},
		{
			Name: fmt.Sprintf("group/members=%d", sc.Members), Unit: "bytes/member", Against: "formula", Goal: lab.AtMost(1),
			Notes: "Bytes that the process writes for one message to a large group until it is answered, less the payload, over the " +
				"members: whole pages, as bbolt writes them. The formula is 48 bytes per member. Linux only.",
			Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
				return s.Fresh(groupMessage), lab.Constant(bytesPerMember), nil
			},
		},
	}
}

func ourSize(s *lab.Scene) (lab.Sample, error) {
	path, err := s.File()
	if err != nil {
		return lab.Sample{}, err
	}
	n := s.Scale.FileSize
	inner := s.Inner()
	err = errors.Join(sendMany(inner, path, n), inner.Close())
	if err != nil {
		return lab.Sample{}, err
	}
	size, err := fileSize(path)
	return lab.Sample{Value: float64(size) / float64(n)}, err
}

func sendMany(s *lab.Scene, path string, n int) error {
	cfg, err := ours.Config()
	if err != nil {
		return err
	}
	e, err := ours.OpenFile(s, path, cfg)
	if err != nil {
		return err
	}
	t := ours.NewTraffic(s.Scale.Accounts[0], ours.Payload(ours.PayloadBytes))
	return repeat(s.Scale.Crowd, n, func(int) error { return t.Send(s.Context(), e) })
}

// repeat does an operation n times with so many at once.
func repeat(atOnce, n int, op func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return op(i) })
	}
	return group.Wait()
}

// fileSize is how large a store's file is, with what belongs to it.
func fileSize(path string) (size int64, err error) {
	all, err := storeFiles(path)
	for _, name := range all {
		info, statErr := os.Stat(name)
		if statErr != nil {
			return 0, statErr
		}
		size += info.Size()
	}
	return size, err
}

func rawSize(s *lab.Scene) (lab.Sample, error) {
	q, err := raw.NewSequence(s)
	if err != nil {
		return lab.Sample{}, err
	}
	n := s.Scale.FileSize
	record := make([]byte, raw.RecordBytes)
	if err := repeat(s.Scale.Crowd, n, func(int) error { return q.Put(record) }); err != nil {
		return lab.Sample{}, err
	}
	size, err := q.Size()
	return lab.Sample{Value: float64(size) / float64(n)}, err
}

// wrapped fills inboxes, has retention empty them, and does it again. It returns the size of the file after the first and
// the last time.
func wrapped(s *lab.Scene) (first, last lab.Sample, err error) {
	path, err := s.File()
	if err != nil {
		return first, last, err
	}
	cfg, err := ours.Config()
	if err != nil {
		return first, last, err
	}
	cfg.Fanout.MaxEntries = 1
	e, err := ours.OpenFile(s, path, cfg)
	if err != nil {
		return first, last, err
	}
	accounts := max(s.Scale.Accounts[0]/100, 2)
	t := ours.NewTraffic(accounts, ours.Payload(ours.PayloadBytes))
	t.Unnamed = true
	ctx := s.Context()
	for i := range wraps {
		if err := repeat(s.Scale.Crowd, s.Scale.FileSize/5, func(int) error { return t.Send(ctx, e) }); err != nil {
			return first, last, err
		}
		if err := repeat(64, accounts, func(i int) error { return e.Router.Trim(ctx, ours.Account(i)) }); err != nil {
			return first, last, err
		}
		size, err := fileSize(path)
		if err != nil {
			return first, last, err
		}
		last = lab.Sample{Value: float64(size)}
		if i == 0 {
			first = last
		}
	}
	return first, last, nil
}

func groupMessage(s *lab.Scene) (lab.Sample, error) {
	cfg, err := ours.Config()
	if err != nil {
		return lab.Sample{}, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return lab.Sample{}, err
	}
	members := make([]event.Account, s.Scale.Members)
	for i := range members {
		members[i] = ours.Account(i)
	}
	payload := ours.Payload(ours.PayloadBytes)
	send := func(ctx context.Context) error {
		_, err := e.Router.Send(ctx, fanout.SendRequest{From: "host", To: members, Conversation: "g", NoSenderCopy: true, Payload: payload})
		return err
	}
	if err := send(s.Context()); err != nil { // makes the inboxes
		return lab.Sample{}, err
	}
	before, err := written()
	if err != nil {
		return lab.Sample{}, err
	}
	if err := send(s.Context()); err != nil {
		return lab.Sample{}, err
	}
	after, err := written()
	if err == nil {
		err = allThere(e.Store, len(members), 2*len(members))
	}
	return lab.Sample{Value: float64(after-before-len(payload)) / float64(len(members))}, err
}

// written is how many bytes this process has given to the system to write.
func written() (int, error) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, fmt.Errorf("bytes written are known on Linux only: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "wchar: "); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.New("/proc/self/io has no wchar")
}
