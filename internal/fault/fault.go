// Package fault words errors as their caller knows things: by the call that failed and the field that is wrong.
package fault

import (
	"errors"
	"fmt"
	"strings"

	"github.com/manydevice/manydevice/event"
)

// called is an error with the call that failed.
type called struct {
	pkg, call string
	err       error
}

// In puts the package and the call in front of an error; nil stays nil. It is meant for a defer in an exported call:
//
//	func (r *Router) Send(…) (_ SendResult, err error) {
//		defer fault.In("fanout", "send", &err)
//
// What an inner function has put in front already is not repeated, and the package is named once.
func In(pkg, call string, err *error) {
	if *err != nil {
		*err = &called{pkg: pkg, call: call, err: *err}
	}
}

func (e *called) Error() string {
	head, text := e.pkg+": ", e.err.Error()
	if _, after, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(after, e.call+": ") { // one package calls the other
		text = after
	}
	for _, said := range []string{head, e.call + ": ", head} { // the last is the other package's answer in this one's words
		text = strings.TrimPrefix(text, said)
	}
	return head + e.call + ": " + strings.ReplaceAll(text, ": "+head, ": ")
}

func (e *called) Unwrap() error { return e.err }

// Field gives an [*event.InvalidError] the name that the field has for the caller, such as "Origin" for a login ID. Other
// errors stay as they are.
func Field(name string, err error) error {
	return rename(err, func(string) string { return name })
}

// Inside puts the field that holds the wrong one in front of its name: "Description" makes "Description.Name" of "Name".
func Inside(outer string, err error) error {
	return rename(err, func(inner string) string {
		if inner == "" {
			return outer
		}
		return outer + "." + inner
	})
}

// Item is Field for one element of a list: "Targets" and 2 make "Targets[2]".
func Item(list string, i int, err error) error {
	if err == nil {
		return nil
	}
	return Field(fmt.Sprintf("%s[%d]", list, i), err)
}

func rename(err error, name func(string) string) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*event.InvalidError](err); ok {
		return &event.InvalidError{Field: name(e.Field), Reason: e.Reason}
	}
	return err
}
