package fanout

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// maxNarrow bounds the lists of a Narrow, and how many there are in a call.
const maxNarrow = 64

// Narrow chooses devices of one account: those that Logins, Devices or Platforms name, or all that the account has if
// none is given, without those of Except. They are looked up once, at the time of the call: a device that is new
// afterwards does not belong to them. At most 64 of each.
type Narrow struct {
	Account   event.Account
	Logins    []event.LoginID  // the devices of these logins
	Devices   []event.DeviceID // these, logged in or not
	Platforms []event.Platform // those that are logged in on these platforms
	Except    []event.LoginID  // not the devices of these; those that are not there are passed over
}

func (n *Narrow) validate() error {
	if err := n.Account.Validate(); err != nil {
		return err
	}
	if len(n.Logins)+len(n.Devices)+len(n.Platforms)+len(n.Except) == 0 {
		return &event.InvalidError{Field: "", Reason: "chooses nothing"}
	}
	for _, list := range [...]struct {
		name string
		size int
	}{
		{"logins", len(n.Logins)}, {"devices", len(n.Devices)}, {"platforms", len(n.Platforms)}, {"except", len(n.Except)},
	} {
		if list.size > maxNarrow {
			return &event.InvalidError{Field: list.name, Reason: fmt.Sprintf("%d names, at most %d", list.size, maxNarrow)}
		}
	}
	if err := ownLogins("logins", n.Account, &n.Logins); err != nil {
		return err
	}
	if err := ownLogins("except", n.Account, &n.Except); err != nil {
		return err
	}
	for i, id := range n.Devices {
		if err := id.Validate(); err != nil {
			return fault.Item("devices", i, err)
		}
	}
	n.Platforms = slices.Clone(n.Platforms)
	for i, p := range n.Platforms {
		p, err := event.ParsePlatform(string(p))
		if err != nil {
			return fault.Item("platforms", i, err)
		}
		n.Platforms[i] = p
	}
	return nil
}

// ownLogins replaces a list of logins, and of addresses of logins of the account, by one of logins.
func ownLogins(list string, account event.Account, ids *[]event.LoginID) (err error) {
	all := slices.Clone(*ids)
	for i, id := range all {
		if all[i], err = id.Of(account); err != nil {
			return fault.Item(list, i, err)
		}
	}
	*ids = all
	return nil
}

func (n *Narrow) digest(field func([]byte)) {
	field([]byte(n.Account))
	for _, id := range n.Logins {
		field([]byte(id))
	}
	field(nil)
	for _, id := range n.Devices {
		field([]byte(id))
	}
	field(nil)
	for _, p := range n.Platforms {
		field([]byte(p))
	}
	field(nil)
	for _, id := range n.Except {
		field([]byte(id))
	}
}

// devices returns the chosen devices. [ErrUnknownTarget] if a named one is not there, or none is left.
func (n *Narrow) devices(ctx context.Context, reg *session.Registry) ([]event.Incarnation, error) {
	logins, err := reg.List(ctx, n.Account, "")
	if err != nil {
		return nil, fmt.Errorf("narrow: %w", err)
	}
	known, err := reg.Devices(ctx, n.Account)
	if err != nil {
		return nil, fmt.Errorf("narrow: %w", err)
	}
	login := func(id event.LoginID) (event.Incarnation, bool) {
		i := slices.IndexFunc(logins, func(s session.Session) bool { return s.Login == id })
		if i < 0 {
			return 0, false
		}
		return logins[i].Incarnation, true
	}
	var all []event.Incarnation
	for _, id := range n.Logins {
		inc, ok := login(id)
		if !ok {
			return nil, ErrUnknownTarget
		}
		all = append(all, inc)
	}
	for _, id := range n.Devices {
		inc, ok := known[id]
		if !ok {
			return nil, ErrUnknownTarget
		}
		all = append(all, inc)
	}
	everyone := len(n.Logins)+len(n.Devices)+len(n.Platforms) == 0
	for _, s := range logins {
		if everyone || slices.Contains(n.Platforms, s.Platform) {
			all = append(all, s.Incarnation)
		}
	}
	if everyone {
		for _, inc := range known {
			all = append(all, inc)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, id := range n.Except {
		if inc, ok := login(id); ok {
			all = slices.DeleteFunc(all, func(o event.Incarnation) bool { return o == inc })
		}
	}
	switch {
	case len(all) == 0:
		return nil, ErrUnknownTarget
	case len(all) > store.MaxTargets:
		return nil, &event.InvalidError{Field: "narrow", Reason: fmt.Sprintf("%d devices, at most %d", len(all), store.MaxTargets)}
	}
	return all, nil
}

// checkNarrow checks the choices of a call, and replaces them by a copy with logins and platforms as the engine knows them.
// Each account has one at most, and is among those that get it.
func checkNarrow(narrow *[]Narrow, from event.Account, origin event.LoginID, gets func(event.Account) bool) error {
	if len(*narrow) > maxNarrow {
		return &event.InvalidError{Field: "narrow", Reason: fmt.Sprintf("%d, at most %d", len(*narrow), maxNarrow)}
	}
	all := slices.Clone(*narrow)
	*narrow = all
	for i := range all {
		n := &all[i]
		at := fmt.Sprintf("narrow[%d]", i)
		if err := n.validate(); err != nil {
			return fault.Inside(at, err)
		}
		switch {
		case n.Account != from && origin != "":
			return &event.InvalidError{Field: at, Reason: "devices of another account, for a client"}
		case slices.ContainsFunc(all[:i], func(o Narrow) bool { return o.Account == n.Account }):
			return &event.InvalidError{Field: at, Reason: "an account twice"}
		case !gets(n.Account):
			return &event.InvalidError{Field: at, Reason: "of an account that gets no copy"}
		}
	}
	return nil
}

// checkAddressees validates who is to get a message, and puts the recipients in order, each once.
func checkAddressees(q *SendRequest) error {
	if err := gather(q); err != nil {
		return err
	}
	if len(q.Targets) > MaxTargets {
		return &event.InvalidError{Field: "targets", Reason: fmt.Sprintf("%d logins, at most %d", len(q.Targets), MaxTargets)}
	}
	if err := ownLogins("targets", q.From, &q.Targets); err != nil {
		return err
	}
	others := len(q.To)
	if _, self := slices.BinarySearch(q.To, q.From); self {
		others--
	}
	switch {
	case len(q.Targets) > 0 && (len(q.To) > 0 || q.NoSenderCopy || len(q.Narrow) > 0):
		return &event.InvalidError{Field: "targets", Reason: "only for logins of the sender, without recipients"}
	case q.NoSenderCopy && others == 0 && q.Of == "":
		return &event.InvalidError{Field: "to", Reason: "nobody would get it"}
	case q.Receipts == ReceiptsOn && others > MaxReceiptPeers:
		return &event.InvalidError{Field: "receipts", Reason: fmt.Sprintf("%d recipients, at most %d", others, MaxReceiptPeers)}
	case q.Receipts > ReceiptsOff:
		return &event.InvalidError{Field: "receipts", Reason: "unknown mode"}
	}
	return checkNarrow(&q.Narrow, q.From, q.Origin, func(a event.Account) bool {
		_, to := slices.BinarySearch(q.To, a)
		return to || a == q.From && !q.NoSenderCopy
	})
}

// gather puts all recipients into To, in order, each once.
func gather(q *SendRequest) error {
	if len(q.To) > MaxRecipients {
		return tooMany(len(q.To))
	}
	for i, a := range q.To {
		if err := a.Validate(); err != nil {
			return fault.Item("to", i, err)
		}
	}
	q.To = slices.Clip(q.To)
	if q.Members != nil {
		var err error
		if q.To, err = members(q.Members, q.To); err != nil {
			return err
		}
		q.Members = nil
	}
	if len(q.To) > 1 {
		q.To = slices.Clone(q.To)
		slices.Sort(q.To)
		q.To = slices.Compact(q.To)
	}
	return nil
}

// members adds those of a sequence to a list.
func members(all iter.Seq[event.Account], list []event.Account) ([]event.Account, error) {
	for a := range all {
		if len(list) == MaxRecipients {
			return nil, tooMany(MaxRecipients + 1)
		}
		if err := a.Validate(); err != nil {
			return nil, fault.Field("members", err)
		}
		list = append(list, a)
	}
	return list, nil
}

func tooMany(n int) error {
	return &event.InvalidError{Field: "to", Reason: fmt.Sprintf("%d recipients or more, at most %d", n, MaxRecipients)}
}

// targets resolves logins and choices to devices, so that the message survives a new login of the device.
func (r *Router) targets(ctx context.Context, q *SendRequest) (map[event.Account][]event.Incarnation, error) {
	if len(q.Targets) == 0 {
		return r.narrowed(ctx, q.Narrow)
	}
	var all []event.Incarnation
	for _, id := range q.Targets {
		b, err := r.reg.Resolve(ctx, q.From, id)
		if err != nil {
			return nil, notFound(err, ErrUnknownTarget)
		}
		if !slices.Contains(all, b.Incarnation) {
			all = append(all, b.Incarnation)
		}
	}
	return map[event.Account][]event.Incarnation{q.From: all}, nil
}

func (r *Router) narrowed(ctx context.Context, narrow []Narrow) (map[event.Account][]event.Incarnation, error) {
	if len(narrow) == 0 {
		return nil, nil
	}
	chosen := make(map[event.Account][]event.Incarnation, len(narrow))
	for i := range narrow {
		all, err := narrow[i].devices(ctx, r.reg)
		if err != nil {
			return nil, err
		}
		chosen[narrow[i].Account] = all
	}
	return chosen, nil
}

func notFound(err, as error) error {
	if errors.Is(err, session.ErrNotFound) {
		return as
	}
	return err
}
