// Package day is what a good engineer writes in a day, before all the cases that make it a week and a year: no promise
// about order over a reconnect, no resume, no quotas.
package day

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

const queue = 256

// Live is a map of connections by account, each with a channel and a goroutine.
type Live struct {
	mu       sync.RWMutex
	accounts map[string][]*conn
	wg       sync.WaitGroup
}

type conn struct {
	ch    chan []byte
	bytes int64
	acked atomic.Uint64
}

// NewLive returns one without connections.
func NewLive() *Live { return &Live{accounts: make(map[string][]*conn)} }

// Connect adds a connection that tells arrived of each message.
func (l *Live) Connect(account string, arrived *lab.Pending) {
	c := &conn{ch: make(chan []byte, queue)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts[account] = append(l.accounts[account], c)
	l.wg.Go(func() {
		for m := range c.ch {
			c.bytes += int64(len(m))
			c.acked.Add(1)
			arrived.Arrive(1)
		}
	})
}

// ErrSlow means that a connection has not taken what it was sent.
var ErrSlow = errors.New("connection is slow")

// Send hands a message to all connections of an account.
func (l *Live) Send(_ context.Context, account string, payload []byte) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, c := range l.accounts[account] {
		select {
		case c.ch <- payload:
		default:
			return ErrSlow
		}
	}
	return nil
}

// Close ends all connections.
func (l *Live) Close() error {
	l.mu.Lock()
	for _, all := range l.accounts {
		for _, c := range all {
			close(c.ch)
		}
	}
	l.accounts = nil
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}
