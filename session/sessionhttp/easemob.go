package sessionhttp

import (
	"net/http"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// EaseMob describes the routes of EaseMob's REST interface, as its public documentation has them: under /users/{user}, GET
// resources lists the devices that are online, DELETE disconnect/{resource} takes one of them offline, and POST disconnect
// takes all offline. A resource is a login ID. Paths, envelopes and errors are EaseMob's, so that a tool that was made for
// it needs another address and nothing else; answers about something that is not there are results of false and no errors.
//
// EaseMob's addresses are https://host/{org_name}/{app_name}/users/…: mount the handler there, with Config.Prefix.
type EaseMob struct {
	// GET also takes GET disconnect for all devices, which is that vendor's verb for it. It is off by default: a GET that
	// changes something is run by crawlers, previews and retries, and by clients that follow the redirect of a router.
	GET bool
	// Organization, ApplicationName and Application stand in the envelope of answers: the org_name, the app_name, and the
	// application's UUID. Empty ones are empty there.
	Organization, ApplicationName, Application string
}

// envelope is what EaseMob's answers have around them.
type envelope struct {
	Path            string `json:"path"`
	URI             string `json:"uri"`
	Timestamp       int64  `json:"timestamp"` // Unix milliseconds
	Organization    string `json:"organization"`
	Application     string `json:"application"`
	Entities        []any  `json:"entities"`
	Action          string `json:"action"` // the method, in lower case
	Data            any    `json:"data"`
	Duration        int64  `json:"duration"` // milliseconds
	ApplicationName string `json:"applicationName"`
}

type easeMobError struct {
	Error       string `json:"error"`
	Exception   string `json:"exception"`
	Timestamp   int64  `json:"timestamp"`
	Duration    int64  `json:"duration"`
	Description string `json:"error_description"`
}

type resource struct {
	Res        event.LoginID  `json:"res"`
	DeviceUUID event.DeviceID `json:"device_uuid"`
	DeviceName string         `json:"device_name"`
}

type result struct {
	Result bool `json:"result"`
}

func (c *call) envelope(data any) envelope {
	own, now := c.h.cfg.EaseMob, time.Now()
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
	}
	return envelope{
		Path: c.below, URI: scheme + "://" + c.Host + c.requestPath(), Timestamp: now.UnixMilli(), Organization: own.Organization,
		Application: own.Application, Entities: []any{}, Action: strings.ToLower(c.Method), Data: data,
		Duration: now.Sub(c.begin).Milliseconds(), ApplicationName: own.ApplicationName,
	}
}

// easeMobCodes are EaseMob's names for the errors that it documents, by status.
var easeMobCodes = map[int]string{
	http.StatusBadRequest:            "illegal_argument",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden_op",
	http.StatusNotFound:              "service_resource_not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusRequestEntityTooLarge: "request_entity_too_large",
	http.StatusServiceUnavailable:    "service_unavailable",
	http.StatusInternalServerError:   "internal_error",
}

func (c *call) easeMobError(p problem) easeMobError {
	var text strings.Builder
	text.WriteString(p.Title)
	for _, more := range []string{p.Field, p.Detail, p.Cause} {
		if more != "" {
			text.WriteString(" " + more)
		}
	}
	now := time.Now()
	return easeMobError{
		Error: easeMobCodes[p.Status], Exception: p.Code, Timestamp: now.UnixMilli(), Duration: now.Sub(c.begin).Milliseconds(),
		Description: text.String(),
	}
}

func (h *Handler) resources(c *call) (any, error) {
	all, err := h.reg.List(c.Context(), c.account, c.self)
	if err != nil {
		return nil, err
	}
	out := make([]resource, 0, len(all))
	for _, s := range all {
		if s.State == session.Online || s.State == session.Away {
			out = append(out, resource{s.Login, s.Device, s.Description.Name})
		}
	}
	return c.envelope(out), nil
}

// disconnect ends one login. What is no login of the account is not there, whatever it looks like.
func (h *Handler) disconnect(c *call) (any, error) {
	text := c.values["resource"]
	if err := event.CheckID("resource", text); err != nil {
		return nil, err
	}
	c.target = text
	id, err := event.LoginID(text).Of(c.account)
	if err != nil {
		c.nothing = true
		return c.envelope(result{}), nil
	}
	res, err := h.reg.Kick(c.Context(), session.KickRequest{Account: c.account, Logins: []event.LoginID{id}, By: c.self})
	if err != nil {
		return nil, err
	}
	c.note(res)
	return c.envelope(result{res[0].Ended}), nil
}

// disconnectAll ends all logins. The result is false if there is none, or if one is protected from the login that asks and
// stays while others end.
func (h *Handler) disconnectAll(c *call) (any, error) {
	c.target = "all"
	res, err := h.reg.Kick(c.Context(), session.KickRequest{Account: c.account, All: true, By: c.self})
	if err != nil {
		return nil, err
	}
	c.note(res)
	return c.envelope(result{len(res) > 0 && len(c.ended) == len(res)}), nil
}
