package sessionhttp

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

const maxPage = 64

// login is session.Session as it is shown.
type login struct {
	Login       event.LoginID  `json:"login"`
	Address     string         `json:"address"`
	Device      event.DeviceID `json:"device"`
	Platform    event.Platform `json:"platform"`
	Name        string         `json:"name,omitempty"`
	Model       string         `json:"model,omitempty"`
	OS          string         `json:"os,omitempty"`
	AppVersion  string         `json:"app_version,omitempty"`
	IP          string         `json:"ip,omitempty"`
	Extension   []byte         `json:"extension,omitempty"`
	Admission   string         `json:"admission"`
	LoggedInAt  time.Time      `json:"logged_in_at"`
	LastSeen    time.Time      `json:"last_seen"`
	State       session.State  `json:"state"`
	Node        event.NodeID   `json:"node,omitempty"`
	Self        bool           `json:"self"`
	Primary     bool           `json:"primary"`
	Incarnation string         `json:"incarnation"`
}

func show(s session.Session) login {
	d := s.Description
	return login{
		Login: s.Login, Address: event.Address{Account: s.Account, Login: s.Login}.String(), Device: s.Device,
		Platform: s.Platform, Name: d.Name, Model: d.Model, OS: d.OS, AppVersion: d.AppVersion, IP: d.IP,
		Extension: d.Extension, Admission: strconv.FormatUint(s.Admission, 10), LoggedInAt: s.LoggedInAt.UTC(),
		LastSeen: s.LastSeen.UTC(), State: s.State, Node: s.Node, Self: s.Self, Primary: s.Primary,
		Incarnation: strconv.FormatUint(uint64(s.Incarnation), 10),
	}
}

func showAll(all []session.Session) []login {
	out := make([]login, 0, len(all))
	for _, s := range all {
		out = append(out, show(s))
	}
	return out
}

// page is a part of an account's logins.
type page struct {
	Logins []login `json:"logins"`
	Next   string  `json:"next,omitempty"` // after of the next page; absent: this was the last
}

func (h *Handler) logins(c *call) (any, error) {
	limit, err := c.number("limit", maxPage, 1, maxPage)
	if err != nil {
		return nil, err
	}
	after, err := c.number("after", 0, 0, math.MaxUint64)
	if err != nil {
		return nil, err
	}
	all, err := h.reg.List(c.Context(), c.account, c.self)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s session.Session) bool { return s.Admission <= after })
	var next string
	if uint64(len(all)) > limit {
		all = all[:limit]
		next = strconv.FormatUint(all[limit-1].Admission, 10)
	}
	return page{Logins: showAll(all), Next: next}, nil
}

// loginID reads the login in the path.
func (c *call) loginID() (event.LoginID, error) {
	id, err := event.LoginID(c.values["login"]).Of(c.account)
	if err != nil {
		return "", err
	}
	c.target = string(id)
	return id, nil
}

func (h *Handler) login(c *call) (any, error) {
	id, err := c.loginID()
	if err != nil {
		return nil, err
	}
	s, err := h.reg.Get(c.Context(), c.account, id)
	if err != nil {
		return nil, err
	}
	s.Self = id == c.self
	return show(s), nil
}

// note keeps for the audit trail what a kick came to.
func (c *call) note(res []session.KickResult) {
	for _, k := range res {
		if k.Ended {
			c.ended = append(c.ended, k.Login)
		}
	}
	c.nothing = len(c.ended) == 0
}

// noteEnded is note for what ends all logins.
func (c *call) noteEnded(all []session.Ended) {
	for _, e := range all {
		c.ended = append(c.ended, e.Session.Login)
	}
}

func (h *Handler) kickOne(c *call) (any, error) {
	id, err := c.loginID()
	if err != nil {
		return nil, err
	}
	res, err := h.reg.Kick(c.Context(), session.KickRequest{
		Account: c.account, Logins: []event.LoginID{id}, By: c.self, Note: c.query["note"],
	})
	switch {
	case err != nil:
		return nil, err
	case !res[0].Ended:
		return nil, session.ErrNotFound
	}
	c.note(res)
	return nil, nil
}

// ownReasons are those that a login may give for ending others of its account: the rest is the host's word.
var ownReasons = []event.Reason{"", event.KickedSelf, event.PasswordChanged}

// kickBody reads which logins end. Of logins, all, others and platform, exactly one is given.
func (c *call) kickBody() (session.KickRequest, error) {
	q := session.KickRequest{Account: c.account, By: c.self}
	m := c.body
	logins, err1 := m.texts("logins")
	all, err2 := m.flag("all")
	others, err3 := m.text("others")
	platform, err4 := m.text("platform")
	note, err5 := m.text("note")
	reason, err6 := m.text("reason")
	keep, err7 := m.flag("keep_credential") // the host's revoke hook is not called
	if err := cmp.Or(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return q, err
	}
	ways := 0
	for _, w := range []struct {
		name   string
		empty  bool
		target string
	}{
		{"logins", len(logins) == 0, "logins"}, {"all", !all, "all"}, {"others", others == "", "others " + others},
		{"platform", platform == "", "platform " + platform},
	} {
		if _, given := m[w.name]; !given {
			continue
		}
		if w.empty { // a value that was not filled in, by mistake
			return q, &event.InvalidError{Field: w.name, Reason: "empty; leave it out if it is not meant"}
		}
		ways++
		c.target = event.CleanName(w.target) // it was not checked yet
	}
	if ways != 1 {
		c.target = ""
		return q, &event.InvalidError{Field: "logins", Reason: "want exactly one of logins, all, others and platform"}
	}
	if len(logins) > maxPage {
		return q, &event.InvalidError{Field: "logins", Reason: "more than an account can have"}
	}
	if c.self != "" && !slices.Contains(ownReasons, event.Reason(reason)) {
		return q, &forbiddenError{"reason", "not one that an own device may give"}
	}
	if c.self != "" && keep {
		return q, &forbiddenError{"keep_credential", "for the host alone"}
	}
	for _, id := range logins {
		q.Logins = append(q.Logins, event.LoginID(id))
	}
	q.All, q.Others, q.Platform, q.Note = all, event.LoginID(others), event.Platform(platform), note
	q.Reason, q.KeepCredential = event.Reason(reason), keep
	return q, nil
}

type kicked struct {
	Login  event.LoginID `json:"login"`
	Ended  bool          `json:"ended"`
	Denied string        `json:"denied,omitempty"`
}

type kickResults struct {
	Results []kicked `json:"results"`
}

func (h *Handler) kick(c *call) (any, error) {
	q, err := c.kickBody()
	if err != nil {
		return nil, err
	}
	res, err := h.reg.Kick(c.Context(), q)
	if err != nil {
		return nil, err
	}
	c.note(res)
	out := kickResults{Results: make([]kicked, 0, len(res))}
	for _, k := range res {
		out.Results = append(out.Results, kicked{k.Login, k.Ended, string(k.Denied)})
	}
	return out, nil
}

type device struct {
	Device      event.DeviceID `json:"device"`
	Incarnation string         `json:"incarnation"`
}

type deviceList struct {
	Devices []device `json:"devices"`
}

func (h *Handler) devices(c *call) (any, error) {
	all, err := h.reg.Devices(c.Context(), c.account)
	if err != nil {
		return nil, err
	}
	out := deviceList{Devices: make([]device, 0, len(all))}
	for id, inc := range all {
		out.Devices = append(out.Devices, device{id, strconv.FormatUint(uint64(inc), 10)})
	}
	slices.SortFunc(out.Devices, func(a, b device) int { return cmp.Compare(a.Device, b.Device) })
	return out, nil
}

func (h *Handler) removeDevice(c *call) (any, error) {
	id := event.DeviceID(c.values["device"])
	if err := id.Validate(); err != nil {
		return nil, err
	}
	c.target = string(id)
	return nil, h.reg.RemoveDevice(c.Context(), session.RemoveDeviceRequest{
		Account: c.account, Device: id, By: c.self, Note: c.query["note"],
	})
}

type presence struct {
	State  session.State `json:"state"`
	Logins []login       `json:"logins"`
}

func (h *Handler) presence(c *call) (any, error) {
	p, err := h.reg.Presence(c.Context(), c.account)
	if err != nil {
		return nil, err
	}
	for i := range p.Devices {
		p.Devices[i].Self = c.self != "" && p.Devices[i].Login == c.self
	}
	return presence{State: p.State, Logins: showAll(p.Devices)}, nil
}

// line is one line of the log of logins and ends.
type line struct {
	Login    event.LoginID  `json:"login"`
	Device   event.DeviceID `json:"device"`
	Platform event.Platform `json:"platform"`
	Name     string         `json:"name,omitempty"`
	IP       string         `json:"ip,omitempty"`
	Ended    event.Reason   `json:"ended,omitempty"` // absent: it was admitted
	Time     time.Time      `json:"time"`
}

type recentList struct {
	Recent []line `json:"recent"`
}

func (h *Handler) recent(c *call) (any, error) {
	all, err := h.reg.Recent(c.Context(), c.account)
	if err != nil {
		return nil, err
	}
	out := recentList{Recent: make([]line, 0, len(all))}
	for _, e := range all {
		out.Recent = append(out.Recent, line{e.Login, e.Device, e.Platform, e.Name, e.IP, e.Reason, e.Time.UTC()})
	}
	return out, nil
}

type ban struct {
	Since  time.Time    `json:"since"`
	Until  *time.Time   `json:"until,omitempty"` // absent: for good
	Reason event.Reason `json:"reason"`
	Note   string       `json:"note,omitempty"`
}

func (h *Handler) readBan(c *call) (any, error) {
	b, err := h.reg.Banned(c.Context(), c.account)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, session.ErrNotFound
	}
	out := ban{Since: b.Since.UTC(), Reason: b.Reason, Note: b.Note}
	if !b.Until.IsZero() {
		until := b.Until.UTC()
		out.Until = &until
	}
	return out, nil
}

func (h *Handler) ban(c *call) (any, error) {
	until, err := c.body.time("until")
	if err != nil {
		return nil, err
	}
	// The year 1 does not mean that the ban never ends. All other times the registry compares with its clock.
	if _, given := c.body["until"]; given && until.IsZero() {
		return nil, &event.InvalidError{Field: "until", Reason: "is over already"}
	}
	note, err := c.body.text("note")
	if err != nil {
		return nil, err
	}
	ended, err := h.reg.Ban(c.Context(), session.BanRequest{Account: c.account, Until: until, Note: note})
	c.noteEnded(ended)
	return nil, err
}

func (h *Handler) unban(c *call) (any, error) { return nil, h.reg.Unban(c.Context(), c.account) }

func (h *Handler) deleteAccount(c *call) (any, error) {
	refuse, err := c.body.flag("refuse")
	if err != nil {
		return nil, err
	}
	note, err := c.body.text("note")
	if err != nil {
		return nil, err
	}
	ended, err := h.reg.DeleteAccount(c.Context(), session.DeleteRequest{Account: c.account, Refuse: refuse, Note: note})
	c.noteEnded(ended)
	return nil, err
}
