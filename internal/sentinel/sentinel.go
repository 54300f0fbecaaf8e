// Package sentinel makes errors that hosts compare with errors.Is, and that know what a client is to be told.
package sentinel

import "github.com/manydevice/manydevice/event"

// known is an error without data.
type known struct {
	text   string
	reason event.Reason
}

// New returns an error that equals only itself. reason is what to tell a client whose login or connection failed with it.
func New(reason event.Reason, text string) error { return &known{text: text, reason: reason} }

func (e *known) Error() string { return e.text }

// Closed returns the reason with its default advice. How long to wait is left to [event.ClosedOf].
func (e *known) Closed() event.Closed { return e.reason.Closed(0) }
