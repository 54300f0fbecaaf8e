package sessionhttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/manydevice/manydevice/event"
)

// readRequest reads the query and the body. All that is there has to be known to the route, and there once: a parameter
// that is misspelt is never one that is absent.
func (c *call) readRequest() error {
	if c.route.hasBody {
		if err := c.readQuery(nil); err != nil {
			return err
		}
		return c.readBody()
	}
	if err := c.readQuery(c.route.takes); err != nil {
		return err
	}
	return c.noBody()
}

func (c *call) readQuery(known []string) error {
	given, err := url.ParseQuery(c.URL.RawQuery) // an error also for semicolons
	if err != nil {
		return &event.InvalidError{Field: "query", Reason: "cannot be parsed"}
	}
	c.query = make(map[string]string, len(given))
	for name, values := range given {
		if !slices.Contains(known, name) {
			return &event.InvalidError{Field: "query", Reason: "has a parameter that is none of: " + listed(known)}
		}
		if len(values) != 1 {
			return &event.InvalidError{Field: name, Reason: "is there more than once"}
		}
		if !utf8.ValidString(values[0]) {
			return &event.InvalidError{Field: name, Reason: "not valid UTF-8"}
		}
		c.query[name] = values[0]
	}
	return nil
}

// listed names what a route takes.
func listed(names []string) string {
	if len(names) == 0 {
		return "nothing, since there are none here"
	}
	return strings.Join(names, ", ")
}

// number reads a parameter of the query.
func (c *call) number(name string, otherwise, least, most uint64) (uint64, error) {
	text, given := c.query[name]
	if !given {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most || strconv.FormatUint(n, 10) != text {
		return 0, &event.InvalidError{Field: name, Reason: fmt.Sprintf("not a number of %d to %d", least, most)}
	}
	return n, nil
}

// noBody refuses a body that the route would not look at.
func (c *call) noBody() error {
	if c.Body == nil || c.Body == http.NoBody || c.ContentLength == 0 {
		return nil
	}
	switch n, err := io.ReadFull(c.Body, make([]byte, 1)); {
	case n > 0:
		return bodyError("this route takes none")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return readError(err)
	}
}

// members are those of a JSON object.
type members map[string]json.RawMessage

func bodyError(reason string) error { return fmt.Errorf("%w: %s", errBody, reason) }

// readError is what a body that cannot be read to its end is answered with.
func readError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	return bodyError("it ends before its end")
}

// readBody reads a body that is one JSON object with nothing behind it. Package encoding/json by itself takes names in
// any case, the last of several members of a name, and null for anything; each of these would be an order misunderstood.
func (c *call) readBody() error {
	if media, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return errMedia
	}
	text, err := io.ReadAll(c.Body)
	if err != nil {
		return readError(err)
	}
	c.body, err = parseObject(text, c.route.takes)
	return err
}

// parseObject returns the members of a JSON object. Their names have to be known, as they are written, and there once.
func parseObject(text []byte, known []string) (members, error) {
	if !utf8.Valid(text) || !json.Valid(text) { // so that the decoder below has no fault to find
		return nil, bodyError("it is not one value of JSON in UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return nil, bodyError("it is not an object")
	}
	all := make(members)
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			return nil, bodyError("it is not an object")
		}
		if !slices.Contains(known, name) {
			return nil, bodyError("it has a member that is none of: " + listed(known))
		}
		if _, twice := all[name]; twice {
			return nil, bodyError(name + " is there more than once")
		}
		all[name] = value
	}
	return all, nil
}

// text reads a member that is a string, which may be missing.
func (m members) text(name string) (string, error) {
	var s string
	if value, given := m[name]; given {
		if value[0] != '"' || json.Unmarshal(value, &s) != nil || strings.ContainsRune(s, utf8.RuneError) {
			return "", bodyError(name + " is not a string of Unicode")
		}
	}
	return s, nil
}

// texts reads a member that is a list of strings, which may be missing.
func (m members) texts(name string) ([]string, error) {
	value, given := m[name]
	if !given {
		return nil, nil
	}
	var raw []json.RawMessage
	if value[0] != '[' || json.Unmarshal(value, &raw) != nil {
		return nil, bodyError(name + " is not a list")
	}
	all := make([]string, 0, len(raw))
	for _, v := range raw {
		s, err := members{name: v}.text(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// flag reads a member that is true or false, which may be missing.
func (m members) flag(name string) (bool, error) {
	switch value, given := m[name]; {
	case !given, string(value) == "false":
		return false, nil
	case string(value) == "true":
		return true, nil
	}
	return false, bodyError(name + " is neither true nor false")
}

// time reads a member that is a time (RFC 3339), which may be missing: the zero time.
func (m members) time(name string) (time.Time, error) {
	s, err := m.text(name)
	if _, given := m[name]; err != nil || !given {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, bodyError(name + " is not a time of RFC 3339")
	}
	return at, nil
}
