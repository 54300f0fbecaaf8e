package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// What a host knows and the engine does not: who people are, and who may talk to whom. A real host asks its databases.

const maxAccountBytes = 32

// isAccount reports whether somebody may have that name here: 1 to 32 characters out of a to z, 0 to 9, '-' and '_'. Every
// such account exists.
func isAccount(a event.Account) bool {
	if a == "" || len(a) > maxAccountBytes {
		return false
	}
	for _, c := range []byte(a) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// passwordOf is the demo's authentication: nobody's password is a secret.
func passwordOf(a event.Account) string { return "secret-of-" + string(a) }

func authentic(a event.Account, password string) bool {
	return isAccount(a) && subtle.ConstantTimeCompare([]byte(password), []byte(passwordOf(a))) == 1
}

// demoGroups returns the groups that there are, with their members.
func demoGroups() map[string][]event.Account {
	return map[string][]event.Account{
		"team":    {"ann", "bob", "eve"},
		"weekend": {"ann", "bob"},
	}
}

// directConversation names the conversation of two accounts, the same for both.
func directConversation(a, b event.Account) event.ConversationID {
	return event.ConversationID("direct:" + string(min(a, b)) + ":" + string(max(a, b)))
}

func groupConversation(name string) event.ConversationID {
	return event.ConversationID("group:" + name)
}

// audience returns a conversation and its members, for an account or a group that a member wants to talk to. Groups of
// others do not exist for him.
func (s *server) audience(me, to event.Account, group string) (event.ConversationID, []event.Account, error) {
	switch {
	case (to == "") == (group == ""):
		return "", nil, &event.InvalidError{Field: "to", Reason: "want exactly one of an account and a group"}
	case group != "":
		members := s.groups[group]
		if !slices.Contains(members, me) {
			return "", nil, &fault{codeNotFound, "no such group"}
		}
		return groupConversation(group), slices.Clone(members), nil
	case !isAccount(to):
		return "", nil, &fault{codeNotFound, "no such account"}
	}
	return directConversation(me, to), []event.Account{to}, nil
}

// belongs reports an error unless the account is a member of the conversation.
func (s *server) belongs(me event.Account, conv event.ConversationID) error {
	kind, rest, _ := strings.Cut(string(conv), ":")
	switch kind {
	case "direct":
		if a, b, ok := strings.Cut(rest, ":"); ok {
			x, y := event.Account(a), event.Account(b)
			if (x == me || y == me) && isAccount(x) && isAccount(y) && directConversation(x, y) == conv {
				return nil
			}
		}
	case "group":
		if slices.Contains(s.groups[rest], me) {
			return nil
		}
	}
	return &fault{codeNotFound, "no such conversation"}
}

// mayChange reports an error unless the account may do that to a message: edit and recall its own ones, react to and hide
// those of its conversations. Messages that the account never got do not exist for it.
func (s *server) mayChange(ctx context.Context, me event.Account, k event.Kind, id event.MessageID) error {
	m, err := s.st.Message(ctx, id) // a real host has its own history
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	switch {
	case err != nil || !slices.ContainsFunc(m.To, func(p store.Place) bool { return p.Account == me }):
		return &fault{codeNotFound, "no such message"}
	case (k == event.KindEdit || k == event.KindRecall) && m.From != me:
		return &fault{codeForbidden, "only who sent it may do that"}
	}
	return nil
}

// fault is an error of the server itself.
type fault struct{ code, message string }

func (f *fault) Error() string { return fmt.Sprintf("%s: %s", f.code, f.message) }
