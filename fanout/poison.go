package fanout

import (
	"context"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
)

const (
	poisonAttempts = 5 // on one entry before the host is told: fewer happen on bad networks
	carefulAfter   = 2 // connections that end at the same place, after which entries go one at a time
	poisonWait     = time.Minute
	nackWait       = 2 * time.Second // for Config.OnNack
	maxTroubled    = 4_096           // devices whose attempts are remembered; of about 150 bytes each
)

// Poison says that a device keeps losing its connection at the same entry: five times so far, or ten, twenty and so on.
// Perhaps it crashes on the entry; perhaps its network is bad. Nothing is done about it by itself: see [Router.Park].
//
// An attempt is a connection on which the entry was sent, and which ended, for a reason that may be the device's own, while
// this was the first entry that it had not acknowledged. Attempts are counted in memory: after a restart, and on another
// node, they begin anew.
type Poison struct {
	Account  event.Account
	Login    event.LoginID
	Device   event.DeviceID
	Position event.Position // of the entry
	Message  event.MessageID
	Kind     event.Kind
	Attempts int
	Reason   event.Reason // why the last connection ended
}

// trouble is where a device's connections end.
type trouble struct {
	at    event.Position // the first entry that it did not acknowledge last time
	tries int            // connections that ended there, one after another
	until uint64         // entries up to here go one at a time; 0: there is no need
}

// last is the entry beyond which the trouble is over.
func (t *trouble) last() uint64 { return max(t.at.Seq, t.until) }

// troubleBook remembers devices in trouble, those of late.
type troubleBook struct {
	mu    sync.Mutex
	known *lru.Cache[cursorKey, trouble]
}

func (b *troubleBook) init() (err error) {
	b.known, err = lru.New[cursorKey, trouble](maxTroubled)
	return err
}

// get returns what is known of a device in the given epoch.
func (b *troubleBook) get(k cursorKey, epoch event.Epoch) trouble {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.known.Peek(k); ok && t.at.Epoch == epoch {
		return t
	}
	return trouble{}
}

// add notes that a connection ended with the entry at p as the first and last as the last that was not acknowledged. It
// returns how often that has happened at p.
//
// Acks are cumulative: a device that dies on the third of ten entries has perhaps acknowledged none. So when the same
// place comes again, all that was sent is suspect and goes one at a time, and then the place is the entry itself.
func (b *troubleBook) add(k cursorKey, p event.Position, last uint64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, _ := b.known.Get(k)
	switch {
	case t.at == p:
		t.tries++
	case t.at.Epoch == p.Epoch:
		t.at, t.tries = p, 1
	default:
		t = trouble{at: p, tries: 1}
	}
	if t.tries >= carefulAfter {
		t.until = max(t.until, last)
	}
	b.known.Add(k, t)
	return t.tries
}

// forgive forgets the attempts on an entry.
func (b *troubleBook) forgive(k cursorKey, p event.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.known.Peek(k); ok && t.at == p {
		t.tries = 0
		b.known.Add(k, t)
	}
}

// over forgets a device that has got beyond its trouble.
func (b *troubleBook) over(k cursorKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known.Remove(k)
}

// reported says at which attempts the host is told: 5, 10, 20, 40, …
func reported(tries int) bool {
	n := tries / poisonAttempts
	return n > 0 && tries%poisonAttempts == 0 && n&(n-1) == 0
}

// blamed reports whether the end of a connection may be the device's own doing. A login that was ended and a node that
// goes away say nothing about what was sent.
func blamed(reason event.Reason) bool {
	switch reason {
	case event.Shutdown, event.Unavailable, event.LeaseLost:
		return false
	}
	i, known := reason.Info()
	return !known || !i.EndsLogin
}

func (a *Attachment) key() cursorKey { return cursorKey{a.hub.account, a.conn.Incarnation()} }

// recallLocked has the attachment go on as its device's trouble of before demands.
func (a *Attachment) recallLocked() {
	t := a.r.troubles.get(a.key(), a.epoch)
	if t.last() > 0 {
		b := a.ownLocked()
		b.suspect, b.careful = t.last(), t.until
		a.progressedLocked(a.pos)
	}
}

// progressedLocked notes that the device has everything up to seq.
func (a *Attachment) progressedLocked(seq uint64) {
	if a.suspect > 0 && seq >= a.suspect {
		a.r.troubles.over(a.key())
		a.suspect, a.careful = 0, 0
	}
}

// windowLocked is how many entries may be unacknowledged.
func (a *Attachment) windowLocked() int {
	if a.careful > 0 {
		return 1
	}
	return a.limits.window
}

// attemptLocked counts what the end of the connection says about the first entry that it left unacknowledged. It returns
// what the host is to be told, nil if nothing.
func (a *Attachment) attemptLocked(reason event.Reason) *Poison {
	n, _ := slices.BinarySearchFunc(a.window, a.sentLocked()+1, compareSeq)
	if n == 0 || !blamed(reason) {
		return nil
	}
	first, last := a.window[0], a.window[n-1]
	p := event.Position{Epoch: a.epoch, Seq: first.Seq}
	tries := a.r.troubles.add(a.key(), p, last.Seq)
	if !reported(tries) {
		return nil
	}
	return &Poison{
		Account: a.hub.account, Login: a.conn.Login(), Device: a.conn.Device(), Position: p, Message: first.ID, Kind: first.Kind,
		Attempts: tries, Reason: reason,
	}
}

// report tells the host of an entry that keeps defeating a device. Code of the host's, its logger's as well, is called on a
// goroutine of its own: the end of a connection does not wait for it.
func (a *Attachment) report(p *Poison) {
	a.r.stats.poison.Add(1)
	a.tell(Event{Kind: EventPoison, To: p.Position, Count: p.Attempts})
	a.r.owned.Go(func() { a.r.onPoison(*p) })
}

func (r *Router) onPoison(p Poison) {
	r.log.Warn("fanout: a device keeps losing its connection at one entry", "account", string(p.Account), "device", string(p.Device),
		"epoch", uint64(p.Position.Epoch), "seq", p.Position.Seq, "attempts", p.Attempts, "reason", string(p.Reason))
	if r.cfg.OnPoison == nil {
		return
	}
	_, err := hostcall.Call(r.ctx, &r.poisonCalls, p.Account, poisonWait, func(ctx context.Context) (struct{}, error) {
		r.cfg.OnPoison(ctx, p)
		return struct{}{}, nil
	})
	r.hookDone(HookPoison, p.Account, err)
}
