package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

const (
	markedEntries       = 9_000
	markedConversations = 300
)

// markLines are for what is kept so that a message can be read: counts, unread entries, marks, receipts.
func markLines(sc lab.Scale) []lab.Line {
	return []lab.Line{
		{
			Name: fmt.Sprintf("mark/first/entries=%d/conversations=%d", markedEntries, markedConversations), Unit: "µs p50",
			Against: "one durable send", Goal: lab.AtMost(2), Latency: "Latency of a first read mark",
			Notes: fmt.Sprintf("The first read mark of a conversation, at its last message, in an inbox of %d unread entries in %d "+
				"conversations; durable. Against a message of 512 B in the same file. The two sides take turns operation by operation; each "+
				"run has a new inbox.", markedEntries, markedConversations),
			Prepare: firstMarks,
		},
		{
			Name: fmt.Sprintf("durable/read-state/senders=%d", sc.Crowd), Unit: "messages/s", Against: "ours, without read state",
			Goal: lab.AtLeast(0.93),
			Notes: "Messages with a conversation, of which the recipient's unread ones are counted and kept, and the sender is told who " +
				"has read them; against messages without a conversation and receipts.",
			Prepare: readState(sc.Peer, sc.Crowd),
		},
	}
}

func firstMarks(s *lab.Scene) (lab.Run, lab.Run, error) {
	e, t, err := filledFile(s, s.Scale.Accounts[0])
	if err != nil {
		return nil, nil, err
	}
	var (
		ctx   = s.Context()
		inbox int
		name  event.Account
	)
	marks, sends := lab.Pairs(min(s.Scale.Ops, markedConversations), time.Microsecond, func(i int) error {
		_, err := e.Router.MarkRead(ctx, fanout.MarkReadRequest{
			Account: name, Conversation: markedConversation(i), Seq: uint64(markedEntries - markedConversations + i + 1),
		})
		return err
	}, func(int) error { return t.Send(ctx, e) })
	return func() (lab.Sample, error) {
		inbox++
		name = event.Account("marks" + strconv.Itoa(inbox))
		if err := fillConversations(ctx, e.Store, name); err != nil {
			return lab.Sample{}, err
		}
		sample, err := marks()
		if err != nil {
			return sample, err
		}
		u, err := e.Router.Unread(ctx, name, markedConversation(0))
		if err == nil && u.Total != 0 {
			err = fmt.Errorf("%d unread in a conversation that was read", u.Total)
		}
		return sample, err
	}, sends, nil
}

func markedConversation(i int) event.ConversationID {
	return event.ConversationID("m" + strconv.Itoa(i%markedConversations))
}

// fillConversations puts messages into an inbox, of each conversation in turns.
func fillConversations(ctx context.Context, st store.Store, name event.Account) error {
	const batch = 500
	issuer := event.NewIssuer(st.Info().IDKey)
	for first := 0; first < markedEntries; first += batch {
		b := store.Batch{Account: "filler", Now: time.Now()}
		for i := first; i < first+batch; i++ {
			b.Messages = append(b.Messages, store.Message{
				ID: issuer.Issue(), Kind: event.KindMessage, Flags: event.FlagUnread, From: "filler", Conversation: markedConversation(i),
				Payload: ours.Payload(64), To: []store.Inbox{{Account: name}},
			})
		}
		if _, err := st.Commit(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// readState compares messages that are kept track of with messages that are not, each in a file of its own.
func readState(accounts, senders int) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		run := func(with bool) (lab.Run, error) {
			e, t, err := filledFile(s, accounts)
			if err != nil {
				return nil, err
			}
			t.Read, t.Plain = with, !with
			return trafficRun(s, e, t, senders), nil
		}
		with, err := run(true)
		if err != nil {
			return nil, nil, err
		}
		without, err := run(false)
		return with, without, err
	}
}
