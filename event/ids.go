package event

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Sizes that identifiers and names may have.
const (
	MaxIDBytes       = 128 // accounts, devices, conversations, client message IDs
	MaxPlatformBytes = 32
	MaxNameRunes     = 128 // device names, models, versions
	loginIDBytes     = 32  // 160 bits in base32
	messageIDBytes   = 26  // 128 bits in base32
	resumeTokenBytes = 52  // 256 bits in base32
)

// Account is the owner of an inbox: an opaque string of the host's, 1 to 128 bytes of UTF-8 without control characters;
// see [CheckID]. A tenant is a prefix that the host chooses, and slashes are allowed: "acme/ann".
//
// An [Address] is no account: what has the form of one is refused wherever an account is meant, since it would otherwise be
// the name of a new inbox. That is exactly a slash and, behind the last one, 32 characters of lowercase base32 (a to z, 2 to
// 7) of which one at least is beyond f. A UUID or another hexadecimal number behind a slash is therefore part of an account.
type Account string

// DeviceID names one installed client. The client keeps it over logins. Same charset as [Account].
type DeviceID string

// Platform is the class of client that policy counts by, such as "ios". It is lowercase ASCII; see [ParsePlatform].
type Platform string

// LoginID names one login. It is an address that the account's other devices may see, never a credential:
// 32 characters of lowercase base32 (a to z, 2 to 7) that carry 160 random bits. Calls that ask for a login of an account
// take its [Address] as well, "account/loginID"; see [LoginID.Of].
type LoginID string

// MessageID names one message or operation in one store. It is opaque; see [Issuer].
type MessageID string

// ClientMessageID is the client's own name for a send, which makes a retry of it harmless. Same charset as [Account].
type ClientMessageID string

// ConversationID names a conversation. The host chooses it, the same one for all its members. Same charset as [Account].
type ConversationID string

// NodeID names one running engine among several over one store.
type NodeID string

// Incarnation numbers one registration of a device: a device that was removed and comes back has another one. It is
// unique within the account and never used twice. Zero is no incarnation.
type Incarnation uint64

// Epoch names one life of an inbox. Sequence numbers of different epochs cannot be compared. The high 32 bits are the
// incarnation of the store, the low 32 bits count how often the account's inbox began anew.
type Epoch uint64

// Position is a place in an inbox: everything up to and including Seq. Seq 0 is before the first entry.
type Position struct {
	Epoch Epoch  `json:"epoch,string"`
	Seq   uint64 `json:"seq,string"`
}

// InvalidError reports one input that was refused. Nothing was changed.
type InvalidError struct {
	Field  string // which input, as the caller knows it
	Reason string // what is wrong with it; never the value itself
}

func (e *InvalidError) Error() string { return "invalid " + e.Field + ": " + e.Reason }

// Validate reports whether a may name an account. The address of a login may not.
func (a Account) Validate() error {
	if err := CheckID("account", string(a)); err != nil {
		return err
	}
	if isAddress(string(a)) {
		return &InvalidError{Field: "account", Reason: "the address of a login; its account ends before the last slash"}
	}
	return nil
}

// Validate reports whether d may name a device.
func (d DeviceID) Validate() error { return CheckID("device", string(d)) }

// Validate reports whether c may name a conversation.
func (c ConversationID) Validate() error { return CheckID("conversation", string(c)) }

// Validate reports whether c may name a client's message.
func (c ClientMessageID) Validate() error { return CheckID("client message ID", string(c)) }

// Validate reports whether l has the form of a login ID.
func (l LoginID) Validate() error {
	if !isBase32(string(l), loginIDBytes) {
		return &InvalidError{Field: "login ID", Reason: "want 32 characters of lowercase base32"}
	}
	return nil
}

// Of returns the login of an account that is meant: l itself, or that of its address "account/loginID". An [*InvalidError] if
// l has neither form, or is the address of a login of another account. Whether there is such a login is another question.
func (l LoginID) Of(a Account) (LoginID, error) {
	err := l.Validate()
	if err == nil {
		return l, nil
	}
	at, bad := ParseAddress(string(l))
	switch {
	case bad != nil:
		return "", err
	case at.Account != a:
		return "", &InvalidError{Field: "login ID", Reason: "the address of a login of another account"}
	}
	return at.Login, nil
}

// CheckID reports whether s may be an identifier: 1 to 128 bytes of valid UTF-8 without control or bidirectional
// override characters, of which no part between slashes is "." or "..". It is the one check of every identifier that a
// client or a host chooses: accounts, devices, conversations, client message IDs, tabs, nodes, keys. The error is an
// [*InvalidError] with the given field.
//
// Dots are refused because identifiers stand in the paths of URLs and files, where software on the way takes a part of
// dots for a step up and then acts on something else (RFC 3986, section 5.2.4). Encoding does not help against software
// that decodes first.
func CheckID(field, s string) error {
	if s == "" {
		return &InvalidError{Field: field, Reason: "empty"}
	}
	if len(s) > MaxIDBytes {
		return &InvalidError{Field: field, Reason: fmt.Sprintf("%d bytes, at most %d", len(s), MaxIDBytes)}
	}
	if hasDots(s) {
		return &InvalidError{Field: field, Reason: `"." or "..", alone or between slashes`}
	}
	return CheckText(field, s)
}

// hasDots reports whether a part of s between slashes is "." or "..".
func hasDots(s string) bool {
	if strings.IndexByte(s, '.') < 0 {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

// CheckName reports whether s may be shown to people: at most 128 runes of valid UTF-8 without control or bidirectional
// override characters; empty is allowed. The error is an [*InvalidError] with the given field. It is for short texts of the
// protocol that have to stay as they are, such as the nonce of a ping. [CleanName] makes any text pass.
func CheckName(field, s string) error {
	if n := utf8.RuneCountInString(s); n > MaxNameRunes {
		return &InvalidError{Field: field, Reason: fmt.Sprintf("%d characters, at most %d", n, MaxNameRunes)}
	}
	return CheckText(field, s)
}

// CheckText reports whether s is valid UTF-8 without control or bidirectional override characters, of any length. The
// error is an [*InvalidError] with the given field.
func CheckText(field, s string) error {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return checkRunes(field, s)
		}
	}
	return nil
}

func checkRunes(field, s string) error {
	if !utf8.ValidString(s) {
		return &InvalidError{Field: field, Reason: "not valid UTF-8"}
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return &InvalidError{Field: field, Reason: fmt.Sprintf("control character %U", r)}
		}
		if isBidiControl(r) {
			return &InvalidError{Field: field, Reason: fmt.Sprintf("bidirectional control %U", r)}
		}
	}
	return nil
}

// isBidiControl reports the characters that embed, override or isolate text direction. They let one name look like
// another. Source: Unicode Standard Annex 9, section 2; the plain marks (200E, 200F, 061C) are harmless and allowed.
func isBidiControl(r rune) bool {
	return r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069
}

func isBase32(s string, length int) bool {
	if len(s) != length {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// ParsePlatform lowers s to ASCII lowercase and checks it: 1 to 32 characters out of a to z, 0 to 9, '.', '_' and '-',
// but not "." or "..". Whether the platform is known is a matter of policy.
func ParsePlatform(s string) (Platform, error) {
	if s == "" || len(s) > MaxPlatformBytes {
		return "", &InvalidError{Field: "platform", Reason: fmt.Sprintf("%d bytes, want 1 to %d", len(s), MaxPlatformBytes)}
	}
	b := []byte(s)
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return "", &InvalidError{Field: "platform", Reason: "want letters a-z, digits, '.', '_' or '-'"}
		}
	}
	if hasDots(s) {
		return "", &InvalidError{Field: "platform", Reason: `"." or ".."`}
	}
	return Platform(b), nil
}

// Address names one login of one account. Its text is taken where a login of the own account is meant, and refused where an
// account is meant.
type Address struct {
	Account Account
	Login   LoginID
}

// String returns "account/loginID".
func (a Address) String() string { return string(a.Account) + "/" + string(a.Login) }

// isAddress reports whether s reads "account/loginID". What the last part must have beyond the form of a login ID, every ID of
// NewLoginID has.
func isAddress(s string) bool {
	i := len(s) - loginIDBytes - 1
	return i > 0 && s[i] == '/' && isBase32(s[i+1:], loginIDBytes) && !isHex(s[i+1:])
}

// isHex reports whether a text of lowercase base32 is one of hexadecimal digits, too.
func isHex(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > 'f' }) < 0 }

// ParseAddress reads "account/loginID", split at the last slash, since an account may hold slashes itself.
func ParseAddress(s string) (Address, error) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return Address{}, &InvalidError{Field: "address", Reason: "no '/' between account and login ID"}
	}
	a := Address{Account: Account(s[:i]), Login: LoginID(s[i+1:])}
	if err := a.Account.Validate(); err != nil {
		return Address{}, err
	}
	if err := a.Login.Validate(); err != nil {
		return Address{}, err
	}
	return a, nil
}

// Millis is the resolution of every time that the engine stores or sends.
const Millis = time.Millisecond
