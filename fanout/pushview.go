package fanout

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// pushConversation holds the mark up to which pushes of an account are decided, so that it is found without looking
// through registers of conversations. A host's conversation of that name does no harm: no register of its own begins
// with '_'.
const pushConversation event.ConversationID = "_push"

// pushRegister names the mark. Each inbox that the account had has its own one: a mark that is written late, when the account
// was deleted meanwhile, must not count for the next inbox, whose numbers begin anew. The store's incarnation does not
// matter, since numbers go on after a restore.
func pushRegister(e event.Epoch) string { return "_push:" + strconv.FormatUint(uint64(uint32(e)), 10) }

// pushView is what a decision about an account is made from.
type pushView struct {
	devices []PushDevice // those that hold a login
	acked   map[event.Incarnation]uint64
	head    store.Head
	from    uint64 // everything up to here is decided, or all devices have it
}

// pushView looks at an account. Nil: there is nothing to decide; if seq is not 0, up to there. As a rule every device has
// all it should have by then, and if all of them are attached that is known without I/O.
func (r *Router) pushView(ctx context.Context, account event.Account, seq uint64) (*pushView, error) {
	if abandoned(account) {
		return nil, nil
	}
	logins, err := r.reg.List(ctx, account, "")
	if err != nil {
		return nil, fmt.Errorf("fanout: push: %w", err)
	}
	if len(logins) == 0 {
		return nil, nil
	}
	v := &pushView{devices: make([]PushDevice, len(logins)), acked: make(map[event.Incarnation]uint64, len(logins))}
	here, now := r.pushAttached(account), r.times.Read()
	for i, s := range logins {
		d := PushDevice{Session: s, Active: s.LastSeen}
		if a, ok := here[s.Incarnation]; ok {
			d.Active = now.At(a.active)
		}
		c, _ := r.pending(account, s.Incarnation) // asked before the store: what it does not have is there
		v.devices[i], v.acked[s.Incarnation] = d, max(here[s.Incarnation].acked, c.Seq)
	}
	if seq > 0 && v.ackedByAll() >= seq {
		return nil, nil
	}
	stored, err := r.st.Cursors(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("fanout: push: %w", err)
	}
	for _, c := range stored {
		v.acked[c.Incarnation] = max(v.acked[c.Incarnation], c.Seq)
	}
	page, err := r.st.Read(ctx, account, store.ReadOptions{Known: seq})
	if err != nil {
		return nil, fmt.Errorf("fanout: push: %w", err)
	}
	v.head = page.Head
	mark, _, err := r.register(ctx, account, pushConversation, pushRegister(v.head.Epoch))
	if err != nil {
		return nil, err
	}
	if v.from = max(mark.Number, v.ackedByAll()); v.from >= v.head.Seq {
		return nil, nil
	}
	return v, nil
}

// ackedByAll returns up to where every device that holds a login has acknowledged.
func (v *pushView) ackedByAll() uint64 {
	lowest := v.acked[v.devices[0].Incarnation]
	for i := range v.devices {
		lowest = min(lowest, v.acked[v.devices[i].Incarnation])
	}
	return lowest
}

// attachedDevice is what is known of a device's connections.
type attachedDevice struct {
	acked  uint64
	active time.Duration // Router.clock; of several tabs the one that was used last
}

func (r *Router) pushAttached(account event.Account) map[event.Incarnation]attachedDevice {
	h := r.find(account)
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	here := make(map[event.Incarnation]attachedDevice, len(h.atts))
	for _, a := range h.atts {
		d := here[a.conn.Incarnation()]
		d.acked = max(d.acked, a.acked)
		d.active = max(d.active, a.active)
		here[a.conn.Incarnation()] = d
	}
	return here
}

// acting resolves a login that does something, and notes that its device is in use. The address of the login is replaced by
// the login.
func (r *Router) acting(ctx context.Context, account event.Account, origin *event.LoginID) (session.Bound, error) {
	id, err := origin.Of(account)
	if err != nil {
		return session.Bound{}, fault.Field("origin", err)
	}
	*origin = id
	b, err := r.reg.Resolve(ctx, account, id)
	if err != nil || r.cfg.Push.Hook == nil {
		return b, fault.Field("origin", err)
	}
	if h := r.find(account); h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, a := range h.atts {
			if a.conn.Login() == id {
				a.active = r.clock()
			}
		}
	}
	return b, nil
}

// foreground notes that an app has come to the foreground.
func (a *Attachment) foreground() {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	a.active = a.r.clock()
}

// pushEntry is an entry that wants a push.
type pushEntry struct {
	*event.Sealed
	read uint64 // the account has read it if a marker of its conversation is here or beyond
}

// pushable returns the entry if it wants a push. A message that was edited before its push could be decided is gone: then
// the edit takes its place. Later edits want none, as the message has had its own.
func (r *Router) pushable(ctx context.Context, account event.Account, e *event.Entry) (pushEntry, bool, error) {
	none := pushEntry{}
	if e.From == account || e.Flags&event.FlagNoPush != 0 {
		return none, false, nil
	}
	info := r.cfg.Kinds.Info(e.Kind)
	if info.WantsPush() {
		return pushEntry{Sealed: event.Seal(*e), read: e.Seq}, true, nil
	}
	if info.Change != event.ChangeReplace {
		return none, false, nil
	}
	m, err := r.st.Message(ctx, event.ReplacedMessage(e.Key))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return none, false, nil
	case err != nil:
		return none, false, fmt.Errorf("fanout: push: %w", err)
	case m.Flags&event.FlagNoPush != 0 || !r.cfg.Kinds.Info(m.Kind).WantsPush() || e.Time.Sub(m.Time) >= r.cfg.Push.Delay:
		return none, false, nil
	}
	for _, p := range m.To {
		if p.Account == account {
			return pushEntry{Sealed: event.Seal(*e), read: p.Seq}, true, nil
		}
	}
	return none, false, nil
}
