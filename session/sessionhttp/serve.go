package sessionhttp

import (
	"cmp"
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

// number reads a parameter of the query.
func (c *call) number(name string, otherwise, limit uint64) (uint64, error) {
	text := c.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > limit {
		return 0, &event.InvalidError{Field: name, Reason: "not a number in range"}
	}
	return n, nil
}

func (h *Handler) logins(c *call) (any, error) {
	limit, err := c.number("limit", maxPage, maxPage)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		return nil, &event.InvalidError{Field: "limit", Reason: "0, want 1 to 64"}
	}
	after, err := c.number("after", 0, ^uint64(0))
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
	id := event.LoginID(c.PathValue("login"))
	if err := id.Validate(); err != nil {
		return "", err
	}
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

func (h *Handler) kickOne(c *call) (any, error) {
	id, err := c.loginID()
	if err != nil {
		return nil, err
	}
	res, err := h.reg.Kick(c.Context(), session.KickRequest{
		Account: c.account, Logins: []event.LoginID{id}, By: c.self, Note: c.URL.Query().Get("note"),
	})
	switch {
	case err != nil:
		return nil, err
	case !res[0].Ended:
		return nil, session.ErrNotFound
	}
	return nil, nil
}

// kickBody says which logins end. Exactly one of the first four is given.
type kickBody struct {
	Logins   []event.LoginID `json:"logins"`
	All      bool            `json:"all"`
	Others   event.LoginID   `json:"others"`
	Platform event.Platform  `json:"platform"`
	Note     string          `json:"note"`
	Reason   event.Reason    `json:"reason"`
	// KeepCredential: the host's revoke hook is not called.
	KeepCredential bool `json:"keep_credential"`
}

// ownReasons are those that a login may give for ending others of its account: the rest is the host's word.
var ownReasons = []event.Reason{"", event.KickedSelf, event.PasswordChanged}

type kicked struct {
	Login  event.LoginID `json:"login"`
	Ended  bool          `json:"ended"`
	Denied string        `json:"denied,omitempty"`
}

type kickResults struct {
	Results []kicked `json:"results"`
}

func (h *Handler) kick(c *call) (any, error) {
	var b kickBody
	if err := c.read(&b); err != nil {
		return nil, err
	}
	if len(b.Logins) > maxPage {
		return nil, &event.InvalidError{Field: "logins", Reason: "more than an account can have"}
	}
	if c.self != "" && !slices.Contains(ownReasons, b.Reason) {
		return nil, &event.InvalidError{Field: "reason", Reason: "not one that an own device may give"}
	}
	res, err := h.reg.Kick(c.Context(), session.KickRequest{
		Account: c.account, Logins: b.Logins, All: b.All, Others: b.Others, Platform: b.Platform, Note: b.Note, Reason: b.Reason,
		By: c.self, KeepCredential: b.KeepCredential,
	})
	if err != nil {
		return nil, err
	}
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
	return nil, h.reg.RemoveDevice(c.Context(), session.RemoveDeviceRequest{
		Account: c.account, Device: event.DeviceID(c.PathValue("device")), By: c.self, Note: c.URL.Query().Get("note"),
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

type banBody struct {
	Until time.Time `json:"until"`
	Note  string    `json:"note"`
}

func (h *Handler) ban(c *call) (any, error) {
	var b banBody
	if err := c.read(&b); err != nil {
		return nil, err
	}
	_, err := h.reg.Ban(c.Context(), session.BanRequest{Account: c.account, Until: b.Until, Note: b.Note})
	return nil, err
}

func (h *Handler) unban(c *call) (any, error) { return nil, h.reg.Unban(c.Context(), c.account) }

func (h *Handler) deleteAccount(c *call) (any, error) {
	q := c.URL.Query()
	refuse := q.Get("refuse")
	if refuse != "" && refuse != "true" && refuse != "false" {
		return nil, &event.InvalidError{Field: "refuse", Reason: "want true or false"}
	}
	_, err := h.reg.DeleteAccount(c.Context(), session.DeleteRequest{
		Account: c.account, Refuse: refuse == "true", Note: q.Get("note"),
	})
	return nil, err
}
