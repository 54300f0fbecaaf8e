package session

import (
	"errors"

	"github.com/manydevice/manydevice/internal/hostcall"
)

// calls are the hooks of a registry, each with a count of its own: one that hangs does not silence the others. Questions
// about other nodes' leases that hang do not keep this node from renewing its own. Those of bus are counted per node. closes are
// calls of Conn.Close, which are never left out.
type calls struct{ revoke, policy, victims, login, leases, liveness, bus, closes hostcall.Hook }

// HookSkips returns how many calls of the host's code were left out because too many calls of the same hook, for the same
// account, had not returned in time and were still running. What stands in for the answer is what stands in for one that
// comes too late.
func (r *Registry) HookSkips() uint64 {
	c, n := &r.calls, uint64(0)
	for _, h := range []*hostcall.Hook{&c.revoke, &c.policy, &c.victims, &c.login, &c.leases, &c.liveness, &c.bus} {
		n += h.Skipped()
	}
	return n
}

// HungCloses returns how many calls of Conn.Close did not return within Config.CloseTimeout.
func (r *Registry) HungCloses() uint64 { return r.calls.closes.Late() }

// warn logs that a call of the host's code has failed, with its stack if it has panicked.
func (r *Registry) warn(text string, err error, about ...any) {
	about = append(about, "err", err)
	if p, ok := errors.AsType[*hostcall.PanicError](err); ok {
		about = append(about, "stack", string(p.Stack))
	}
	r.log.Warn(text, about...)
}
