package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/store"
)

// MaxClaimBytes bounds what a claim says beside its key.
const MaxClaimBytes = 4 << 10

// ClaimRequest is one device's wish to be the one that handles something: a call that rings everywhere, an invitation.
type ClaimRequest struct {
	Account event.Account
	Origin  event.LoginID // the login that claims. Required
	// Key names what is claimed, such as the call's ID. 1 to 128 bytes. Required.
	Key string
	// Conversation that it belongs to. May be empty.
	Conversation event.ConversationID
	// Data is told to the other devices and to late claimers, at most 4 KiB.
	Data []byte
}

// ClaimResult says who has it.
type ClaimResult struct {
	Won      bool           // this login has it, now or already
	Winner   event.Claim    // who has it; the zero value if that is not known any more
	Position event.Position // of the entry that told the account's devices
}

// Claim makes the first of the account's devices that asks the one that has the key; all others are told who, by an
// entry, and whoever comes later by the result. It is decided in one commit, so there is never a second winner. A claim
// holds for 24 h, and counts among the account's client message IDs.
//
// Errors: [*event.InvalidError], [ErrUnknownOrigin], [store.ErrWindowFull], [ErrClosed], or the store's. After
// [store.ErrUnknownOutcome] ask again.
func (r *Router) Claim(ctx context.Context, q ClaimRequest) (_ ClaimResult, err error) {
	defer func() {
		fault.In("fanout", "claim", &err)
		if err != nil {
			r.refused("claim", q.Account, q.Origin, err)
		}
	}()
	if err := q.validate(); err != nil {
		return ClaimResult{}, err
	}
	if err := r.enter(); err != nil {
		return ClaimResult{}, err
	}
	defer r.owned.Leave()
	if _, err := r.acting(ctx, q.Account, &q.Origin); err != nil {
		return ClaimResult{}, notFound(err, ErrUnknownOrigin)
	}
	from, err := r.reg.Get(ctx, q.Account, q.Origin)
	if err != nil {
		return ClaimResult{}, notFound(err, ErrUnknownOrigin)
	}
	mine := event.Claim{
		Key: q.Key, Login: q.Origin, Device: from.Device, Platform: from.Platform, Name: from.Description.Name,
		Data: append([]byte(nil), q.Data...),
	}
	payload, err := json.Marshal(mine)
	if err != nil {
		return ClaimResult{}, fmt.Errorf("encode: %w", err)
	}
	sum := sha256.Sum256([]byte("claim\n" + q.Key))
	b := store.Batch{
		Account: q.Account,
		// All claims of a key are the same batch to the store: the first one takes effect.
		Idempotency: &store.Idempotency{
			ClientID: event.ClientMessageID(base64.RawURLEncoding.EncodeToString(sum[:])), Digest: sum,
			Window: idempotencyHours, Max: idempotencyMax,
		},
		Messages: []store.Message{{
			ID: r.issuer.Issue(), Kind: event.KindClaim, Conversation: q.Conversation, From: q.Account, Origin: q.Origin, Payload: payload,
			Key: r.cfg.Kinds.Info(event.KindClaim).CoalesceKey(q.Conversation, q.Key), To: []store.Inbox{{Account: q.Account}},
		}},
	}
	res, err := r.commit(ctx, b)
	if err != nil {
		return ClaimResult{}, err
	}
	p := res.Messages[0].To[0]
	out := ClaimResult{Won: true, Winner: mine, Position: event.Position{Epoch: p.Epoch, Seq: p.Seq}}
	if res.Duplicate {
		out.Winner, err = r.winner(ctx, q.Account, res.Messages[0].ID, out.Position)
		out.Won = out.Winner.Login == q.Origin
	}
	return out, err
}

func (q *ClaimRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	var err error
	if q.Origin, err = q.Origin.Of(q.Account); err != nil {
		return fault.Field("origin", err)
	}
	if err := event.CheckID("key", q.Key); err != nil {
		return err
	}
	if len(q.Data) > MaxClaimBytes {
		return &event.InvalidError{Field: "data", Reason: fmt.Sprintf("%d bytes, at most %d", len(q.Data), MaxClaimBytes)}
	}
	if q.Conversation == "" {
		return nil
	}
	return q.Conversation.Validate()
}

// winner reads who claimed first.
func (r *Router) winner(ctx context.Context, account event.Account, id event.MessageID, at event.Position) (event.Claim, error) {
	var c event.Claim
	page, err := r.st.Read(ctx, account, store.ReadOptions{After: at.Seq - 1, Limit: 1, Known: at.Seq})
	if err != nil {
		return c, fmt.Errorf("fanout: claim: %w", err)
	}
	if page.Head.Epoch != at.Epoch || len(page.Entries) == 0 || page.Entries[0].ID != id {
		return c, nil // trimmed
	}
	if err := json.Unmarshal(page.Entries[0].Payload, &c); err != nil {
		return event.Claim{}, fmt.Errorf("fanout: claim: %w", err)
	}
	return c, nil
}
