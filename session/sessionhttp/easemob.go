package sessionhttp

import (
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// What follows answers in the form of EaseMob's REST interface, as its public documentation describes it: the list of a
// user's online devices, forcing one of them offline, and forcing all of them offline.

type resource struct {
	Res        event.LoginID  `json:"res"`
	DeviceUUID event.DeviceID `json:"device_uuid"`
	DeviceName string         `json:"device_name"`
}

type resourceList struct {
	Data []resource `json:"data"`
}

type outcome struct {
	Data struct {
		Result bool `json:"result"`
	} `json:"data"`
}

func (h *Handler) resources(c *call) (any, error) {
	all, err := h.reg.List(c.Context(), c.account, c.self)
	if err != nil {
		return nil, err
	}
	out := resourceList{Data: make([]resource, 0, len(all))}
	for _, s := range all {
		if s.State == session.Online || s.State == session.Away {
			out.Data = append(out.Data, resource{s.Login, s.Device, s.Description.Name})
		}
	}
	return out, nil
}

func (h *Handler) disconnect(c *call) (any, error) {
	if _, err := h.kickOne(c); err != nil {
		return nil, err
	}
	var out outcome
	out.Data.Result = true
	return out, nil
}

func (h *Handler) disconnectAll(c *call) (any, error) {
	res, err := h.reg.Kick(c.Context(), session.KickRequest{Account: c.account, All: true, By: c.self})
	if err != nil {
		return nil, err
	}
	var out outcome
	out.Data.Result = true
	for _, k := range res {
		out.Data.Result = out.Data.Result && k.Ended
	}
	return out, nil
}
