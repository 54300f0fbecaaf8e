package session

import (
	"context"
	"errors"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
)

// Bounds of what is parked. An entry is parked when it has defeated a device several times and a person or a rule of the
// host's has looked at it: whoever needs more has another problem. All of it together is a few KiB of the account's
// record, which has at most 64.
const (
	MaxParked        = 64 // entries of one device
	maxParkedAccount = 256
)

// Errors that callers of [Registry.Park] branch on.
var (
	// ErrTooManyParked: no more entries can be parked for the device, or for all devices of its account. Nothing was
	// changed.
	ErrTooManyParked = errors.New("session: too many parked entries")
)

// parked are the entries of the account's inbox that one device does not get.
type parked struct {
	Epoch event.Epoch
	Seqs  []uint64 // rising, at least one
}

// ParkRequest has one entry of the account's inbox passed over for one device. It is made by fanout.Router.Park, which
// checks the position and tells the connections.
type ParkRequest struct {
	Account  event.Account
	Device   event.DeviceID
	Position event.Position // of the entry
	// Trim is up to where the inbox has nothing any more. What was parked up to there, or in another epoch, is forgotten.
	Trim uint64
	// Undo takes back that the entry was parked.
	Undo bool
}

// ParkResult is what a [ParkRequest] came to.
type ParkResult struct {
	Incarnation event.Incarnation // the device's registration
	Changed     bool              // the entry was not parked before, or, to take it back, it was
}

// Park notes durably that the device is not to get an entry, or takes that back. The note goes with the device. To park
// twice, or to take back what was not parked, has no effect.
//
// Errors: [*event.InvalidError], [ErrNotFound] if the account has no such device, [ErrTooManyParked], a [*RecordFullError],
// [ErrClosed], or the store's.
func (r *Registry) Park(ctx context.Context, q ParkRequest) (_ ParkResult, err error) {
	defer fault.In("session", "park", &err)
	defer func() { r.turned("session: park refused", err, q.Account, "device", string(q.Device)) }()
	if err := q.Account.Validate(); err != nil {
		return ParkResult{}, err
	}
	if err := q.Device.Validate(); err != nil {
		return ParkResult{}, err
	}
	if q.Position.Seq == 0 {
		return ParkResult{}, &event.InvalidError{Field: "position.seq", Reason: "zero"}
	}
	var res ParkResult
	_, err = r.run(ctx, q.Account, func(s *step) error {
		d := s.rec.device(q.Device)
		if d == nil {
			return ErrNotFound
		}
		res.Incarnation = d.Incarnation
		changed, err := s.park(d, &q)
		res.Changed = changed
		return err
	}, nil)
	if err != nil {
		return ParkResult{}, err
	}
	return res, nil
}

// park reports whether there was something to do.
func (s *step) park(d *device, q *ParkRequest) (bool, error) {
	old := d.parkedIn(q.Position.Epoch)
	seqs := slices.Clone(old)
	i, there := slices.BinarySearch(seqs, q.Position.Seq)
	switch {
	case there == !q.Undo:
		return false, nil
	case q.Undo:
		seqs = slices.Delete(seqs, i, i+1)
	default:
		seqs = slices.Insert(seqs, i, q.Position.Seq)
		s.grows = true
	}
	seqs = slices.DeleteFunc(seqs, func(seq uint64) bool { return seq <= q.Trim })
	d.Parked, s.dirty = nil, true
	if len(seqs) > 0 {
		d.Parked = &parked{Epoch: q.Position.Epoch, Seqs: seqs}
	}
	if !q.Undo && (len(seqs) > MaxParked || s.rec.parked() > maxParkedAccount) {
		return false, ErrTooManyParked
	}
	return true, nil
}

// parkedIn returns what is parked in an epoch. The slice is the record's own.
func (d *device) parkedIn(epoch event.Epoch) []uint64 {
	if d.Parked == nil || d.Parked.Epoch != epoch {
		return nil
	}
	return d.Parked.Seqs
}

// parked returns how many entries are parked for all devices together.
func (r *record) parked() int {
	n := 0
	for i := range r.Devices {
		if p := r.Devices[i].Parked; p != nil {
			n += len(p.Seqs)
		}
	}
	return n
}

// Parked returns which entries the registration of a device does not get, in rising order. What is not there any more
// may be among them.
func (r *Registry) Parked(ctx context.Context, account event.Account, inc event.Incarnation) (_ []event.Position, err error) {
	defer fault.In("session", "parked", &err)
	if err := account.Validate(); err != nil {
		return nil, err
	}
	rec, _, err := r.load(ctx, account)
	if err != nil {
		return nil, err
	}
	for i := range rec.Devices {
		if d := &rec.Devices[i]; d.Incarnation == inc {
			return d.Parked.positions(), nil
		}
	}
	return nil, nil
}

func (p *parked) positions() []event.Position {
	if p == nil {
		return nil
	}
	all := make([]event.Position, len(p.Seqs))
	for i, seq := range p.Seqs {
		all[i] = event.Position{Epoch: p.Epoch, Seq: seq}
	}
	return all
}
