package main

import (
	"context"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// listedLogin is a login as the account's own devices see it. Times are Unix milliseconds.
type listedLogin struct {
	Login      event.LoginID  `json:"login"`
	Device     event.DeviceID `json:"device"`
	Platform   event.Platform `json:"platform"`
	Name       string         `json:"name,omitempty"`
	Model      string         `json:"model,omitempty"`
	OS         string         `json:"os,omitempty"`
	App        string         `json:"app,omitempty"`
	IP         string         `json:"ip,omitempty"`
	State      session.State  `json:"state"`
	Admission  uint64         `json:"admission,string"`
	LoggedInAt int64          `json:"loggedInAt,string"`
	LastSeen   int64          `json:"lastSeen,string"`
	Self       bool           `json:"self,omitempty"`
}

func listed(s *session.Session) listedLogin {
	d := s.Description
	return listedLogin{
		Login: s.Login, Device: s.Device, Platform: s.Platform, Name: d.Name, Model: d.Model, OS: d.OS, App: d.AppVersion,
		IP: d.IP, State: s.State, Admission: s.Admission, LoggedInAt: s.LoggedInAt.UnixMilli(), LastSeen: s.LastSeen.UnixMilli(),
		Self: s.Self,
	}
}

// endedLogin is a login that had to make room.
type endedLogin struct {
	Login    event.LoginID  `json:"login"`
	Device   event.DeviceID `json:"device"`
	Platform event.Platform `json:"platform"`
	Name     string         `json:"name,omitempty"`
	Reason   event.Reason   `json:"reason"`
}

func endedLogins(all []session.Ended) []endedLogin {
	list := make([]endedLogin, 0, len(all))
	for _, e := range all {
		list = append(list, endedLogin{
			Login: e.Session.Login, Device: e.Session.Device, Platform: e.Session.Platform, Name: e.Session.Description.Name,
			Reason: e.Closed.Reason,
		})
	}
	return list
}

// plainRequest is a request without fields of its own.
type plainRequest struct{ envelope }

type listAnswer struct {
	Logins []listedLogin `json:"logins"`
}

func (g *guest) list(ctx context.Context, _ *plainRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	all, err := g.s.engine.Sessions.List(ctx, g.account, g.login)
	if err != nil {
		return nil, err
	}
	a := listAnswer{Logins: make([]listedLogin, 0, len(all))}
	for i := range all {
		a.Logins = append(a.Logins, listed(&all[i]))
	}
	return a, nil
}

type peersAnswer struct {
	Peers []peer `json:"peers"`
}

type peer struct {
	Address  string         `json:"address"`
	Login    event.LoginID  `json:"login"`
	Device   event.DeviceID `json:"device"`
	Platform event.Platform `json:"platform"`
	Name     string         `json:"name,omitempty"`
	State    session.State  `json:"state"`
}

func (g *guest) peers(ctx context.Context, _ *plainRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	all, err := g.s.engine.Sessions.Peers(ctx, g.account, g.login)
	if err != nil {
		return nil, err
	}
	a := peersAnswer{Peers: make([]peer, 0, len(all))}
	for _, p := range all {
		a.Peers = append(a.Peers, peer{
			Address: p.Address.String(), Login: p.Address.Login, Device: p.Device, Platform: p.Platform, Name: p.Name, State: p.State,
		})
	}
	return a, nil
}

// kickRequest ends logins of the account: the listed ones, all, or all but the one that asks.
type kickRequest struct {
	envelope
	Logins []event.LoginID `json:"logins,omitempty"`
	All    bool            `json:"all,omitempty"`
	Others bool            `json:"others,omitempty"`
	Note   string          `json:"note,omitempty"`
}

type kickAnswer struct {
	Results []kickResult `json:"results"`
}

type kickResult struct {
	Login event.LoginID `json:"login"`
	Ended bool          `json:"ended"`
}

func (g *guest) kick(ctx context.Context, q *kickRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	kick := session.KickRequest{
		Account: g.account, Logins: q.Logins, All: q.All, Note: q.Note, Reason: event.KickedSelf,
	}
	if g.att != nil {
		kick.By = g.login // others learn which device it was
	}
	if q.Others {
		if g.att == nil {
			return nil, errNotAttached
		}
		kick.Others = g.login
	}
	all, err := g.s.engine.Sessions.Kick(ctx, kick)
	if err != nil {
		return nil, err
	}
	a := kickAnswer{Results: make([]kickResult, 0, len(all))}
	for _, r := range all {
		a.Results = append(a.Results, kickResult{Login: r.Login, Ended: r.Ended})
	}
	return a, nil
}

func (g *guest) logOut(ctx context.Context, _ *plainRequest) (any, error) {
	if g.login == "" {
		return nil, errNotAttached
	}
	if err := g.s.engine.Sessions.Logout(ctx, g.account, g.login); err != nil {
		return nil, err
	}
	g.login, g.token = "", event.ResumeToken{}
	return nothing{}, nil
}

type removeDeviceRequest struct {
	envelope
	Device event.DeviceID `json:"device"`
}

func (g *guest) removeDevice(ctx context.Context, q *removeDeviceRequest) (any, error) {
	if g.account == "" {
		return nil, errNotAuthenticated
	}
	if err := g.s.engine.Sessions.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: g.account, Device: q.Device}); err != nil {
		return nil, err
	}
	return nothing{}, nil
}
