package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
)

// Leases tells nodes that live from those that do not, where several engines share one store. It is apart from [Store],
// so that leases can be kept in another system than the data. All methods are safe for concurrent use and return soon
// after ctx has ended.
type Leases interface {
	// Acquire makes a lease for the node, under an epoch that no lease had before. It lasts for life from now on, which is
	// between MinLease and MaxLease. ErrLeaseHeld: there is one of that node already, and it has not expired.
	Acquire(ctx context.Context, node event.NodeID, life time.Duration) (Lease, error)
	// Renew makes the lease last for its life from now on. ErrLeaseLost: it expired or was released; it is never valid
	// again. Any other error leaves it open: the node counts from the beginning of its last renewal that succeeded, and
	// stops by itself.
	Renew(ctx context.Context, l Lease) error
	// Release ends the lease now. One that is over already is no error.
	Release(ctx context.Context, l Lease) error
	// List returns the leases that have not expired, in any order. One that was listed and is not any more is dead.
	List(ctx context.Context) ([]Lease, error)
	// Alive tells what is known of a lease. An error means [CannotTell].
	Alive(ctx context.Context, l Lease) (Liveness, error)
}

// Lease is a node's right to serve.
type Lease struct {
	Node  event.NodeID
	Epoch uint64 // the fence: goes into what the node writes about its own doings; never 0
}

// Liveness is what is known of a lease.
type Liveness uint8

const (
	// CannotTell: there is no answer, so nobody may be declared dead.
	CannotTell Liveness = iota
	// Live: it has not expired.
	Live
	// Dead: it expired, was released, or never was. It does not come back.
	Dead
)

// String returns the word for it.
func (l Liveness) String() string {
	switch l {
	case CannotTell:
		return "cannot tell"
	case Live:
		return "live"
	case Dead:
		return "dead"
	}
	return fmt.Sprintf("Liveness(%d)", uint8(l))
}

// How long a lease may last.
const (
	MinLease = time.Second
	MaxLease = time.Hour
)

// Errors of Leases.
var (
	// ErrLeaseHeld: another process has the node's name.
	ErrLeaseHeld = errors.New("store: lease is held")
	// ErrLeaseLost: the lease is over and will never be valid again.
	ErrLeaseLost = errors.New("store: lease is lost")
)

// ValidateLease checks what Acquire is given, for those who implement it.
func ValidateLease(node event.NodeID, life time.Duration) error {
	return errors.Join(bounds.Duration("life", life, MinLease, MaxLease, 0), event.CheckID("node", string(node)))
}
