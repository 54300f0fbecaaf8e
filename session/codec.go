package session

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
)

// recordVersion is the first byte of a record. One of another version is refused.
//
// After it come the log and the tombstones, which stay packed, and then all that is decoded by each step. Times are
// varints of Unix milliseconds, strings have their length before them, and rarer parts of an item are there if its flags
// say so.
const recordVersion = 2

// errRecord: not all of a record makes sense, or it is cut short.
var errRecord = errors.New("session: account record cannot be decoded")

// Flags of a record's items.
const (
	loginSlot = 1 << iota
	loginPrimary
	loginPlaced // node, lease, left, moves
	loginDescribed
	loginFollows // nonce
	loginIssued
	loginReplaced
	loginMoved // before, moved
	loginFlags = 1<<iota - 1
)

const (
	devicePrimary = 1 << iota
	deviceParked
	deviceFlags = 1<<iota - 1
)

const (
	evictionSwap = 1 << iota
	evictionTold
	evictionFlags = 1<<iota - 1
)

// What an item takes at least, so that nothing is made for more items than there can be.
const (
	loginBytes    = 40
	deviceBytes   = 12
	evictionBytes = 18
)

// recordGrowth is what a step adds to a record beside the log and tombstones, mostly: a login and its device.
const recordGrowth = 160

// encode writes the record.
func (r *record) encode() []byte {
	b := make([]byte, 0, r.size+len(r.Recent.added)+len(r.Tombstones.added)+recordGrowth)
	b = append(b, recordVersion)
	b = r.Recent.append(b)
	b = r.Tombstones.append(b)
	b = binary.AppendUvarint(b, r.Admissions)
	b = binary.AppendVarint(b, r.Pace)
	b = r.Ban.append(b)
	b = binary.AppendUvarint(b, uint64(len(r.Logins)))
	for i := range r.Logins {
		b = r.Logins[i].append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Devices)))
	for i := range r.Devices {
		b = r.Devices[i].append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Evictions)))
	for i := range r.Evictions {
		b = r.Evictions[i].append(b)
	}
	return b
}

// decodeRecord reads a record that a store returned. What it says shares no memory with data but for packed lists.
func decodeRecord(data []byte) (*record, error) {
	r, err := openRecord(data)
	if err != nil {
		return nil, err
	}
	if !r.Recent.check(func(d *decoder) { d.recent() }) || !r.Tombstones.check(func(d *decoder) { d.tombstone() }) {
		return nil, errRecord
	}
	return r, nil
}

// openRecord is decodeRecord without a look at what is in packed lists, for what was encoded or checked here.
func openRecord(data []byte) (*record, error) {
	r := &record{size: len(data)}
	if len(data) == 0 {
		return r, nil
	}
	if data[0] != recordVersion {
		return nil, fmt.Errorf("session: account record has version %d, this release knows %d", data[0], recordVersion)
	}
	rest, ok := r.Recent.open(data[1:])
	if ok {
		rest, ok = r.Tombstones.open(rest)
	}
	d := decoder{rest: string(rest), bad: !ok}
	r.Admissions, r.Pace, r.Ban = d.uvarint(), d.varint(), d.ban()
	r.Logins = make([]login, d.count(loginBytes))
	for i := range r.Logins {
		r.Logins[i] = d.login()
	}
	r.Devices = make([]device, d.count(deviceBytes))
	for i := range r.Devices {
		r.Devices[i] = d.device()
	}
	for range d.count(evictionBytes) {
		r.Evictions = append(r.Evictions, d.eviction())
	}
	if d.bad || d.rest != "" {
		return nil, errRecord
	}
	return r, nil
}

func (l *login) append(b []byte) []byte {
	placed := l.Node != "" || l.Lease != 0 || l.Left != 0 || l.Moves != 0
	described := !l.Description.empty() || l.DescribedAt != 0
	b = append(b, bit(l.Slot, loginSlot)|bit(l.Primary, loginPrimary)|bit(placed, loginPlaced)|
		bit(described, loginDescribed)|bit(l.Nonce != nil, loginFollows)|bit(l.Issued != nil, loginIssued)|
		bit(l.Replaced != "", loginReplaced)|bit(len(l.Before) > 0, loginMoved))
	b = appendString(b, l.ID)
	b = appendString(b, l.Device)
	b = appendString(b, l.Platform)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Incarnation))
	b = binary.AppendUvarint(b, l.Admission)
	b = binary.AppendVarint(b, l.At)
	b = binary.AppendVarint(b, l.Seen)
	b = append(b, l.Token[:]...)
	b = binary.AppendVarint(b, l.TokenAt)
	b = binary.AppendUvarint(b, uint64(l.TokenStore))
	if placed {
		b = appendString(b, l.Node)
		b = binary.AppendUvarint(b, l.Lease)
		b = binary.AppendVarint(b, l.Left)
		b = binary.AppendUvarint(b, l.Moves)
		b = binary.AppendVarint(b, l.MovedAt)
	}
	if described {
		b = l.Description.append(b)
		b = binary.AppendVarint(b, l.DescribedAt)
	}
	if l.Nonce != nil {
		b = append(b, l.Nonce[:]...)
	}
	if i := l.Issued; i != nil {
		b = append(append(b, i.Token[:]...), i.Nonce[:]...)
		b = binary.AppendUvarint(b, uint64(i.Store))
	}
	if l.Replaced != "" {
		b = appendString(b, l.Replaced)
	}
	if len(l.Before) > 0 {
		b = appendStrings(b, l.Before)
		b = binary.AppendVarint(b, l.Moved)
	}
	return b
}

func (d *decoder) login() login {
	flags := d.flags(loginFlags)
	l := login{
		Slot: flags&loginSlot != 0, Primary: flags&loginPrimary != 0,
		ID: event.LoginID(d.string()), Device: event.DeviceID(d.string()), Platform: event.Platform(d.string()),
		Incarnation: event.Incarnation(d.fixed()), Admission: d.uvarint(), At: d.varint(), Seen: d.varint(),
		Token: d.digest(), TokenAt: d.varint(), TokenStore: d.uint32(),
	}
	if flags&loginPlaced != 0 {
		l.Node, l.Lease, l.Left = event.NodeID(d.string()), d.uvarint(), d.varint()
		l.Moves, l.MovedAt = d.uvarint(), d.varint()
	}
	if flags&loginDescribed != 0 {
		l.Description, l.DescribedAt = d.description(), d.varint()
	}
	if flags&loginFollows != 0 {
		n := nonce(d.digest())
		l.Nonce = &n
	}
	if flags&loginIssued != 0 {
		l.Issued = &issued{Token: d.digest(), Nonce: nonce(d.digest()), Store: d.uint32()}
	}
	if flags&loginReplaced != 0 {
		l.Replaced = d.marks()
	}
	if flags&loginMoved != 0 {
		l.Before, l.Moved = d.nodes(), d.varint()
	}
	return l
}

func appendStrings[S ~string](b []byte, all []S) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = appendString(b, s)
	}
	return b
}

func (d *decoder) nodes() []event.NodeID {
	all := make([]event.NodeID, d.count(1))
	for i := range all {
		all[i] = event.NodeID(d.string())
	}
	return all
}

func (d *Description) empty() bool {
	return d.Name == "" && d.Model == "" && d.OS == "" && d.AppVersion == "" && d.IP == "" && len(d.Extension) == 0
}

func (d *Description) append(b []byte) []byte {
	for _, s := range [...]string{d.Name, d.Model, d.OS, d.AppVersion, d.IP} {
		b = appendString(b, s)
	}
	return append(binary.AppendUvarint(b, uint64(len(d.Extension))), d.Extension...)
}

func (d *decoder) description() Description {
	out := Description{Name: d.string(), Model: d.string(), OS: d.string(), AppVersion: d.string(), IP: d.string()}
	if ext := d.string(); ext != "" {
		out.Extension = []byte(ext)
	}
	return out
}

// marks reads what appendString wrote of them.
func (d *decoder) marks() marks {
	m := marks(d.string())
	if len(m)%markBytes != 0 {
		d.fail()
		return ""
	}
	return m
}

func (d *device) append(b []byte) []byte {
	b = append(b, bit(d.Primary, devicePrimary)|bit(d.Parked != nil, deviceParked))
	b = appendString(b, d.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(d.Incarnation))
	b = binary.AppendVarint(b, d.First)
	b = binary.AppendVarint(b, d.Seen)
	if p := d.Parked; p != nil {
		b = binary.AppendUvarint(b, uint64(p.Epoch))
		b = binary.AppendUvarint(b, uint64(len(p.Seqs)))
		for _, seq := range p.Seqs {
			b = binary.AppendUvarint(b, seq)
		}
	}
	return b
}

func (d *decoder) device() device {
	flags := d.flags(deviceFlags)
	v := device{
		Primary: flags&devicePrimary != 0, ID: event.DeviceID(d.string()), Incarnation: event.Incarnation(d.fixed()),
		First: d.varint(), Seen: d.varint(),
	}
	if flags&deviceParked != 0 {
		v.Parked = &parked{Epoch: event.Epoch(d.uvarint()), Seqs: make([]uint64, d.count(1))}
		for i := range v.Parked.Seqs {
			v.Parked.Seqs[i] = d.uvarint()
		}
	}
	return v
}

func (e *eviction) append(b []byte) []byte {
	b = append(b, bit(e.Swap, evictionSwap)|bit(e.Told, evictionTold))
	b = binary.BigEndian.AppendUint64(b, e.By)
	b = binary.BigEndian.AppendUint64(b, e.Of)
	return binary.AppendVarint(b, e.Time)
}

func (d *decoder) eviction() eviction {
	flags := d.flags(evictionFlags)
	return eviction{
		Swap: flags&evictionSwap != 0, Told: flags&evictionTold != 0, By: d.fixed(), Of: d.fixed(), Time: d.varint(),
	}
}

// append writes the ban, or that there is none, with its reason first: there is no ban without one.
func (v *ban) append(b []byte) []byte {
	if v == nil {
		return append(b, 0)
	}
	b = appendString(b, v.Reason)
	b = binary.AppendVarint(b, v.At)
	b = binary.AppendVarint(b, v.Until)
	return appendString(b, v.Note)
}

func (d *decoder) ban() *ban {
	reason := d.string()
	if reason == "" {
		return nil
	}
	return &ban{Reason: event.Reason(reason), At: d.varint(), Until: d.varint(), Note: d.string()}
}
