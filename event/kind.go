package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind names what an entry or a live-only event is, such as "message" or "group.join". Names are stable.
type Kind string

// Kinds of the engine's own. Those of the catalogue of operations are in catalogue.go.
const (
	KindMessage            Kind = "message"
	KindRecall             Kind = "message.recall"
	KindEdit               Kind = "message.edit"
	KindReaction           Kind = "message.reaction"
	KindDeleteForMe        Kind = "message.deleteForMe"
	KindDelivered          Kind = "receipt.delivered"
	KindRead               Kind = "receipt.read"
	KindConversationRead   Kind = "conversation.read"
	KindConversationUnread Kind = "conversation.unread"
	KindDeviceOnline       Kind = "device.online"
	KindDeviceOffline      Kind = "device.offline"
	KindDeviceLogin        Kind = "device.login"
	KindDeviceEnded        Kind = "device.ended"
	KindClaim              Kind = "claim"
	KindTyping             Kind = "typing"
)

// MaxKindBytes bounds the name of a kind.
const MaxKindBytes = 64

// Validate reports whether k has the form of a kind: 1 to 64 characters out of letters, digits, '.', '_' and '-', but not
// "." or "..".
func (k Kind) Validate() error {
	if k == "" || len(k) > MaxKindBytes {
		return &InvalidError{Field: "kind", Reason: fmt.Sprintf("%d bytes, want 1 to %d", len(k), MaxKindBytes)}
	}
	for i := range len(k) {
		c := k[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return &InvalidError{Field: "kind", Reason: "want letters, digits, '.', '_' or '-'"}
		}
	}
	if k == "." || k == ".." {
		return &InvalidError{Field: "kind", Reason: `"." or ".."`}
	}
	return nil
}

// Family groups kinds by what they are about.
type Family string

const (
	FamilyMessage      Family = "message"
	FamilyReceipt      Family = "receipt"
	FamilyContact      Family = "contact"
	FamilyGroup        Family = "group"
	FamilyThread       Family = "thread"
	FamilyConversation Family = "conversation"
	FamilyHistory      Family = "history"
	FamilySettings     Family = "settings"
	FamilyDevice       Family = "device"
	FamilyClaim        Family = "claim"
	FamilyLive         Family = "live"
	FamilyHost         Family = "host" // registered by a host, or unknown
)

// Style says how a client SDK of the field presents a mirrored operation.
type Style string

const (
	// StyleSame: under the ordinary event's name, told apart only by From being the own account.
	StyleSame Style = "same"
	// StyleMulti: as a multi-device event with an operation name.
	StyleMulti Style = "multi"
)

// KindInfo is the registry row of a kind. It decides how entries of the kind are kept and sent.
type KindInfo struct {
	Kind      Kind
	Family    Family
	Code      int    // code that EaseMob and Agora Chat SDKs use for it; 0: none
	Style     Style  // for operations
	Durable   bool   // kept in the inbox; otherwise live-only
	Mirrored  bool   // goes to the other devices of the account that did it
	Unread    bool   // counts as unread for those who receive it, and so wants a push
	Push      bool   // wants a push although it does not count as unread, such as a call; for durable kinds
	Droppable bool   // may be dropped under pressure; only live-only kinds are
	Coalesce  string // name of the coalesce group: a newer entry of the group for the same subject supersedes the older
	Register  string // name of the register of conversation state that it sets for the account that does it; see [KindInfo.State]
	Off       bool   // it sets the register to 0; otherwise to 1
	Change    Change // what it does to the message that it is about
}

// Change says what an entry does to the message that it is about. The names are stable.
type Change string

const (
	// ChangeNone: it is about no message.
	ChangeNone Change = ""
	// ChangeReplace takes the message's place: who has not got the message yet, gets this instead.
	ChangeReplace Change = "replace"
	// ChangeRemove takes the message away from everybody, with all that has replaced it, and out of the count of unread ones.
	ChangeRemove Change = "remove"
	// ChangeHide does so for the account that does it only.
	ChangeHide Change = "hide"
	// ChangeAnnotate adds something to the message, such as a reaction. The newest for a subject and account counts.
	ChangeAnnotate Change = "annotate"
)

// coalesce is the group within which changes of a sort supersede each other, by message.
func (c Change) coalesce() string {
	switch c {
	case ChangeReplace:
		return "edit"
	case ChangeRemove:
		return "recall"
	case ChangeHide:
		return "hide"
	case ChangeAnnotate:
		return "reaction"
	}
	return ""
}

// ReplacementKey is the coalesce key of what has replaced a message, in every inbox.
func ReplacementKey(conversation ConversationID, message MessageID) string {
	return KindInfo{Coalesce: ChangeReplace.coalesce()}.CoalesceKey(conversation, string(message))
}

// ReplacedMessage returns the message that an entry with the key of ReplacementKey has replaced; empty for other keys.
func ReplacedMessage(key string) MessageID {
	rest, ok := strings.CutPrefix(key, ChangeReplace.coalesce()+"\n")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, "\n")
	return MessageID(id)
}

// State returns the register that an entry of the kind sets, and false if it sets none. Its name is that of the row, and
// with a subject a colon and the subject, which is the middle line of the entry's key; its number is 1, or 0 if the row
// says Off; its value is the payload. Entries of such kinds are only in inboxes of the account that did it.
func (i KindInfo) State(e *Entry) (State, bool) {
	if i.Register == "" {
		return State{}, false
	}
	s := State{Conversation: e.Conversation, Name: i.Register, Seq: e.Seq, Value: e.Payload}
	if _, rest, ok := strings.Cut(e.Key, "\n"); ok {
		if subject, _, ok := strings.Cut(rest, "\n"); ok && subject != "" {
			s.Name += ":" + subject
		}
	}
	if !i.Off {
		s.Number = 1
	}
	return s, true
}

// WantsPush reports whether an entry of the kind may wake the devices of those who receive it.
func (i KindInfo) WantsPush() bool { return i.Unread || i.Push }

// CoalesceKey returns the key under which a newer entry supersedes this one, or "" if the kind does not coalesce.
// The subject tells entries of one conversation apart that must not supersede each other, such as two marks.
func (i KindInfo) CoalesceKey(conversation ConversationID, subject string) string {
	if i.Coalesce == "" {
		return ""
	}
	return i.Coalesce + "\n" + subject + "\n" + string(conversation)
}

// Registry knows every kind. It never changes after [NewRegistry] and is safe for concurrent use.
type Registry struct {
	rows map[Kind]KindInfo
	list []Kind
}

// NewRegistry returns the built-in kinds together with the host's own. A kind that is there already, a bad name of a kind,
// coalesce group or register, a row that is both durable and droppable, a live-only one that wants a push, one that sets a
// register but does not coalesce, or one that changes messages under a coalesce group of its own is an error; all faults are
// reported at once.
func NewRegistry(own ...KindInfo) (*Registry, error) {
	r := &Registry{rows: make(map[Kind]KindInfo, len(builtin)+len(own))}
	var errs []error
	for _, rows := range [][]KindInfo{builtin, own} {
		for _, row := range rows {
			errs = append(errs, r.add(row))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("event: registry: %w", err)
	}
	return r, nil
}

func (r *Registry) add(row KindInfo) error {
	if err := row.Kind.Validate(); err != nil {
		return fmt.Errorf("%q: %w", row.Kind, err)
	}
	if _, ok := r.rows[row.Kind]; ok {
		return fmt.Errorf("%q: registered twice", row.Kind)
	}
	if row.Push && !row.Durable {
		return fmt.Errorf("%q: a live-only kind wants no push", row.Kind)
	}
	if row.Durable && row.Droppable {
		return fmt.Errorf("%q: a durable kind is never dropped", row.Kind)
	}
	if row.Coalesce != "" {
		if err := CheckID("coalesce group", row.Coalesce); err != nil {
			return fmt.Errorf("%q: %w", row.Kind, err)
		}
	}
	if err := row.checkState(); err != nil {
		return fmt.Errorf("%q: %w", row.Kind, err)
	}
	if err := row.checkChange(); err != nil {
		return fmt.Errorf("%q: %w", row.Kind, err)
	}
	if row.Family == "" {
		row.Family = FamilyHost
	}
	r.rows[row.Kind] = row
	r.list = append(r.list, row.Kind)
	return nil
}

// checkState: a newer entry that supersedes an older one must set the same register, or devices would miss it.
func (i *KindInfo) checkState() error {
	switch {
	case i.Register == "":
		return nil
	case !i.Durable || i.Coalesce == "" || i.Unread:
		return &InvalidError{Field: "register", Reason: "only for durable kinds that coalesce and do not count as unread"}
	case i.Register == StateRead || i.Register == StateReadPrivate || i.Register[0] == '_' || strings.Contains(i.Register, ":"):
		return &InvalidError{Field: "register", Reason: "a name of the engine's own"}
	}
	return CheckID("register", i.Register)
}

// checkChange sees to it that all kinds that change messages supersede each other alike.
func (i *KindInfo) checkChange() error {
	group := i.Change.coalesce()
	switch {
	case i.Change == ChangeNone:
		return nil
	case group == "":
		return &InvalidError{Field: "change", Reason: "unknown"}
	case !i.Durable || i.Unread || i.Register != "":
		return &InvalidError{Field: "change", Reason: "only for durable kinds that do not count as unread and set no register"}
	case i.Coalesce != "" && i.Coalesce != group:
		return &InvalidError{Field: "coalesce group", Reason: "want " + group + " or none for a kind with that change"}
	}
	i.Coalesce = group
	return nil
}

// Info returns the row of a kind. An unknown kind is carried like a host's own that is durable, mirrored, does not count
// as unread and never coalesces.
func (r *Registry) Info(k Kind) KindInfo {
	if row, ok := r.rows[k]; ok {
		return row
	}
	return KindInfo{Kind: k, Family: FamilyHost, Durable: true, Mirrored: true}
}

// States returns the registers that an entry of the account's own inbox sets, with the entry's number. A read mark that
// cannot be decoded sets none.
func (r *Registry) States(e *Entry) []State {
	switch e.Kind {
	case KindConversationRead, KindConversationClearUnread, KindConversationClearAllUnread:
		var mark ReadMark
		if json.Unmarshal(e.Payload, &mark) != nil {
			return nil
		}
		return mark.States(e)
	}
	if s, ok := r.Info(e.Kind).State(e); ok {
		return []State{s}
	}
	return nil
}

// Known reports whether the kind is registered.
func (r *Registry) Known(k Kind) bool {
	_, ok := r.rows[k]
	return ok
}

// Kinds returns the names of all kinds in order of registration.
func (r *Registry) Kinds() []Kind { return slices.Clone(r.list) }

// DeviceKey is the coalesce key of the entries about a device's logins: of several, the last one is what counts.
func DeviceKey(d DeviceID) string { return "device\n" + string(d) }
