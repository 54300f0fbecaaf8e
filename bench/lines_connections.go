package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/manydevice/manydevice/bench/internal/fuge"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/session"
)

func connectionLines(lab.Scale) []lab.Line {
	return []lab.Line{{
		Name: "connect", Unit: "µs p50", Against: centrifuge, Goal: lab.AtMost(1), Latency: "Latency of a connect",
		Notes: "A device attaches to its login, is caught up and goes; Centrifuge: a client connects, is subscribed by the server with " +
			"recovery, and goes. Ours checks the resume token and replays from the cursor.",
		Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) { return s.Fresh(ourConnects), s.Fresh(fugeConnects), nil },
	}}
}

func ourConnects(s *lab.Scene) (lab.Sample, error) {
	cfg, err := ours.Config()
	if err != nil {
		return lab.Sample{}, err
	}
	e, err := ours.Memory(s, cfg)
	if err != nil {
		return lab.Sample{}, err
	}
	ctx := s.Context()
	logins := make([]*session.LoginResult, 100)
	for i := range logins {
		if logins[i], err = e.Login(ctx, ours.Account(i), 0); err != nil {
			return lab.Sample{}, err
		}
	}
	return lab.Timed(s.Scale.Ops*10, time.Microsecond, func(i int) error {
		d := ours.NewDevice()
		att, err := e.Attach(ctx, logins[i%len(logins)], d, nil)
		if err != nil {
			return err
		}
		defer att.Detach()
		return d.CaughtUp(ctx)
	})
}

func fugeConnects(s *lab.Scene) (lab.Sample, error) {
	node, err := fuge.NewNode(s, liveKept)
	if err != nil {
		return lab.Sample{}, err
	}
	users := make([]context.Context, 100)
	for i := range users {
		users[i] = fuge.User(s.Context(), string(ours.Account(i)))
	}
	return lab.Timed(s.Scale.Ops*10, time.Microsecond, func(i int) error {
		c, err := node.Connect(users[i%len(users)], new(fuge.Transport))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func memoryLines(sc lab.Scale) []lab.Line {
	var all []lab.Line
	largest := lab.Largest(sc.Logins)
	line := func(name, chart string, n int, goal lab.Goal, notes string, run func(*lab.Scene, int) (lab.Sample, error)) {
		headline := ""
		if chart != "" && n == largest {
			headline = "memory of an idle attached login"
		}
		all = append(all, lab.Line{
			Name: fmt.Sprintf("%s=%d", name, n), Headline: headline, Unit: "bytes", Against: "a Centrifuge client", Goal: goal, Notes: notes, Chart: chart,
			X: float64(n), Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
				our := func(n int) lab.Run {
					return s.Fresh(func(s *lab.Scene) (lab.Sample, error) { return run(s, n) })
				}
				reference := func(n int) lab.Run {
					return s.Fresh(func(s *lab.Scene) (lab.Sample, error) { return fugeMemory(s, n) })
				}
				// What is made once stays: stacks that the runtime keeps, pools, tables of packages.
				for _, warm := range []lab.Run{our(min(n, 1_000)), reference(min(n, 1_000))} {
					if _, err := warm(); err != nil {
						return nil, nil, err
					}
				}
				return our(n), reference(n), nil
			},
		})
	}
	for _, n := range sc.Logins {
		line("memory/attached", "Memory of an attached login over logins", n, lab.AtMost(0.1),
			"Heap and stacks that an engine takes for an idle login that is attached, after collection, 4 of each account: its "+
				"caches included, without what the host keeps for the connection and what the store has. "+
				"Centrifuge: a client that is subscribed with recovery, without pings.",
			func(s *lab.Scene, n int) (lab.Sample, error) { return ourMemory(s, n, false) })
	}
	line("memory/attached-and-stored", "", largest, lab.AtMost(0.5),
		"The same with what the store in memory keeps of the login: record, device, cursor, the account's device events. A store "+
			"in a file keeps that on disk.",
		func(s *lab.Scene, n int) (lab.Sample, error) { return ourMemory(s, n, true) })
	return all
}

// ourMemory measures what n attached logins take: with all that the store in memory has of them, or only what another
// engine over the same store takes.
func ourMemory(s *lab.Scene, n int, stored bool) (lab.Sample, error) {
	const perAccount = 4
	cfg, err := ours.Config()
	if err != nil {
		return lab.Sample{}, err
	}
	e, err := ours.Memory(s, cfg)
	if err != nil {
		return lab.Sample{}, err
	}
	ctx := s.Context()
	logins := make([]*session.LoginResult, n)
	devices := make([]ours.Device, n)
	before := lab.InUse()
	for i := range logins {
		l, err := e.Login(ctx, ours.Account(i/perAccount), i%perAccount)
		if err != nil {
			return lab.Sample{}, err
		}
		// What is needed to attach, and nothing that the caller alone keeps.
		logins[i] = &session.LoginResult{Token: l.Token, Session: session.Session{Account: l.Session.Account, Login: l.Session.Login}}
	}
	if !stored {
		if err := e.Close(ctx); err != nil {
			return lab.Sample{}, err
		}
		before = lab.InUse()
		if e, err = ours.Over(s, e.Store, cfg); err != nil {
			return lab.Sample{}, err
		}
	}
	for i, l := range logins {
		if _, err := e.Attach(ctx, l, &devices[i], nil); err != nil {
			return lab.Sample{}, err
		}
	}
	if err := rest(ctx, e, devices); err != nil {
		return lab.Sample{}, err
	}
	sample := perLogin(before, lab.InUse(), n)
	runtime.KeepAlive(logins) // what the caller keeps counts on neither side
	runtime.KeepAlive(devices)
	return sample, nil
}

// rest waits until all devices are caught up and everything that is pending is written.
func rest(ctx context.Context, e *ours.Engine, devices []ours.Device) error {
	for i := range devices {
		for !devices[i].Caught() {
			if err := ctx.Err(); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	return e.Router.Flush(ctx)
}

func fugeMemory(s *lab.Scene, n int) (lab.Sample, error) {
	const perUser = 4
	node, err := fuge.NewNode(s, liveKept)
	if err != nil {
		return lab.Sample{}, err
	}
	users := make([]context.Context, (n+perUser-1)/perUser)
	for i := range users {
		users[i] = fuge.User(s.Context(), string(ours.Account(i)))
	}
	transports := make([]fuge.Transport, n)
	clients := make([]*fuge.Client, n)
	before := lab.InUse()
	for i := range clients {
		if clients[i], err = node.Connect(users[i/perUser], &transports[i]); err != nil {
			return lab.Sample{}, err
		}
	}
	sample := perLogin(before, lab.InUse(), n)
	runtime.KeepAlive(transports)
	for _, c := range clients {
		if err := c.Close(); err != nil {
			return lab.Sample{}, err
		}
	}
	return sample, nil
}

func perLogin(before, after lab.Memory, n int) lab.Sample {
	return lab.Sample{Value: float64(max(after.Since(before), 1)) / float64(n)}
}
