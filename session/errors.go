package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// Errors that callers branch on.
var (
	// ErrNotFound: the account has no such login or device.
	ErrNotFound = errors.New("session: not found")
	// ErrUnknownLogin: a resume was refused. It is the same for a login ID that never was, one of another account, one
	// whose tombstone has expired and a wrong token, so that it tells nothing.
	ErrUnknownLogin = errors.New("session: no such login for this account and token")
	// ErrEnded is matched by every [*EndedError].
	ErrEnded = errors.New("session: login has ended")
	// ErrRefused is matched by every [*RefusedError].
	ErrRefused = errors.New("session: login refused")
	// ErrLimited is matched by every [*LimitedError].
	ErrLimited = errors.New("session: too fast")
	// ErrBanned is matched by every [*BannedError].
	ErrBanned = errors.New("session: account is banned")
	// ErrRecordFull is matched by every [*RecordFullError].
	ErrRecordFull = errors.New("session: account is full")
	// ErrFenced: the connection is not its login's current one any more, or the login has ended.
	ErrFenced = errors.New("session: connection is fenced")
	// ErrNoLease: this one of several nodes may not serve connections at the moment, since it cannot renew its lease.
	ErrNoLease = errors.New("session: node has no lease")
	// ErrDraining: the node is about to stop and takes no logins or connections any more. Another one does.
	ErrDraining = errors.New("session: draining")
	// ErrClosed: the registry was closed.
	ErrClosed = errors.New("session: closed")
)

// Rules of a registry, beside those of its policy.
const (
	RuleHost    = "host"    // Config.DecideLogin said no
	RuleReplace = "replace" // LoginReplacing named a login that is protected from the newcomer
)

// RefusedError reports a login or a reconnect that policy turned down. Nothing was changed.
type RefusedError struct {
	Rule  string // name of the rule that refused: one of policy's, or RuleHost or RuleReplace
	Limit int    // logins that the rule allows at once
	// Logins are those that the rule counts and that [Registry.LoginReplacing] may end for this device, earliest first.
	// None: nobody can make room.
	Logins []Session
	// Need is how many of them have to end so that this rule is content; a later one may still refuse. 0 with RuleHost and
	// RuleReplace.
	Need       int
	RetryAfter time.Duration // zero: not before a slot is free
	Cause      policy.Cause  // why the rule did not evict; empty: it refuses by itself
}

// Closed returns what to tell the client of a connection whose attach was refused.
func (e *RefusedError) Closed() event.Closed { return event.RefusedQuota.Closed(0) }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("session: login refused by rule %q: limit %d, %d could make room", e.Rule, e.Limit, len(e.Logins))
}

// Is makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// ProtectedError reports that policy protects a device from the login that wants to have it removed. Nothing was changed.
type ProtectedError struct {
	Cause      policy.Cause
	RetryAfter time.Duration // with [policy.CauseMinAge]: when the login is old enough
}

func (e *ProtectedError) Error() string { return "session: protected: " + string(e.Cause) }

// EndedError reports that the login which a device wanted to resume has ended, and why. Only the holder of its resume
// token learns this.
type EndedError struct {
	Closed event.Closed // reason, note, cause and advice, as the connection was or would have been told
}

func (e *EndedError) Error() string { return "session: login has ended: " + string(e.Closed.Reason) }

// Is makes errors.Is(err, ErrEnded) true.
func (e *EndedError) Is(target error) bool { return target == ErrEnded }
