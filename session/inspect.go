package session

import (
	"context"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/fault"
)

// Inspection is what is known of an account's logins and devices, for people who look into a problem. It marshals to
// JSON, and holds neither tokens nor digests of them. Its bounds are those of the account's record.
type Inspection struct {
	Logins     []LoginView     `json:"logins"` // earliest first
	Devices    []DeviceView    `json:"devices"`
	Tombstones []TombstoneView `json:"tombstones"` // oldest first
	Recent     []RecentView    `json:"recent"`     // newest first
	Ban        *BanView        `json:"ban,omitempty"`
}

// LoginView is one login. See [Session].
type LoginView struct {
	Login          event.LoginID     `json:"login"`
	Device         event.DeviceID    `json:"device"`
	Incarnation    event.Incarnation `json:"incarnation,string"`
	Platform       event.Platform    `json:"platform"`
	State          State             `json:"state"`
	Node           event.NodeID      `json:"node,omitempty"`
	Admission      uint64            `json:"admission,string"`
	LoggedInAt     time.Time         `json:"loggedInAt"`
	LastSeen       time.Time         `json:"lastSeen"`
	Primary        bool              `json:"primary,omitempty"`
	Name           string            `json:"name,omitempty"`
	Model          string            `json:"model,omitempty"`
	OS             string            `json:"os,omitempty"`
	AppVersion     string            `json:"appVersion,omitempty"`
	IP             string            `json:"ip,omitempty"`
	ExtensionBytes int               `json:"extensionBytes,omitempty"` // its content is the host's
}

// DeviceView is one device that the account remembers.
type DeviceView struct {
	Device      event.DeviceID    `json:"device"`
	Incarnation event.Incarnation `json:"incarnation,string"`
	Primary     bool              `json:"primary,omitempty"`
	FirstSeen   time.Time         `json:"firstSeen,omitzero"` // zero: not known
	LastSeen    time.Time         `json:"lastSeen"`
	Parked      []event.Position  `json:"parked,omitempty"` // entries that the host has parked for it
}

// TombstoneView is what is left of a login that has ended.
type TombstoneView struct {
	Login    event.LoginID  `json:"login"`
	Reason   event.Reason   `json:"reason"`
	Note     string         `json:"note,omitempty"`
	Retry    event.Retry    `json:"retry"`
	By       event.LoginID  `json:"by,omitempty"`       // the login that caused it
	ByDevice event.DeviceID `json:"byDevice,omitempty"` // its device
	Until    time.Time      `json:"until"`
}

// RecentView is one line of the account's log. See [Event].
type RecentView struct {
	Login    event.LoginID  `json:"login"`
	Device   event.DeviceID `json:"device"`
	Platform event.Platform `json:"platform"`
	Name     string         `json:"name,omitempty"`
	IP       string         `json:"ip,omitempty"`
	Reason   event.Reason   `json:"reason,omitempty"` // why it ended; empty: it was admitted
	Time     time.Time      `json:"time"`
}

// BanView is why the account may not log in. See [Ban].
type BanView struct {
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until,omitzero"` // zero: for good
	Reason event.Reason `json:"reason"`
	Note   string       `json:"note,omitempty"`
}

// Inspect returns what is known of an account's logins and devices. An account that was never there has an empty
// picture. Errors: [*event.InvalidError], or the store's.
func (r *Registry) Inspect(ctx context.Context, account event.Account) (_ Inspection, err error) {
	defer fault.In("session", "inspect", &err)
	if err := account.Validate(); err != nil {
		return Inspection{}, err
	}
	rec, all, err := r.look(ctx, account, "")
	if err != nil {
		return Inspection{}, err
	}
	now := r.clock.Read()
	tombstones, lines := unpack(&rec.Tombstones, (*decoder).tombstone), unpack(&rec.Recent, (*decoder).recent)
	in := Inspection{
		Logins: make([]LoginView, 0, len(all)), Devices: make([]DeviceView, 0, len(rec.Devices)),
		Tombstones: make([]TombstoneView, 0, len(tombstones)), Recent: make([]RecentView, 0, len(lines)),
	}
	for i := range all {
		in.Logins = append(in.Logins, all[i].inspected())
	}
	for i := range rec.Devices {
		in.Devices = append(in.Devices, rec.Devices[i].inspected(now))
	}
	for i := range tombstones {
		in.Tombstones = append(in.Tombstones, tombstones[i].inspected())
	}
	for _, l := range slices.Backward(lines) {
		in.Recent = append(in.Recent, RecentView{
			Login: l.Login, Device: l.Device, Platform: l.Platform, Name: l.Name, IP: l.IP, Reason: l.Reason, Time: past(l.At, now).UTC(),
		})
	}
	if rec.Ban != nil {
		b := rec.Ban.public()
		in.Ban = &BanView{Since: past(rec.Ban.At, now).UTC(), Reason: b.Reason, Note: b.Note}
		if !b.Until.IsZero() {
			in.Ban.Until = b.Until.UTC()
		}
	}
	return in, nil
}

func (s *Session) inspected() LoginView {
	d := &s.Description
	return LoginView{
		Login: s.Login, Device: s.Device, Incarnation: s.Incarnation, Platform: s.Platform, State: s.State, Node: s.Node,
		Admission: s.Admission, LoggedInAt: s.LoggedInAt.UTC(), LastSeen: s.LastSeen.UTC(), Primary: s.Primary,
		Name: d.Name, Model: d.Model, OS: d.OS, AppVersion: d.AppVersion, IP: d.IP, ExtensionBytes: len(d.Extension),
	}
}

func (d *device) inspected(now clock.Reading) DeviceView {
	v := DeviceView{
		Device: d.ID, Incarnation: d.Incarnation, Primary: d.Primary, LastSeen: past(d.Seen, now).UTC(), Parked: d.Parked.positions(),
	}
	if d.First != 0 {
		v.FirstSeen = past(d.First, now).UTC()
	}
	return v
}

func (t *tombstone) inspected() TombstoneView {
	v := TombstoneView{
		Login: t.Login, Reason: t.Closed.Reason, Note: t.Closed.Note, Retry: t.Closed.Retry, Until: utc(t.Until),
	}
	if c := t.Closed.Cause; c != nil {
		v.By, v.ByDevice = c.Login, c.Device
	}
	return v
}

func utc(millis int64) time.Time { return time.UnixMilli(millis).UTC() }
