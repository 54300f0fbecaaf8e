package session

import (
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/sentinel"
	"github.com/manydevice/manydevice/policy"
)

// Errors that callers branch on. What to tell a client for each of them, [event.ClosedOf] says.
var (
	// ErrNotFound: the account has no such login or device.
	ErrNotFound = sentinel.New(event.Unknown, "session: not found")
	// ErrUnknownLogin: a resume was refused. It is the same for a login ID that never was, one of another account, one
	// whose tombstone has expired and a wrong token, so that it tells nothing.
	ErrUnknownLogin = sentinel.New(event.Unknown, "session: no such login for this account and token")
	// ErrEnded is matched by every [*EndedError].
	ErrEnded = sentinel.New(event.Unknown, "session: login has ended")
	// ErrRefused is matched by every [*RefusedError].
	ErrRefused = sentinel.New(event.RefusedQuota, "session: login refused")
	// ErrProtected is matched by every [*ProtectedError], and by a [*RefusedError] whose rule is [RuleReplace]: policy
	// protects what one login wants to end from that login.
	ErrProtected = sentinel.New(event.RefusedQuota, "session: protected")
	// ErrLimited is matched by every [*LimitedError].
	ErrLimited = sentinel.New(event.RateLimited, "session: too fast")
	// ErrBanned is matched by every [*BannedError].
	ErrBanned = sentinel.New(event.Banned, "session: account is banned")
	// ErrRecordFull is matched by every [*RecordFullError].
	ErrRecordFull = sentinel.New(event.RefusedQuota, "session: account is full")
	// ErrFenced is matched by every [*FencedError]: the connection is not its login's current one any more, or the login has
	// ended. Send returns it. The connection was told why, or will be.
	ErrFenced = sentinel.New(event.Lost, "session: connection is fenced")
	// ErrNoLease: this one of several nodes may not serve connections at the moment, since it cannot renew its lease.
	ErrNoLease = sentinel.New(event.LeaseLost, "session: node has no lease")
	// ErrDraining is matched by a [*StoppingError]: the node is about to stop and takes no logins or connections any more.
	// The next process does, or another node.
	ErrDraining = sentinel.New(event.Shutdown, "session: draining")
	// ErrClosed: the registry was closed. Login and Attach return a [*StoppingError] that matches it.
	ErrClosed = sentinel.New(event.Shutdown, "session: closed")
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
	// Platform is the newcomer's, as [event.ParsePlatform] returns it.
	Platform event.Platform
	// Known are the platforms that the rules know, if the newcomer was refused because its own is not among them. Nil otherwise.
	Known policy.Platforms
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
	switch {
	case len(e.Known) > 0:
		return fmt.Sprintf("session: refused: platform %q is not one of %v", e.Platform, e.Known)
	case e.Rule == RuleHost:
		return "session: refused by the host"
	case e.Rule == RuleReplace:
		return fmt.Sprintf("session: refused: what it is to replace is protected (%s)", e.Cause)
	}
	if e.Limit == 0 {
		return fmt.Sprintf("session: refused by rule %q: no logins on platform %q", e.Rule, e.Platform)
	}
	return fmt.Sprintf("session: refused by rule %q: limit %d, %d could make room", e.Rule, e.Limit, len(e.Logins))
}

// Is makes errors.Is(err, ErrRefused) true, and with [RuleReplace] errors.Is(err, ErrProtected).
func (e *RefusedError) Is(target error) bool {
	return target == ErrRefused || target == ErrProtected && e.Rule == RuleReplace
}

// RecordFullError reports that what the store keeps of an account's logins and devices has no room for what was to be added.
// Nothing was changed. Logins that end make room, and shorter descriptions.
type RecordFullError struct {
	Limit  int // bytes that may be used; some more are kept back for ends of logins
	Logins int // bytes of logins, with their descriptions
	// Descriptions are the bytes of them that descriptions take.
	Descriptions int
	Devices      int // bytes of devices, with what is parked for them
}

// Closed returns what to tell the client.
func (e *RecordFullError) Closed() event.Closed { return event.RefusedQuota.Closed(0) }

func (e *RecordFullError) Error() string {
	return fmt.Sprintf("session: account is full: of %d bytes, logins take %d (descriptions %d) and devices %d",
		e.Limit, e.Logins, e.Descriptions, e.Devices)
}

// Is makes errors.Is(err, ErrRecordFull) true.
func (e *RecordFullError) Is(target error) bool { return target == ErrRecordFull }

// ProtectedError reports that policy protects what a login wants to end or to have removed from that login. Nothing was
// changed.
type ProtectedError struct {
	Cause      policy.Cause  // of the first one that is protected
	RetryAfter time.Duration // with [policy.CauseMinAge]: when the login that asks is old enough
	// Results say, for [Registry.Kick], what became of each login: none has ended. Nil for other calls.
	Results []KickResult
}

// Closed returns what to tell a client if the host closes its connection for that. Mostly the error is the answer to a
// request and the connection stays.
func (e *ProtectedError) Closed() event.Closed { return event.RefusedQuota.Closed(0) }

func (e *ProtectedError) Error() string { return "session: protected: " + string(e.Cause) }

// Is makes errors.Is(err, ErrProtected) true.
func (e *ProtectedError) Is(target error) bool { return target == ErrProtected }

// EndedError reports that the login which a device wanted to resume has ended, and why. Only the holder of its resume
// token learns this.
type EndedError struct {
	Why event.Closed // reason, note, cause and advice, as the connection was or would have been told
}

// Closed returns Why: what to tell the client.
func (e *EndedError) Closed() event.Closed { return e.Why }

func (e *EndedError) Error() string { return "session: login has ended: " + string(e.Why.Reason) }

// Is makes errors.Is(err, ErrEnded) true.
func (e *EndedError) Is(target error) bool { return target == ErrEnded }

// FencedError reports that a connection ended before its Attach returned, while its login lives on: a newer connection
// took over, or the node stopped serving it. The connection is still the caller's.
type FencedError struct {
	Why event.Closed // what the connection would have been told
}

// Closed returns Why: what to tell the client.
func (e *FencedError) Closed() event.Closed { return e.Why }

func (e *FencedError) Error() string { return "session: connection is fenced: " + string(e.Why.Reason) }

// Is makes errors.Is(err, ErrFenced) true.
func (e *FencedError) Is(target error) bool { return target == ErrFenced }

// ends reports whether the login is over for that reason, and not only a connection.
func ends(reason event.Reason) bool {
	i, ok := reason.Info()
	return ok && i.EndsLogin
}
