package session

import (
	"slices"

	"github.com/manydevice/manydevice/event"
)

// record is an account's durable state. Each step decodes one of its own, free to change.
type record struct {
	Admissions uint64 // number of the last admission
	Logins     []login
	Tombstones packed // of tombstone
	Devices    []device
	Recent     packed     // of recent
	Pace       int64      // see step.pace; Unix milliseconds
	Evictions  []eviction // of the last minute, oldest first
	Ban        *ban       // nobody may log in

	size int // of what it was decoded from
}

// recent is one line of the account's log of logins and ends.
type recent struct {
	Login    event.LoginID
	Device   event.DeviceID
	Platform event.Platform
	Name     string
	IP       string
	Reason   event.Reason // why it ended; empty: it was admitted
	At       int64
}

// login is one admission that has not ended.
type login struct {
	ID          event.LoginID
	Device      event.DeviceID
	Incarnation event.Incarnation
	Platform    event.Platform
	Admission   uint64
	At          int64 // Unix milliseconds
	Seen        int64 // last known contact, Unix milliseconds
	Slot        bool
	Primary     bool         // its device is the primary one
	Node        event.NodeID // among several: where it is attached; empty: nowhere
	Lease       uint64       // of that node
	Left        int64        // among several: when its last connection ended; 0: it had none
	// Before are nodes that it was taken over from, newest last, the last time at Moved: they may not know it yet.
	Before      []event.NodeID
	Moved       int64
	Moves       uint64 // among several: how often connections on two nodes have displaced each other in turns
	MovedAt     int64  // when that was last
	Description Description
	DescribedAt int64 // when the description was renewed last; 0: never
	Token       digest
	TokenAt     int64   // when the token was confirmed
	TokenStore  uint32  // incarnation of the store in which the token was issued
	Nonce       *nonce  // the token is the successor of the one before under this nonce; nil: nobody needs to know any more
	Issued      *issued // not yet confirmed
	Replaced    marks   // confirmed once, then replaced, oldest first: their use ends the login
}

// issued is a token that was handed out and not yet confirmed. It is the successor of the login's token under the nonce.
type issued struct {
	Token digest
	Nonce nonce
	Store uint32 // as login.TokenStore
}

// tombstone is what is left of an ended login.
type tombstone struct {
	Login  event.LoginID
	Device event.DeviceID
	Tokens marks
	Closed closedRecord
	Node   event.NodeID // the engine that has ended it
	Until  int64
	// Served are the nodes, among several, that may have had a connection of it at its end, which was at At.
	Served []event.NodeID
	At     int64
}

// closedRecord is event.Closed on disk.
type closedRecord struct {
	Reason event.Reason
	Note   string
	Cause  *event.Cause
	Retry  event.Retry
}

// device is one installed client.
type device struct {
	ID          event.DeviceID
	Incarnation event.Incarnation
	First       int64 // when it was registered, Unix milliseconds; 0: not known
	Primary     bool  // policy protects it
	Seen        int64
	Parked      *parked // entries that it does not get
}

// fit encodes the record in at most limit bytes. If it has to, it drops the oldest lines of the log, then the oldest
// replaced tokens (but never a login's last), then the oldest tombstones. It reports whether that was possible.
func (r *record) fit(limit int) (data []byte, ok bool) {
	for {
		data = r.encode()
		if len(data) <= limit {
			return data, true
		}
		if n := len(r.Evictions); n > 0 {
			r.Evictions = slices.Delete(r.Evictions, 0, (n+1)/2)
			continue
		}
		if n := r.Recent.count; n > 0 {
			r.Recent.limit(n / 2)
			continue
		}
		if r.dropReplaced() {
			continue
		}
		n := r.Tombstones.count
		if n == 0 {
			return data, false
		}
		r.Tombstones.limit(n - (n+7)/8)
	}
}

// dropReplaced forgets the older half of each login's replaced tokens, but never the last one. It reports whether there
// was anything to forget.
func (r *record) dropReplaced() bool {
	more := false
	for i := range r.Logins {
		l := &r.Logins[i]
		if n := l.Replaced.count(); n > 1 {
			l.Replaced, more = l.Replaced.last(n-n/2), true
		}
	}
	return more
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
	for item := range r.Tombstones.all() {
		if tombstoneIs(item, id) {
			d := decoder{rest: string(item)}
			t := d.tombstone()
			return &t
		}
	}
	return nil
}

// attachedBefore reports whether other nodes know that the login had a connection since it got its slot.
func (l *login) attachedBefore() bool { return l.Node != "" || l.Left != 0 }

// registered returns since when the login's device is known, in Unix milliseconds; 0: for longer than anybody knows.
func (r *record) registered(l *login) int64 {
	if d := r.device(l.Device); d != nil {
		return d.First
	}
	return l.At
}

// own reports whether the login's device exists only as long as the login, since it came without a device ID.
func (l *login) own() bool { return string(l.Device) == string(l.ID) }

// lastTombstone returns the tombstone of the device's login that ended last, or nil.
func (r *record) lastTombstone(id event.DeviceID) *tombstone {
	var last *tombstone
	for item := range r.Tombstones.all() {
		d := decoder{rest: string(item)}
		if t := d.tombstone(); t.Device == id {
			last = &t
		}
	}
	return last
}

func (l *login) cause() *event.Cause {
	return &event.Cause{Login: l.ID, Device: l.Device, Platform: l.Platform, Name: l.Description.Name}
}

// remove takes a login out and leaves the tombstone, with the login's ID and tokens. A device that exists only for this
// login goes with it: its incarnation is returned, so that its cursor can be dropped; 0 otherwise.
func (r *record) remove(id event.LoginID, t tombstone) event.Incarnation {
	i := slices.IndexFunc(r.Logins, func(l login) bool { return l.ID == id })
	if i < 0 {
		return 0
	}
	l := r.Logins[i]
	r.Logins = slices.Delete(r.Logins, i, i+1)
	t.Login, t.Device, t.Tokens = id, l.Device, l.marks()
	r.Tombstones.add(t.append(make([]byte, 0, itemBytes)))
	r.Tombstones.limit(maxTombstones)
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
	r.Recent.add(line.append(make([]byte, 0, itemBytes)))
	r.Recent.limit(maxRecent)
}

// prune drops tombstones whose time is over, as over says, and reports whether there were any.
func (r *record) prune(over func(until int64) bool) bool {
	return r.Tombstones.drop(func(item []byte) bool { return over(tombstoneUntil(item)) })
}

// oldest returns the device seen longest ago that no login uses and that is not the primary one, or nil.
func (r *record) oldest() *device {
	var oldest *device
	for i := range r.Devices {
		if d := &r.Devices[i]; r.mayGo(d) && (oldest == nil || d.Seen < oldest.Seen) {
			oldest = d
		}
	}
	return oldest
}

// mayGo reports whether no login uses the device and it is not the primary one.
func (r *record) mayGo(d *device) bool {
	return !d.Primary && !slices.ContainsFunc(r.Logins, func(l login) bool { return l.Device == d.ID })
}

// recordOf keeps apart what a record holds from what hosts are given.
func recordOf(c event.Closed) closedRecord {
	return closedRecord{Reason: c.Reason, Note: c.Note, Cause: cloneCause(c.Cause), Retry: c.Retry}
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
