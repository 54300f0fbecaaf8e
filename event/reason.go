package event

import (
	"slices"
	"time"
)

// Reason names why a login or a connection ended. The names are stable.
type Reason string

const (
	EvictedQuota    Reason = "evicted_quota"
	EvictedSingle   Reason = "evicted_single"
	Replaced        Reason = "replaced"
	KickedSelf      Reason = "kicked_self"
	KickedHost      Reason = "kicked_host"
	DeviceRemoved   Reason = "device_removed"
	PasswordChanged Reason = "password_changed"
	AccountDeleted  Reason = "account_deleted"
	Banned          Reason = "banned"
	Logout          Reason = "logout"
	ExpiredIdle     Reason = "expired_idle"
	ExpiredAbsolute Reason = "expired_absolute"
	TokenReuse      Reason = "token_reuse"
	PolicyChanged   Reason = "policy_changed"
	RefusedQuota    Reason = "refused_quota"
	Moved           Reason = "moved"
	TabReplaced     Reason = "tab_replaced"
	Slow            Reason = "slow"
	Lost            Reason = "lost"
	Flapping        Reason = "flapping"
	RateLimited     Reason = "rate_limited"
	ProtocolError   Reason = "protocol_error"
	LeaseLost       Reason = "lease_lost"
	Unavailable     Reason = "unavailable"
	Shutdown        Reason = "shutdown"
	Unknown         Reason = "unknown"
)

// ReasonInfo is what is known of a [Reason].
type ReasonInfo struct {
	Reason    Reason
	EndsLogin bool   // the login is over and leaves a tombstone; otherwise only the connection ended
	Retry     Retry  // default advice
	Compat    int    // nearest code of EaseMob and Agora Chat clients; 0: none
	Meaning   string // for people
}

var reasons = []ReasonInfo{
	{EvictedQuota, true, RetryNo, 206, "a newer login took the slot; the cause names its device"},
	{EvictedSingle, true, RetryNo, 206, "single-device mode: a newer login took over"},
	{Replaced, true, RetryNo, 206, "the same device logged in again"},
	{KickedSelf, true, RetryNo, 217, "ended from another device of the account"},
	{KickedHost, true, RetryNo, 217, "ended by the host"},
	{DeviceRemoved, true, RetryNo, 217, "the device was removed from the account"},
	{PasswordChanged, true, RetryLogin, 216, "credentials changed"},
	{AccountDeleted, true, RetryNo, 207, "the account is gone"},
	{Banned, true, RetryNo, 305, "the account may not log in"},
	{Logout, true, RetryNo, 0, "asked for by the device itself"},
	{ExpiredIdle, true, RetryLogin, 108, "no contact for longer than the idle bound"},
	{ExpiredAbsolute, true, RetryLogin, 108, "lifetime of the login is over"},
	{TokenReuse, true, RetryLogin, 0, "an old resume token was used again"},
	{PolicyChanged, true, RetryNo, 206, "rules were replaced and enforced at once"},
	{RefusedQuota, false, RetryNo, 214, "a reconnect without a slot was refused; the holders stay"},
	{Moved, false, RetryAfter, 0, "another connection of the same login took over; the delay grows while they take turns"},
	{TabReplaced, false, RetryNo, 0, "a newer tab of the same device took over"},
	{Slow, false, RetryYes, 0, "window full without progress; nothing is lost"},
	{Lost, false, RetryYes, 0, "no sign of life"},
	{Flapping, false, RetryAfter, 0, "logins evict each other too fast"},
	{RateLimited, false, RetryAfter, 0, "too many logins or attaches"},
	{ProtocolError, false, RetryNo, 0, "malformed, oversized or impossible frame"},
	{LeaseLost, false, RetryYes, 0, "the node may no longer serve its logins"},
	{Unavailable, false, RetryAfter, 0, "the store, or what the host decides by, does not answer"},
	{Shutdown, false, RetryAfter, 0, "the node is draining; the delay carries jitter"},
	{Unknown, false, RetryLogin, 0, "no such login for this account and secret"},
}

// Reasons returns every reason there is, in a fixed order.
func Reasons() []ReasonInfo { return slices.Clone(reasons) }

// Info returns what is known of the reason, or false for a name that is none.
func (r Reason) Info() (ReasonInfo, bool) {
	for _, i := range reasons {
		if i.Reason == r {
			return i, true
		}
	}
	return ReasonInfo{}, false
}

// Closed returns the closing frame for the reason with its default advice; after counts only for reasons whose advice is
// to retry after a delay.
func (r Reason) Closed(after time.Duration) Closed {
	c := Closed{Reason: r, Retry: RetryNo}
	if i, ok := r.Info(); ok {
		c.Retry = i.Retry
	}
	if c.Retry == RetryAfter {
		c.After = after
	}
	return c
}
