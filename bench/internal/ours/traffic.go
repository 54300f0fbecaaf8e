package ours

import (
	"context"
	"crypto/rand"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

// PayloadBytes is the size of a message in all lines that do not say otherwise.
const PayloadBytes = 512

// Payload returns a payload of n bytes that is a JSON string, so that peers with a JSON protocol carry it as it is.
func Payload(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = 'x'
	}
	if n >= 2 {
		p[0], p[n-1] = '"', '"'
	}
	return p
}

// Traffic is messages between accounts that are drawn at random; each account always writes to the same other one. It is
// made by NewTraffic.
type Traffic struct {
	Alone   bool // no copy for the sender, and no conversation: an entry in the recipient's inbox alone
	Unnamed bool // no client message ID, hence no protection against repetition
	Plain   bool // no conversation, so that nothing is kept for who reads it when
	Read    bool // the sender is to be told of delivery and reading; Plain is not set

	accounts int
	payload  []byte
	name     string // begins all client message IDs: another traffic may have used the same file
	next     atomic.Uint64
}

// NewTraffic returns traffic between so many accounts.
func NewTraffic(accounts int, payload []byte) *Traffic {
	return &Traffic{accounts: accounts, payload: payload, name: rand.Text()[:8]}
}

// Send sends one message.
func (t *Traffic) Send(ctx context.Context, e *Engine) error {
	n := t.next.Add(1)
	_, err := e.Router.Send(ctx, t.request(n))
	return err
}

// Sent is how many messages there were.
func (t *Traffic) Sent() int { return int(t.next.Load()) }

func (t *Traffic) request(n uint64) fanout.SendRequest {
	from := Scatter(n, t.accounts)
	to := from ^ 1
	if to >= t.accounts {
		to = 0
	}
	q := fanout.SendRequest{
		From: Account(from), To: []event.Account{Account(to)}, Payload: t.payload, Receipts: fanout.ReceiptsOff,
	}
	if !t.Unnamed {
		q.ClientID = event.ClientMessageID(t.name + strconv.FormatUint(n, 36))
	}
	if t.Alone {
		q.NoSenderCopy = true
	} else if !t.Plain {
		q.Conversation = Conversation(from)
	}
	if t.Read {
		q.Receipts = fanout.ReceiptsOn
	}
	return q
}

// Scatter maps a count to one of n places, evenly and without an order that a cache could use.
func Scatter(count uint64, n int) int {
	count += 0x9e3779b97f4a7c15
	count = (count ^ count>>30) * 0xbf58476d1ce4e5b9
	count = (count ^ count>>27) * 0x94d049bb133111eb
	return int((count ^ count>>31) % uint64(n))
}

// Conversation returns the conversation that an account has with the one beside it.
func Conversation(i int) event.ConversationID {
	return event.ConversationID("c" + strconv.Itoa(i/2))
}

// Fill puts messages into inboxes, a number of rounds into each of the accounts, many with one commit.
func Fill(ctx context.Context, st store.Store, accounts, rounds int, payload []byte) error {
	const batch, writers = 256, 8
	issuer := event.NewIssuer(st.Info().IDKey)
	for range rounds {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(writers)
		for first := 0; first < accounts; first += batch {
			group.Go(func() error {
				b := store.Batch{Account: "filler", Now: time.Now()}
				for i := first; i < min(first+batch, accounts); i++ {
					b.Messages = append(b.Messages, store.Message{
						ID: issuer.Issue(), Kind: event.KindMessage, Flags: event.FlagUnread, From: "filler",
						Conversation: Conversation(i),
						Payload:      payload, To: []store.Inbox{{Account: Account(i)}},
					})
				}
				_, err := st.Commit(ctx, b)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// FillOne puts n messages into one inbox, many with one commit.
func FillOne(ctx context.Context, st store.Store, account event.Account, n int, payload []byte) error {
	issuer := event.NewIssuer(st.Info().IDKey)
	for n > 0 {
		b := store.Batch{Account: "filler", Now: time.Now()}
		for range min(n, 512) {
			b.Messages = append(b.Messages, store.Message{
				ID: issuer.Issue(), Kind: event.KindMessage, Flags: event.FlagUnread, From: "filler", Conversation: "c",
				Payload: payload, To: []store.Inbox{{Account: account}},
			})
			n--
		}
		if _, err := st.Commit(ctx, b); err != nil {
			return err
		}
	}
	return nil
}
