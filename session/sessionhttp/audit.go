package sessionhttp

import (
	"context"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
)

// Outcomes of an [Audit], in addition to the codes of problems.
const (
	OutcomeDone    = "done"    // also for what was only read
	OutcomeNothing = "nothing" // allowed, but there was nothing to do: no login was there, or each that was is protected
)

// Audit is one line of the audit trail: who wanted to do what, and what came of it. A host that wants changes alone looks
// at [Action.Changes].
type Audit struct {
	Time    time.Time
	Account event.Account // empty: what the path had is none
	Action  Action
	Caller  Caller // zero: the authorizer did not let it in
	// Target is what it was about: the login or device in the path, or for a kick "all", "others LOGIN", "platform NAME" or
	// "logins". It is empty for the account itself, and if the request was refused before it was known.
	Target  string
	Ended   []event.LoginID // logins that it ended, if that is known
	Outcome string          // OutcomeDone, OutcomeNothing, or the code of the problem
	Status  int             // of the answer
}

// auditTime is how long the audit hook is waited for.
const auditTime = 2 * time.Second

// tell tells the audit hook of a request that was decided.
func (h *Handler) tell(c *call, a answer) {
	if h.cfg.Audit == nil {
		return
	}
	line := Audit{
		Time: time.Now(), Account: c.account, Action: c.route.action, Caller: c.who, Target: c.target, Ended: c.ended,
		Outcome: a.outcome, Status: a.status,
	}
	ctx := context.WithoutCancel(c.Context()) // that the client has gone is no reason to keep quiet
	_, err := hostcall.Call(ctx, &h.audited, c.account, auditTime, func(ctx context.Context) (struct{}, error) {
		h.cfg.Audit(ctx, line)
		return struct{}{}, nil
	})
	if err != nil { // the log has who did what instead
		h.log.Error("sessionhttp: the audit hook failed", "account", string(line.Account), "action", string(line.Action),
			"outcome", line.Outcome, "role", string(line.Caller.Role), "by", string(line.Caller.Self), "name", line.Caller.Name, trace.Err(err))
	}
}
