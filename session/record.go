package session

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// recordVersion is the version of the encoding. A record of a newer one is refused.
const recordVersion = 1

// record is an account's durable state. A record that was loaded or committed is never changed: steps work on a clone.
type record struct {
	Version    int         `json:"v"`
	Admissions uint64      `json:"adm"` // number of the last admission
	Logins     []login     `json:"logins,omitempty"`
	Tombstones []tombstone `json:"tombs,omitempty"` // oldest first
	Devices    []device    `json:"devices,omitempty"`
	Recent     []recent    `json:"recent,omitempty"` // oldest first
	Pace       int64       `json:"pace,omitempty"`   // see step.pace; Unix milliseconds
	Evictions  []eviction  `json:"evs,omitempty"`    // of the last 10 s, oldest first
	Ban        *ban        `json:"ban,omitempty"`    // nobody may log in
}

// recent is one line of the account's log of logins and ends.
type recent struct {
	Login    event.LoginID  `json:"id"`
	Device   event.DeviceID `json:"dev"`
	Platform event.Platform `json:"plat"`
	Name     string         `json:"name,omitempty"`
	IP       string         `json:"ip,omitempty"`
	Reason   event.Reason   `json:"r,omitempty"` // why it ended; empty: it was admitted
	At       int64          `json:"at"`
}

// login is one admission that has not ended.
type login struct {
	ID          event.LoginID     `json:"id"`
	Device      event.DeviceID    `json:"dev"`
	Incarnation event.Incarnation `json:"inc"`
	Platform    event.Platform    `json:"plat"`
	Admission   uint64            `json:"adm"`
	At          int64             `json:"at"`   // Unix milliseconds
	Seen        int64             `json:"seen"` // last known contact, Unix milliseconds
	Slot        bool              `json:"slot,omitempty"`
	Primary     bool              `json:"primary,omitempty"` // its device is the primary one
	Node        event.NodeID      `json:"node,omitempty"`    // among several: where it is attached; empty: nowhere
	Lease       uint64            `json:"lease,omitempty"`   // of that node
	Left        int64             `json:"left,omitempty"`    // among several: when its last connection ended; 0: it had none
	Description Description       `json:"desc"`
	Token       digest            `json:"tok"`            // last confirmed token
	TokenAt     int64             `json:"tokAt"`          // when it was issued
	Issued      *digest           `json:"next,omitempty"` // issued, not yet confirmed
	IssuedAt    int64             `json:"nextAt,omitempty"`
	Replaced    *digest           `json:"prev,omitempty"` // confirmed once, then replaced: its use ends the login
}

// tombstone is what is left of an ended login.
type tombstone struct {
	Login  event.LoginID `json:"id"`
	Tokens []digest      `json:"toks"`
	Closed closedRecord  `json:"closed"`
	Until  int64         `json:"until"`
}

// closedRecord is event.Closed on disk.
type closedRecord struct {
	Reason event.Reason `json:"r"`
	Note   string       `json:"n,omitempty"`
	Cause  *event.Cause `json:"c,omitempty"`
	Retry  event.Retry  `json:"a"`
}

// device is one installed client.
type device struct {
	ID          event.DeviceID    `json:"id"`
	Incarnation event.Incarnation `json:"inc"`
	First       int64             `json:"first,omitempty"`   // when it was registered, Unix milliseconds; 0: not known
	Primary     bool              `json:"primary,omitempty"` // policy protects it
	Seen        int64             `json:"seen"`
}

// digest is the SHA-256 of a resume token. Raw tokens are never stored.
type digest [sha256.Size]byte

func digestOf(t event.ResumeToken) digest { return sha256.Sum256([]byte(t)) }

func (d *digest) equal(o digest) bool {
	return d != nil && subtle.ConstantTimeCompare(d[:], o[:]) == 1
}

// MarshalText writes the digest as unpadded base64, a third of the size of the default array of numbers.
func (d digest) MarshalText() ([]byte, error) { return digestEncoding.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *digest) UnmarshalText(b []byte) error {
	raw, err := digestEncoding.AppendDecode(nil, b)
	if err != nil || len(raw) != len(d) {
		return fmt.Errorf("session: bad digest of %d bytes", len(raw))
	}
	copy(d[:], raw)
	return nil
}

func decodeRecord(data []byte) (*record, error) {
	if len(data) == 0 {
		return &record{Version: recordVersion}, nil
	}
	r := new(record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("session: account record: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("session: account record has version %d, this release knows %d", r.Version, recordVersion)
	}
	return r, nil
}

// encode writes the record. It does not escape for HTML, as json.Marshal would: a name could take six times its room.
func (r *record) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("session: account record: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// fit encodes the record in at most limit bytes, if need be without the oldest lines of the log and the oldest
// tombstones. It reports whether that was possible.
func (r *record) fit(limit int) (data []byte, ok bool, err error) {
	for {
		data, err = r.encode()
		if err != nil || len(data) <= limit || len(r.Tombstones)+len(r.Recent)+len(r.Evictions) == 0 {
			return data, len(data) <= limit, err
		}
		if n := len(r.Evictions); n > 0 {
			r.Evictions = slices.Delete(r.Evictions, 0, (n+1)/2)
			continue
		}
		if n := len(r.Recent); n > 0 {
			r.Recent = slices.Delete(r.Recent, 0, (n+1)/2)
			continue
		}
		r.Tombstones = slices.Delete(r.Tombstones, 0, (len(r.Tombstones)+7)/8)
	}
}

// clone returns a copy whose slices may be changed. What they point to is replaced as a whole, never changed in place.
func (r *record) clone() *record {
	c := *r
	c.Logins = slices.Clone(r.Logins)
	c.Tombstones = slices.Clone(r.Tombstones)
	c.Devices = slices.Clone(r.Devices)
	c.Recent = slices.Clone(r.Recent)
	c.Evictions = slices.Clone(r.Evictions)
	return &c
}

func (r *record) login(id event.LoginID) *login {
	for i := range r.Logins {
		if r.Logins[i].ID == id {
			return &r.Logins[i]
		}
	}
	return nil
}

func (r *record) device(id event.DeviceID) *device {
	for i := range r.Devices {
		if r.Devices[i].ID == id {
			return &r.Devices[i]
		}
	}
	return nil
}

func (r *record) tombstone(id event.LoginID) *tombstone {
	for i := range r.Tombstones {
		if r.Tombstones[i].Login == id {
			return &r.Tombstones[i]
		}
	}
	return nil
}

// attachedBefore reports whether other nodes know that the login had a connection since it got its slot.
func (l *login) attachedBefore() bool { return l.Node != "" || l.Left != 0 }

// own reports whether the login's device exists only as long as the login, since it came without a device ID.
func (l *login) own() bool { return string(l.Device) == string(l.ID) }

func (l *login) tokens() []digest {
	toks := []digest{l.Token}
	if l.Issued != nil {
		toks = append(toks, *l.Issued)
	}
	if l.Replaced != nil {
		toks = append(toks, *l.Replaced)
	}
	return toks
}

func (t *tombstone) matches(d digest) bool {
	found := false
	for i := range t.Tokens {
		found = t.Tokens[i].equal(d) || found
	}
	return found
}

func (l *login) cause() *event.Cause {
	return &event.Cause{Login: l.ID, Device: l.Device, Platform: l.Platform, Name: l.Description.Name}
}

// remove takes a login out and leaves a tombstone. A device that exists only for this login goes with it: its
// incarnation is returned, so that its cursor can be dropped; 0 otherwise.
func (r *record) remove(id event.LoginID, why event.Closed, until int64) event.Incarnation {
	i := slices.IndexFunc(r.Logins, func(l login) bool { return l.ID == id })
	if i < 0 {
		return 0
	}
	l := r.Logins[i]
	r.Logins = slices.Delete(r.Logins, i, i+1)
	c := closedRecord{Reason: why.Reason, Note: why.Note, Cause: cloneCause(why.Cause), Retry: why.Retry}
	r.Tombstones = append(r.Tombstones, tombstone{Login: id, Tokens: l.tokens(), Closed: c, Until: until})
	if n := len(r.Tombstones) - maxTombstones; n > 0 {
		r.Tombstones = slices.Delete(r.Tombstones, 0, n)
	}
	if !l.own() {
		if d := r.device(l.Device); d != nil {
			d.Seen = max(d.Seen, l.Seen)
		}
		return 0
	}
	r.Devices = slices.DeleteFunc(r.Devices, func(d device) bool { return d.ID == l.Device })
	return l.Incarnation
}

// note adds a line to the log of logins and ends, which keeps the last ones.
func (r *record) note(line recent) {
	r.Recent = append(r.Recent, line)
	if n := len(r.Recent) - maxRecent; n > 0 {
		r.Recent = slices.Delete(r.Recent, 0, n)
	}
}

// prune drops tombstones whose time is over and reports whether there were any.
func (r *record) prune(now time.Time) bool {
	n := len(r.Tombstones)
	r.Tombstones = slices.DeleteFunc(r.Tombstones, func(t tombstone) bool { return t.Until <= now.UnixMilli() })
	return len(r.Tombstones) != n
}

// oldest returns the device seen longest ago that no login uses, or nil.
func (r *record) oldest() *device {
	var oldest *device
	for i := range r.Devices {
		d := &r.Devices[i]
		used := slices.ContainsFunc(r.Logins, func(l login) bool { return l.Device == d.ID })
		if !used && (oldest == nil || d.Seen < oldest.Seen) {
			oldest = d
		}
	}
	return oldest
}

func (c closedRecord) closed() event.Closed {
	return event.Closed{Reason: c.Reason, Note: c.Note, Cause: cloneCause(c.Cause), Retry: c.Retry}
}

// cloneCause keeps what a record holds apart from what hosts are given.
func cloneCause(c *event.Cause) *event.Cause {
	if c == nil {
		return nil
	}
	out := *c
	return &out
}
