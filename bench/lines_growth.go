package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

const (
	entriesPerAccount = 10
	growthSenders     = 64
	growthLogins      = 2_000 // accounts of a store that are looked at in turns
	unreadLookups     = 3     // for an unread count of one conversation: head, count, read mark
)

func growthLines(sc lab.Scale) []lab.Line {
	small := fmt.Sprintf("ours, %d accounts", sc.SmallGrown)
	return []lab.Line{
		{
			Name: fmt.Sprintf("growth/send/accounts=%d", sc.LargeGrown), Unit: "µs/message", Against: small, Goal: lab.AtMost(1.5),
			Latency: "Latency of sends in a large file and a small one",
			Notes: fmt.Sprintf("What a message of 512 B costs with 64 senders in a file of %d accounts and %d entries, against one of %d and %d.",
				sc.LargeGrown, sc.LargeGrown*entriesPerAccount, sc.SmallGrown, sc.SmallGrown*entriesPerAccount),
			Prepare: growth(grownSends),
		},
		{
			Name: fmt.Sprintf("growth/attach/accounts=%d", sc.LargeGrown), Unit: "µs p50", Against: small, Goal: lab.AtMost(1.5),
			Latency: "Latency of attaching in a large file and a small one",
			Notes:   "Attach of a device that has nothing to catch up with, in the same two files, in up to 2,000 accounts in turns.",
			Prepare: growth(grownAttaches),
		},
		{
			Name: fmt.Sprintf("growth/catch-up/accounts=%d", sc.LargeGrown), Unit: "µs p50", Against: small, Goal: lab.AtMost(1.5),
			Latency: "Latency of catching up in a large file and a small one",
			Notes:   fmt.Sprintf("Attach of a device that has the last %d entries to catch up with.", entriesPerAccount),
			Prepare: growth(grownCatchUps),
		},
		{
			Name: fmt.Sprintf("growth/unread/accounts=%d", sc.LargeGrown), Unit: "µs p50", Against: small, Goal: lab.AtMost(1.5),
			Latency: "Latency of unread counts in a large file and a small one",
			Notes:   "Unread count of a conversation, in up to 2,000 accounts in turns.",
			Prepare: growth(grownUnread),
		},
		{
			Name: fmt.Sprintf("growth/trim/accounts=%d", sc.LargeGrown), Unit: "µs p50", Against: small, Goal: lab.AtMost(1.5),
			Latency: "Latency of trimming in a large file and a small one",
			Notes:   "Removal of the oldest entry of an inbox, with its payload, one at a time: a commit each.",
			Prepare: growth(grownTrims),
		},
		{
			Name: fmt.Sprintf("growth/lookups/accounts=%d", sc.LargeGrown), Unit: "µs p50", Against: "bbolt alone", Goal: lab.AtMost(1.3),
			Latency: "Latency of unread counts and of lookups in the same large file",
			Notes: fmt.Sprintf("An unread count in the larger file, in accounts drawn at random from all, against %d lookups of bbolt alone in the same file: "+
				"of the rows that begin with an account's name, in each bucket that has such rows, in accounts drawn at random, too.",
				unreadLookups),
			Prepare: unreadAgainstLookups,
		},
		{
			Name: fmt.Sprintf("growth/open-after-kill/entries=%d", sc.LargeGrown*entriesPerAccount), Unit: "s", Against: "bbolt's own open",
			Goal: lab.AtMostMore(2),
			Notes: fmt.Sprintf("Opening the larger file after its process was killed in the middle of sends, at least %d messages after it "+
				"had been opened, and reading one inbox; against bbolt opening the same file and reading one key. The ratio column "+
				"has the difference in seconds. The file is in the page cache.", sc.Unfolded),
			Prepare: openAfterKill,
		},
	}
}

func grownSends(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error) {
	before, err := entries(e.Store, accounts)
	if err != nil {
		return nil, err
	}
	t := ours.NewTraffic(accounts, ours.Payload(ours.PayloadBytes))
	s.Cleanup(func() error { return allThere(e.Store, accounts, before+2*t.Sent()) })
	return func() (lab.Sample, error) {
		sample, err := lab.Load{
			Workers: min(growthSenders, s.Scale.Crowd), Warm: s.Scale.Warm, Time: s.Scale.Time,
			Op: func(int, int) (int, error) { return 1, t.Send(s.Context(), e) },
		}.Run(s.Context())
		sample.Value = 1e6 / sample.Value
		return sample, err
	}, nil
}

func grownAttaches(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error) {
	ctx := s.Context()
	logins, err := grownLogins(s, e, accounts)
	if err != nil {
		return nil, err
	}
	for _, l := range logins { // the first attach has everything to catch up with
		if err := attachOnce(ctx, e, l, nil); err != nil {
			return nil, err
		}
	}
	return func() (lab.Sample, error) {
		return lab.Timed(s.Scale.Ops*10, time.Microsecond, func(i int) error { return attachOnce(ctx, e, logins[i%len(logins)], nil) })
	}, e.Router.Flush(ctx)
}

// grownLogins returns logins of some accounts, drawn at random.
func grownLogins(s *lab.Scene, e *ours.Engine, accounts int) ([]*session.LoginResult, error) {
	logins := make([]*session.LoginResult, min(accounts, growthLogins))
	err := repeat(min(loginsAtOnce, s.Scale.Crowd), len(logins), func(i int) (err error) {
		logins[i], err = e.Login(s.Context(), ours.Account(ours.Scatter(uint64(i), accounts)), i)
		return err
	})
	return logins, err
}

func grownCatchUps(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error) {
	logins, err := grownLogins(s, e, accounts)
	if err != nil {
		return nil, err
	}
	catchUp := func(i int) error {
		l := logins[i%len(logins)]
		from := l.Position
		from.Seq -= min(entriesPerAccount, from.Seq)
		return attachOnce(s.Context(), e, l, &from)
	}
	for i := range logins {
		if err := catchUp(i); err != nil {
			return nil, err
		}
	}
	return func() (lab.Sample, error) { return lab.Timed(s.Scale.Ops, time.Microsecond, catchUp) }, nil
}

func grownUnread(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error) {
	return unreadIn(s, e, accounts, min(accounts, growthLogins))
}

// unreadIn asks some of the accounts in turns.
func unreadIn(s *lab.Scene, e *ours.Engine, accounts, some int) (lab.Run, error) {
	n := 0
	return func() (lab.Sample, error) {
		return lab.Timed(s.Scale.Ops, time.Microsecond, func(int) error {
			n++
			i := ours.Scatter(uint64(n%some), accounts)
			u, err := e.Router.Unread(s.Context(), ours.Account(i), ours.Conversation(i))
			if err == nil && u.Total < entriesPerAccount {
				err = fmt.Errorf("%d unread, want at least %d", u.Total, entriesPerAccount)
			}
			return err
		})
	}, nil
}

func grownTrims(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error) {
	ctx := s.Context()
	through := make([]uint64, min(accounts, growthLogins))
	account := func(i int) event.Account { return ours.Account(ours.Scatter(uint64(i), accounts)) }
	for i := range through {
		page, err := e.Store.Read(ctx, account(i), store.ReadOptions{})
		if err != nil {
			return nil, err
		}
		through[i] = page.Head.Trim
	}
	n := 0
	return func() (lab.Sample, error) {
		return lab.Timed(s.Scale.Ops, time.Microsecond, func(int) error {
			i := n % len(through)
			n++
			through[i]++
			head, err := e.Store.Trim(ctx, account(i), through[i], 1)
			if err == nil && head.Trim < through[i] {
				err = errors.New("nothing was removed")
			}
			return err
		})
	}, nil
}

func attachOnce(ctx context.Context, e *ours.Engine, l *session.LoginResult, from *event.Position) error {
	d := ours.NewDevice()
	att, err := e.Attach(ctx, l, d, from)
	if err != nil {
		return err
	}
	defer att.Detach()
	return d.CaughtUp(ctx)
}

func openAfterKill(s *lab.Scene) (lab.Run, lab.Run, error) {
	source, err := grown(s, s.Scale.LargeGrown)
	if err != nil {
		return nil, nil, err
	}
	killed, err := s.File()
	if err != nil {
		return nil, nil, err
	}
	if err := copyStore(killed, source); err != nil {
		return nil, nil, err
	}
	if err := ours.Killed(s, killed, s.Scale.LargeGrown, s.Scale.Unfolded); err != nil {
		return nil, nil, err
	}
	run := func(open func(path string) (time.Duration, error)) lab.Run {
		return s.Fresh(func(s *lab.Scene) (lab.Sample, error) {
			path, err := s.File()
			if err != nil {
				return lab.Sample{}, err
			}
			if err := copyStore(path, killed); err != nil {
				return lab.Sample{}, err
			}
			took, err := open(path)
			return lab.Sample{Value: took.Seconds()}, err
		})
	}
	return run(ourOpen), run(boltOpen), nil
}

func ourOpen(path string) (time.Duration, error) {
	ctx := context.Background()
	from := time.Now()
	st, err := ours.OpenStore(path, 0)
	if err != nil {
		return 0, err
	}
	page, err := st.Read(ctx, ours.Account(0), store.ReadOptions{Limit: 1})
	took := time.Since(from)
	if err == nil && len(page.Entries) != 1 {
		err = errors.New("inbox is empty")
	}
	return took, errors.Join(err, st.Close(ctx))
}

func unreadAgainstLookups(s *lab.Scene) (lab.Run, lab.Run, error) {
	accounts := s.Scale.LargeGrown
	all := func(s *lab.Scene, e *ours.Engine, accounts int) (lab.Run, error) {
		return unreadIn(s, e, accounts, accounts)
	}
	counts, err := grownSide(s, all, accounts)
	if err != nil {
		return nil, nil, err
	}
	path, err := copied(s, accounts)
	if err != nil {
		return nil, nil, err
	}
	lookups, err := boltLookups(s, path, accounts)
	return counts, lookups, err
}

// boltLookups looks up rows of accounts in transactions of unreadLookups each.
func boltLookups(s *lab.Scene, path string, accounts int) (lab.Run, error) {
	db, err := raw.OpenBolt(path)
	if err != nil {
		return nil, err
	}
	s.Cleanup(db.Close)
	buckets, err := raw.BucketsWith(db, []byte(ours.Account(0)))
	if err != nil {
		return nil, err
	}
	n := uint64(0)
	lookup := func(account func(n uint64) int) error {
		return db.View(func(tx *bbolt.Tx) error {
			for i := range unreadLookups {
				name := []byte(ours.Account(account(n)))
				k, _ := tx.Bucket(buckets[i%len(buckets)]).Cursor().Seek(name)
				if !bytes.HasPrefix(k, name) {
					return fmt.Errorf("%s has no row", name)
				}
				if (i+1)%len(buckets) == 0 {
					n++ // the next account
				}
			}
			return nil
		})
	}
	for n < uint64(accounts) { // so that the pages are mapped, as on the other side
		if err := lookup(func(n uint64) int { return int(n) % accounts }); err != nil {
			return nil, err
		}
	}
	return func() (lab.Sample, error) {
		return lab.Timed(s.Scale.Ops, time.Microsecond, func(int) error {
			return lookup(func(n uint64) int { return ours.Scatter(n, accounts) })
		})
	}, nil
}

func boltOpen(path string) (time.Duration, error) {
	from := time.Now()
	db, err := raw.OpenBolt(path)
	if err != nil {
		return 0, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if k, _ := tx.Cursor().First(); k == nil {
			return errors.New("file is empty")
		}
		return nil
	})
	return time.Since(from), errors.Join(err, db.Close())
}
