package transporttest

import (
	"sync"
	"time"
)

// Block makes Send wait until Unblock, the end of its context, or the end of the connection, as if the device's network
// took nothing.
func (p *Pair) Block() { p.setBlocked(true) }

// Unblock ends Block.
func (p *Pair) Unblock() { p.setBlocked(false) }

func (p *Pair) setBlocked(on bool) {
	defer p.tellDrained() // when the lock is free
	p.g.Lock()
	defer p.g.Unlock()
	p.blocked = on
	p.g.notifyLocked()
}

// Cut breaks the network: Send fails with ErrCut, also one that waits. The device gets what has arrived, which leaves out
// frames that are delayed, then io.EOF without a reason.
func (p *Pair) Cut() {
	p.g.Lock()
	defer p.g.Unlock()
	if p.failure != nil {
		return
	}
	for i, q := range p.queue {
		if time.Until(q.due) > 0 {
			p.queue = p.queue[:i]
			break
		}
	}
	p.bytes = 0
	for _, q := range p.queue {
		p.bytes += q.bytes
	}
	p.endLocked(ErrCut)
}

// Delay makes frames that are sent from now on arrive d later. They stay in order: a frame waits for those before it. Zero
// or less: at once.
func (p *Pair) Delay(d time.Duration) {
	p.g.Lock()
	defer p.g.Unlock()
	p.delay = max(0, d)
}

// DropAfter swallows frames after the next n, with the reason of a Close, as a network does that is gone while nobody
// noticed yet: Send answers as if all were well. Negative: no more frames are swallowed.
func (p *Pair) DropAfter(n int) {
	p.g.Lock()
	defer p.g.Unlock()
	p.dropAt = -1
	if n >= 0 {
		p.dropAt = p.count + n
	}
}

// BlockClose makes Close wait until release is called. The connection is over when Close begins to wait.
func (p *Pair) BlockClose() (release func()) {
	hold := make(chan struct{})
	p.g.Lock()
	defer p.g.Unlock()
	p.closeHold = hold
	return sync.OnceFunc(func() { close(hold) })
}

// PanicOnClose makes Close panic with the value, after it ended the connection. Nil: it does not.
func (p *Pair) PanicOnClose(value any) {
	p.g.Lock()
	defer p.g.Unlock()
	p.closeValue = value
}

// FailClose makes Close return err, after it ended the connection. Nil: it does not.
func (p *Pair) FailClose(err error) {
	p.g.Lock()
	defer p.g.Unlock()
	p.closeErr = err
}
