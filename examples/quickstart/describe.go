package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/manydevice/manydevice/event"
)

// describe says in words what an entry or a live-only event is.
func describe(e *event.Sealed) string {
	switch e.Kind {
	case event.KindMessage:
		return fmt.Sprintf("message from %s: %q", e.From, e.Payload)
	case event.KindConversationRead:
		var m event.ReadMark
		if json.Unmarshal(e.Payload, &m) == nil {
			return fmt.Sprintf("read mark: %s up to entry %d", e.Conversation, m.Seq)
		}
	case event.KindDelivered, event.KindRead:
		var r event.Receipt
		if json.Unmarshal(e.Payload, &r) == nil {
			return fmt.Sprintf("receipt: %s %s up to message %s", r.By, strings.TrimPrefix(string(e.Kind), "receipt."), short(r.Message))
		}
	case event.KindDeviceLogin, event.KindDeviceEnded, event.KindDeviceOnline, event.KindDeviceOffline:
		var c event.DeviceChange
		if json.Unmarshal(e.Payload, &c) == nil {
			s := fmt.Sprintf("notice: %s: %s on %s", e.Kind, nameOf(c.Name, c.Device), c.Platform)
			if c.Reason != "" {
				s += ", " + string(c.Reason)
			}
			return s
		}
	}
	s := fmt.Sprintf("%s from %s", e.Kind, e.From)
	if e.Conversation != "" {
		s += " in " + string(e.Conversation)
	}
	if len(e.Payload) > 0 {
		s += fmt.Sprintf(": %q", e.Payload)
	}
	return s
}

// describeClosed says in words how a connection ended.
func describeClosed(c event.Closed) string {
	s := "closed: " + string(c.Reason)
	if c.Cause != nil {
		s += " by " + nameOf(c.Cause.Name, c.Cause.Device)
	}
	if c.Note != "" {
		s += fmt.Sprintf(" (%q)", c.Note)
	}
	s += ", retry: " + string(c.Retry)
	if c.After > 0 {
		s += " " + c.After.String()
	}
	return s
}

func nameOf(name string, id event.DeviceID) string {
	if name == "" {
		return string(id)
	}
	return name
}

// short is enough of a message ID to tell it from others on a screen.
func short(id event.MessageID) string { return string(id[max(0, len(id)-6):]) }
