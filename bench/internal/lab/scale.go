package lab

import "time"

// Scale says how large and how long measurements are.
type Scale struct {
	Name string
	Runs int // of each side, alternating

	Warm, Time time.Duration // of a run: not counted, then counted
	Long       time.Duration // of the sustained run, before its debt is paid
	Memory     int64         // bytes that memtables and caches may take in the sustained run; 0: as they come
	Ops        int           // single operations of a run whose latency is measured one by one

	Accounts    []int // in a file that is sent to, smallest first
	Peer        int   // accounts in a file that is compared with others that keep inboxes
	Senders     []int // at the same time, smallest first
	Devices     []int // of an account, smallest first
	Crowd       int   // senders or logins at once where only one number is measured
	Live        int   // accounts of the live lines
	Logins      []int // attached at once for the memory lines, smallest first
	CatchUp     int   // entries that a device comes back to
	SmallGrown  int   // accounts of the smaller store of the growth lines, 10 entries each
	LargeGrown  int   // accounts of the larger one
	Unfolded    int   // messages that were sent right before the process was killed
	Members     int   // of a large group
	Readers     int   // messages that four readers read
	Sessions    int   // accounts where a peer is compared that has sessions for each
	PeerSenders int   // at the same time, where a peer takes a commit for each message
	FileSize    int   // messages in a file whose size is looked at
	States      int   // conversations with state
}

// Smoke is for tests: it shows that everything works, and its numbers mean nothing.
func Smoke() Scale {
	return Scale{
		Name: "smoke", Runs: 1, Warm: 2 * time.Millisecond, Time: 10 * time.Millisecond, Long: 60 * time.Millisecond, Ops: 20,
		Accounts: []int{64}, Peer: 64, Memory: 1 << 20, Senders: []int{4}, Devices: []int{4}, Crowd: 8, Live: 4, Logins: []int{40}, CatchUp: 300,
		SmallGrown: 16, LargeGrown: 32, Unfolded: 50, Members: 50, Readers: 40, Sessions: 2, PeerSenders: 8, FileSize: 200, States: 20,
	}
}

// Quick takes a few minutes.
func Quick() Scale {
	return Scale{
		Name: "quick", Runs: 3, Warm: 100 * time.Millisecond, Time: 300 * time.Millisecond, Long: 2 * time.Second, Memory: 16 << 20, Ops: 400,
		Accounts: []int{2_000, 10_000, 50_000}, Peer: 50_000, Senders: []int{1, 64, 1024}, Devices: []int{1, 4, 16}, Crowd: 1024, Live: 1_000,
		Logins: []int{1_000, 10_000}, CatchUp: 20_000, SmallGrown: 1_000, LargeGrown: 10_000, Unfolded: 20_000, Members: 10_000,
		Readers: 2_000, Sessions: 64, PeerSenders: 64, FileSize: 100_000, States: 1_000,
	}
}

// Full is what the goals are about.
func Full() Scale {
	return Scale{
		Name: "full", Runs: 5, Warm: time.Second, Time: 3 * time.Second, Long: time.Minute, Ops: 4_000,
		Accounts: []int{10_000, 100_000, 1_000_000}, Peer: 50_000, Senders: []int{1, 16, 64, 256, 1024}, Devices: []int{1, 2, 4, 8, 16},
		Crowd: 1024, Live: 2_500, Logins: []int{1_000, 10_000, 100_000}, CatchUp: 100_000, SmallGrown: 10_000,
		LargeGrown: 1_000_000, Unfolded: 200_000, Members: 10_000, Readers: 10_000, Sessions: 256, PeerSenders: 1024, FileSize: 500_000, States: 1_000,
	}
}

// Largest returns the last number of an axis.
func Largest(axis []int) int { return axis[len(axis)-1] }
