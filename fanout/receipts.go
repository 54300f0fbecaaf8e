package fanout

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// maxEdited bounds the edits whose messages an account's receipts wait for: many windows, and 64 KiB.
const maxEdited = 1_024

// deliveredBook collects what an account's devices have acknowledged and whose senders want to know. It is guarded by
// hub.mu.
type deliveredBook struct {
	debts
	flushed time.Duration // Router.clock when receipts went out last
	busy    chan struct{} // closed when the flush that runs is done; nil: none runs
}

// debts are messages whose senders are to be told.
type debts struct {
	owed   map[event.ConversationID]map[event.Account]mark
	edited []event.MessageID // that came as edits: who sent them, and where they stood, is not known yet
}

// mark is a message, by its place in the recipient's inbox.
type mark struct {
	at event.Position
	id event.MessageID
}

// after reports whether m is further than o: of an inbox that began anew, or of the same one.
func (m mark) after(o mark) bool {
	return cmp.Or(cmp.Compare(m.at.Epoch, o.at.Epoch), cmp.Compare(m.at.Seq, o.at.Seq)) > 0
}

// wantsReceipt reports whether somebody is to be told that the entry has arrived at the account, or was read there. Whether
// the account has itself sent the message whose place an edit has taken shows later.
func (r *Router) wantsReceipt(e *event.Entry, account event.Account) bool {
	return e.Flags&event.FlagReceipts != 0 && len(e.Targets) == 0 && (e.From != account || r.replaced(e) != "")
}

// oweLocked notes that a device has acknowledged an entry.
func (r *Router) oweLocked(h *hub, e *event.Entry, epoch event.Epoch) {
	if id := r.replaced(e); id != "" {
		h.receipts.addEdited(id)
		return
	}
	h.receipts.addMark(e.Conversation, e.From, mark{event.Position{Epoch: epoch, Seq: e.Seq}, e.ID})
}

// addEdited notes a message that came as its edit. Of too many the earliest are forgotten: the later ones are most likely
// further.
func (b *debts) addEdited(ids ...event.MessageID) {
	b.edited = append(b.edited, ids...)
	b.edited = b.edited[max(0, len(b.edited)-maxEdited):]
}

func (b *debts) addMark(conv event.ConversationID, from event.Account, m mark) {
	if b.owed == nil {
		b.owed = make(map[event.ConversationID]map[event.Account]mark)
	}
	if b.owed[conv] == nil {
		b.owed[conv] = make(map[event.Account]mark)
	}
	if m.after(b.owed[conv][from]) {
		b.owed[conv][from] = m
	}
}

func (b *debts) len() int { return len(b.owed) + len(b.edited) }

// owesLocked notes since when the hub's account owes delivered receipts. Those that are on their way count.
func (h *hub) owesLocked(now time.Duration) {
	switch {
	case h.receipts.len() == 0 && h.receipts.busy == nil:
		h.owing = 0
	case h.owing == 0:
		h.owing = uint32(now/time.Second) + 1
	}
}

// due reports whether receipts may go out: there are some, and the last ones went out long enough ago.
func (b *deliveredBook) due(now time.Duration) bool {
	return b.len() > 0 && b.busy == nil && now-b.flushed >= receiptInterval
}

// receiptsSoon sends the receipts that are due, on a goroutine of its own: an account that the store holds up does not hold up
// the caller.
func (h *hub) receiptsSoon(r *Router) {
	h.shard.mu.Lock()
	h.refs++
	h.shard.mu.Unlock()
	started := r.owned.Go(func() {
		defer h.release()
		if err := r.flushReceipts(r.ctx, h); err != nil && r.ctx.Err() == nil {
			r.flushFailed(h.account, err)
		}
	})
	if !started {
		h.release()
	}
}

// flushReceipts commits, for each conversation, how far the account has got it, together with the receipts that say so.
// What could not be committed is owed again. It waits for a flush of the hub that runs already.
func (r *Router) flushReceipts(ctx context.Context, h *hub) error {
	taken, done, err := h.takeReceipts(ctx, r.clock)
	if done == nil || err != nil {
		return err
	}
	var page store.Page
	failed := r.locateEdited(ctx, h.account, &taken)
	if failed == nil {
		page, failed = r.st.Read(ctx, h.account, store.ReadOptions{}) // last, lest the account be deleted meanwhile
	}
	for conv, from := range taken.owed {
		if failed == nil {
			failed = r.commitDelivered(ctx, h.account, page.Head.Epoch, conv, from)
		}
		if failed == nil {
			delete(taken.owed, conv)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.receipts.busy = nil
	close(done)
	h.receipts.addEdited(taken.edited...)
	for conv, from := range taken.owed {
		for a, m := range from {
			h.receipts.addMark(conv, a, m)
		}
	}
	if h.owesLocked(r.clock()); h.owing > 0 {
		h.watchLocked()
	}
	return failed
}

// locateEdited turns messages that came as edits into what is owed to those who sent them. What was delivered before its
// edit is then behind the watermark like everything else.
func (r *Router) locateEdited(ctx context.Context, account event.Account, d *debts) error {
	for len(d.edited) > 0 {
		id := d.edited[0]
		info, at, err := r.original(ctx, account, id)
		if err != nil {
			return err
		}
		if at.Seq > 0 && info.From != account {
			d.addMark(info.Conversation, info.From, mark{at, id})
		}
		d.edited = slices.DeleteFunc(d.edited, func(o event.MessageID) bool { return o == id })
	}
	return nil
}

// takeReceipts takes all that is owed, for the caller to commit and then close done. Nil: nothing is owed.
func (h *hub) takeReceipts(ctx context.Context, clock func() time.Duration) (taken debts, done chan struct{}, err error) {
	for {
		h.mu.Lock()
		b := &h.receipts
		running := b.busy
		if running == nil && b.len() > 0 {
			taken, done = b.debts, make(chan struct{})
			b.debts, b.busy, b.flushed = debts{}, done, clock()
		}
		h.mu.Unlock()
		if running == nil {
			return taken, done, nil
		}
		select {
		case <-running:
		case <-ctx.Done():
			return debts{}, nil, fmt.Errorf("delivered receipts: %w", ctx.Err())
		}
	}
}

// commitDelivered raises, for each sender, how far the account has got its messages in a conversation, and tells the
// sender. What a watermark has passed was told before, when another device acknowledged it: nobody is told twice. A number
// of another epoch means nothing here: the account was deleted since.
func (r *Router) commitDelivered(
	ctx context.Context, account event.Account, epoch event.Epoch, conv event.ConversationID, from map[event.Account]mark,
) error {
	for a, m := range from {
		if m.at.Epoch != epoch {
			continue
		}
		name := deliveredRegister(a, epoch)
		told, _, err := r.register(ctx, account, conv, name)
		if err != nil {
			return err
		}
		if m.at.Seq <= told.Number {
			continue
		}
		msg, err := r.receipt(event.KindDelivered, account, a, conv, m.id)
		if err != nil {
			return err
		}
		_, err = r.commit(ctx, store.Batch{
			Account: account, OnlyIfChanged: true, Reserve: true, Messages: []store.Message{msg},
			States: []store.StateUpdate{{Conversation: conv, Name: name, Merge: store.MergeMax, Number: m.at.Seq}},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deliveredRegister names the watermark of one sender's messages. An account can be as long as a register's name, so
// its digest stands for it. The recipient's epoch is in it, without the store's incarnation: a watermark that is written
// while the account is deleted says nothing about the inbox after that, and one of before a restore still counts.
func deliveredRegister(from event.Account, e event.Epoch) string {
	sum := sha256.Sum256([]byte(from))
	return event.StateDelivered + base64.RawURLEncoding.EncodeToString(sum[:16]) + ":" + strconv.FormatUint(uint64(uint32(e)), 10)
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
	b.Now = r.commitTime(ctx)
	res, err := r.st.Commit(ctx, b)
	if err != nil {
		return res, fmt.Errorf("fanout: %w", err)
	}
	if !res.Unchanged && !res.Duplicate {
		for i, p := range res.Messages {
			r.ring(&b.Messages[i], b.Now, p)
		}
	}
	return res, nil
}
