package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// deliveredBook collects what an account's devices have acknowledged and whose senders want to know. It is guarded by
// hub.mu.
type deliveredBook struct {
	owed    map[event.ConversationID]map[event.Account]mark
	flushed time.Time     // when receipts went out last
	busy    chan struct{} // closed when the flush that runs is done; nil: none runs
}

// mark is a message, by its place in the recipient's inbox.
type mark struct {
	seq uint64
	id  event.MessageID
}

// wantsDelivered reports whether the entry's sender is to be told that it has arrived at the account.
func wantsDelivered(e *event.Entry, account event.Account) bool {
	return e.Flags&event.FlagReceipts != 0 && e.From != account && len(e.Targets) == 0
}

func (b *deliveredBook) add(e *event.Sealed) {
	b.addMark(e.Conversation, e.From, mark{e.Seq, e.ID})
}

func (b *deliveredBook) addMark(conv event.ConversationID, from event.Account, m mark) {
	if b.owed == nil {
		b.owed = make(map[event.ConversationID]map[event.Account]mark)
	}
	if b.owed[conv] == nil {
		b.owed[conv] = make(map[event.Account]mark)
	}
	if m.seq > b.owed[conv][from].seq {
		b.owed[conv][from] = m
	}
}

func (b *deliveredBook) len() int { return len(b.owed) }

// due reports whether receipts may go out: there are some, and the last ones went out long enough ago.
func (b *deliveredBook) due(now time.Time) bool {
	return len(b.owed) > 0 && b.busy == nil && now.Sub(b.flushed) >= receiptInterval
}

func (h *hub) receiptsDue(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.receipts.due(now)
}

// receiptsSoon sends the receipts that are due, beside the caller.
func (h *hub) receiptsSoon(r *Router) {
	h.shard.mu.Lock()
	h.refs++
	h.shard.mu.Unlock()
	started := r.owned.start(func() {
		defer h.release()
		if err := r.flushReceipts(r.ctx, h); err != nil && r.ctx.Err() == nil {
			r.log.Warn("fanout: delivered receipts", "err", err)
		}
	})
	if !started {
		h.release()
	}
}

// flushReceipts commits, for each conversation, how far the account has got it, together with the receipts that say so.
// What could not be committed is owed again. It waits for a flush of the hub that runs already.
func (r *Router) flushReceipts(ctx context.Context, h *hub) error {
	owed, done, err := h.takeReceipts(ctx)
	if owed == nil || err != nil {
		return err
	}
	var failed error
	for conv, from := range owed {
		if failed == nil {
			failed = r.commitDelivered(ctx, h.account, conv, from)
		}
		if failed == nil {
			delete(owed, conv)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.receipts.busy = nil
	close(done)
	for conv, from := range owed {
		for a, m := range from {
			h.receipts.addMark(conv, a, m)
		}
	}
	if h.receipts.len() > 0 {
		h.watchLocked()
	}
	return failed
}

// takeReceipts takes all that is owed, for the caller to commit and then close done. Nil: nothing is owed.
func (h *hub) takeReceipts(ctx context.Context) (owed map[event.ConversationID]map[event.Account]mark, done chan struct{}, err error) {
	for {
		h.mu.Lock()
		b := &h.receipts
		running := b.busy
		if running == nil && len(b.owed) > 0 {
			owed, done = b.owed, make(chan struct{})
			b.owed, b.busy, b.flushed = nil, done, time.Now()
		}
		h.mu.Unlock()
		if running == nil {
			return owed, done, nil
		}
		select {
		case <-running:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("delivered receipts: %w", ctx.Err())
		}
	}
}

// commitDelivered raises, for each sender, how far the account has got its messages in a conversation, and tells the
// sender. What a watermark has passed was told before, when another device acknowledged it: nobody is told twice.
func (r *Router) commitDelivered(ctx context.Context, account event.Account, conv event.ConversationID, from map[event.Account]mark) error {
	for a, m := range from {
		name := deliveredRegister(a)
		told, _, err := r.register(ctx, account, conv, name)
		if err != nil {
			return err
		}
		if m.seq <= told.Number {
			continue
		}
		msg, err := r.receipt(event.KindDelivered, account, a, conv, m.id)
		if err != nil {
			return err
		}
		_, err = r.commit(ctx, store.Batch{
			Account: account, OnlyIfChanged: true, Reserve: true, Messages: []store.Message{msg},
			States: []store.StateUpdate{{Conversation: conv, Name: name, Merge: store.MergeMax, Number: m.seq}},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deliveredRegister names the watermark of one sender's messages. An account can be as long as a register's name, so
// its digest stands for it.
func deliveredRegister(from event.Account) string {
	sum := sha256.Sum256([]byte(from))
	return event.StateDelivered + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// receipt is the message that tells one sender how far his messages have come with an account.
func (r *Router) receipt(kind event.Kind, by, to event.Account, conv event.ConversationID, id event.MessageID) (store.Message, error) {
	payload, err := json.Marshal(event.Receipt{By: by, Message: id})
	if err != nil {
		return store.Message{}, fmt.Errorf("fanout: encode receipt: %w", err)
	}
	return store.Message{
		ID: r.issuer.Issue(), Kind: kind, Conversation: conv, From: by, Payload: payload,
		Key: r.cfg.Kinds.Info(kind).CoalesceKey(conv, string(by)), To: []store.Inbox{{Account: to}},
	}, nil
}

// commit commits a batch of the engine's own and rings the doorbells.
func (r *Router) commit(ctx context.Context, b store.Batch) (store.Result, error) {
	b.Now = time.Now().Truncate(event.Millis)
	res, err := r.st.Commit(ctx, b)
	if err != nil {
		return res, fmt.Errorf("fanout: %w", err)
	}
	if !res.Unchanged && !res.Duplicate {
		for i, p := range res.Messages {
			r.ring(b.Messages[i], b.Now, p)
		}
	}
	return res, nil
}
