package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// FrameFault says in which way a frame is wrong.
type FrameFault string

const (
	FaultSize   FrameFault = "size"   // longer than a frame may be
	FaultSyntax FrameFault = "syntax" // not one JSON object in valid UTF-8
	FaultType   FrameFault = "type"   // the field "t" is missing or names no frame of this direction
	FaultField  FrameFault = "field"  // a field is missing, there twice, or unknown where that matters
	FaultValue  FrameFault = "value"  // a field holds what it may not
)

// FrameError reports a frame that was refused. It never holds anything of the frame's content.
type FrameError struct {
	Type   string     // name of the frame; empty: not known
	Fault  FrameFault // in which way it is wrong
	Reason string     // for people
}

func (e *FrameError) Error() string {
	if e.Type == "" {
		return "frame: " + e.Reason
	}
	return e.Type + " frame: " + e.Reason
}

// valueError turns the finding of a check into a FrameError.
func valueError(frame string, err error) *FrameError {
	return &FrameError{Type: frame, Fault: FaultValue, Reason: err.Error()}
}

// decoder reads one frame. The first fault is kept; whatever is read after it does not matter.
type decoder struct {
	frame  string
	strict bool // unknown fields are refused
	err    *FrameError
}

func (d *decoder) fail(fault FrameFault, reason string) {
	if d.err == nil {
		d.err = &FrameError{Type: d.frame, Fault: fault, Reason: reason}
	}
}

// object is one JSON object of a frame.
type object struct {
	d       *decoder
	members []member
}

type member struct {
	name  string
	raw   []byte
	taken bool
}

// newDecoder checks b as a whole and returns its outermost object.
func newDecoder(b []byte, limit int, strict bool) (*decoder, *object) {
	d := &decoder{strict: strict}
	switch {
	case len(b) > limit:
		d.fail(FaultSize, strconv.Itoa(len(b))+" bytes, at most "+strconv.Itoa(limit))
	case !utf8.Valid(b):
		d.fail(FaultSyntax, "not valid UTF-8")
	case !json.Valid(b):
		d.fail(FaultSyntax, "not one JSON value")
	}
	if d.err != nil {
		return d, nil
	}
	b = bytes.TrimSpace(b)
	if b[0] != '{' {
		d.fail(FaultSyntax, "not a JSON object")
		return d, nil
	}
	return d, d.object(b)
}

// object splits a valid JSON object into its members.
func (d *decoder) object(raw []byte) *object {
	o := &object{d: d}
	for at := skipSpace(raw, 1); raw[at] != '}'; {
		end := skipValue(raw, at)
		name, ok := unquote(raw[at:end])
		if !ok {
			d.fail(FaultField, "a field's name is not valid Unicode")
			return o
		}
		at = skipSpace(raw, skipSpace(raw, end)+1) // past the colon
		end = skipValue(raw, at)
		o.members = append(o.members, member{name: name, raw: raw[at:end]})
		if at = skipSpace(raw, end); raw[at] == ',' {
			at = skipSpace(raw, at+1)
		}
	}
	return o
}

// skipSpace returns the index of the first byte from at on that is no JSON white space.
func skipSpace(raw []byte, at int) int {
	for at < len(raw) && (raw[at] == ' ' || raw[at] == '\t' || raw[at] == '\n' || raw[at] == '\r') {
		at++
	}
	return at
}

// skipValue returns the index behind the value that begins at at. The JSON around it is known to be valid.
func skipValue(raw []byte, at int) int {
	depth := 0
	for ; at < len(raw); at++ {
		switch raw[at] {
		case '"':
			for at++; raw[at] != '"'; at++ {
				if raw[at] == '\\' {
					at++
				}
			}
			if depth == 0 {
				return at + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return at
			}
			if depth--; depth == 0 {
				return at + 1
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return at
			}
		}
	}
	return at
}

// unquote returns what a valid JSON string stands for, or false if it holds half of a surrogate pair.
func unquote(raw []byte) (string, bool) {
	raw = raw[1 : len(raw)-1]
	at := bytes.IndexByte(raw, '\\')
	if at < 0 {
		return string(raw), true
	}
	out := append(make([]byte, 0, len(raw)), raw[:at]...)
	for at < len(raw) {
		if raw[at] != '\\' {
			out = append(out, raw[at])
			at++
			continue
		}
		c := raw[at+1]
		at += 2
		switch c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, size := unescape(raw[at:])
			if size == 0 {
				return "", false
			}
			out = utf8.AppendRune(out, r)
			at += size
		default: // one of "\/
			out = append(out, c)
		}
	}
	return string(out), true
}

// unescape reads the four digits of a \u escape, and its second half if it is a surrogate pair. It returns the size 0 if
// one half is missing.
func unescape(raw []byte) (r rune, size int) {
	unit := func(b []byte) rune {
		n, err := strconv.ParseUint(string(b), 16, 16)
		if err != nil {
			return utf8.RuneError
		}
		return rune(n)
	}
	r = unit(raw[:4])
	if r < 0xD800 || r > 0xDFFF {
		return r, 4
	}
	if r > 0xDBFF || len(raw) < 10 || raw[4] != '\\' || raw[5] != 'u' {
		return 0, 0
	}
	low := unit(raw[6:10])
	if low < 0xDC00 || low > 0xDFFF {
		return 0, 0
	}
	return (r-0xD800)<<10 + (low - 0xDC00) + 0x10000, 10
}

// take returns the raw value of a field, or nil if it is missing.
func (o *object) take(name string) []byte {
	var raw []byte
	for i := range o.members {
		if m := &o.members[i]; m.name == name {
			if raw != nil {
				o.d.fail(FaultField, name+": there twice")
			}
			raw, m.taken = m.raw, true
		}
	}
	return raw
}

// need is take for a field that may not be missing.
func (o *object) need(name string) []byte {
	raw := o.take(name)
	if raw == nil {
		o.d.fail(FaultField, name+": missing")
	}
	return raw
}

// done refuses what nobody took, if unknown fields matter.
func (o *object) done() {
	if !o.d.strict {
		return
	}
	for i := range o.members {
		if !o.members[i].taken {
			o.d.fail(FaultField, "unknown field")
		}
	}
}

func (o *object) parseText(name string, raw []byte) string {
	if raw == nil {
		return ""
	}
	if raw[0] != '"' {
		o.d.fail(FaultValue, name+": want a string")
		return ""
	}
	s, ok := unquote(raw)
	if !ok {
		o.d.fail(FaultValue, name+": half of a surrogate pair")
	}
	return s
}

// text returns a string that may be missing.
func (o *object) text(name string) string { return o.parseText(name, o.take(name)) }

// id returns an identifier: 1 to 128 bytes without control characters. A missing one is empty.
func (o *object) id(name string) string {
	raw := o.take(name)
	if raw == nil {
		return ""
	}
	s := o.parseText(name, raw)
	if err := CheckID(name, s); err != nil {
		o.d.fail(FaultValue, err.Error())
	}
	return s
}

// token returns a resume token, which may be missing.
func (o *object) token(name string) (t ResumeToken) {
	if err := t.UnmarshalText([]byte(o.id(name))); err != nil {
		o.d.fail(FaultValue, err.Error())
	}
	return t
}

// needID returns an identifier that may not be missing.
func (o *object) needID(name string) string {
	if o.need(name) == nil {
		return ""
	}
	return o.id(name)
}

// name returns a text of at most 128 characters without control characters. A missing one is empty.
func (o *object) name(name string) string {
	s := o.text(name)
	if err := CheckName(name, s); err != nil {
		o.d.fail(FaultValue, err.Error())
	}
	return s
}

// key returns a coalesce key, which may be missing.
func (o *object) key(name string) string {
	s := o.text(name)
	if len(s) > maxKeyBytes {
		o.d.fail(FaultValue, name+": too long")
	}
	return s
}

func (o *object) parseNumber(name string, raw []byte, limit uint64) uint64 {
	if raw == nil {
		return 0
	}
	s := o.parseText(name, raw)
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > limit || len(s) > 1 && s[0] == '0' {
		o.d.fail(FaultValue, name+": want a decimal number in a string")
		return 0
	}
	return n
}

// number returns a number of 64 bits, which may be missing.
func (o *object) number(name string) uint64 { return o.parseNumber(name, o.take(name), math.MaxUint64) }

// needNumber returns a number of 64 bits, which may not be missing.
func (o *object) needNumber(name string) uint64 {
	return o.parseNumber(name, o.need(name), math.MaxUint64)
}

// time returns a time in Unix milliseconds; the zero time if it is missing.
func (o *object) time(name string) time.Time {
	raw := o.take(name)
	if raw == nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(o.parseNumber(name, raw, math.MaxInt64))).UTC()
}

// flag returns a truth value; false if it is missing.
func (o *object) flag(name string) bool { return o.parseFlag(name, o.take(name)) }

func (o *object) parseFlag(name string, raw []byte) bool {
	switch string(raw) {
	case "true":
		return true
	case "false", "":
	default:
		o.d.fail(FaultValue, name+": want true or false")
	}
	return false
}

// payload returns the bytes of the field "text" or "data"; nil if both are missing.
func (o *object) payload() []byte {
	text, data := o.take("text"), o.take("data")
	switch {
	case text != nil && data != nil:
		o.d.fail(FaultField, "both text and data")
	case text != nil:
		if s := o.parseText("text", text); s != "" {
			return []byte(s)
		}
	case data != nil:
		s := o.parseText("data", data)
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || strings.ContainsAny(s, "\r\n") { // the decoder skips line ends
			o.d.fail(FaultValue, "data: want padded base64")
		}
		if len(b) > 0 {
			return b
		}
	}
	return nil
}
