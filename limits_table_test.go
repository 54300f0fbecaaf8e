package manydevice_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/client"
	"github.com/manydevice/manydevice/transport/membus"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// limitedTypes are all exported configs and requests.
func limitedTypes() map[string]limited {
	free3 := func(names ...string) map[string]limit {
		all := map[string]limit{}
		for _, n := range names {
			all[n] = free("for tests")
		}
		return all
	}
	return map[string]limited{
		"session.Config": {value: session.Config{}, try: tryEngine(func(c *manydevice.Config, v any) { c.Session = v.(session.Config) }), fields: map[string]limit{
			"ResumeWindow": span(time.Second, longest).zeroed().off(), "IdleTimeout": span(time.Second, longest).zeroed().off(),
			"IdleDevice": span(10*time.Minute, longest).zeroed().off(), "AbsoluteLifetime": span(time.Minute, longest).zeroed().off(),
			"TombstoneTTL": span(10*time.Minute, longest).zeroed(), "TokenRotation": span(10*time.Second, longest).zeroed().off(),
			"SweepInterval": span(time.Millisecond, longest).zeroed(), "JanitorInterval": span(time.Millisecond, longest).zeroed().off(),
			"HookTimeout": span(time.Millisecond, longest).zeroed(), "CloseTimeout": span(time.Millisecond, longest).zeroed(),
			"LeaseLife": span(store.MinLease, store.MaxLease).zeroed(), "AgeGrace": span(time.Minute, 30*365*day).zeroed().off(),
			"MaxDevices": num(1, 64).zeroed(), "LoginsPerMinute": num(1, 60_000).zeroed().off(), "FlapLimit": num(1, 16).zeroed().off(),
			"AttachesPerAccount": num(1, 1_000_000).zeroed().off(), "AttachesPerSecond": num(1, 1_000_000).zeroed().off(),
		}},
		"session.AttachRequest": {value: session.AttachRequest{}, try: trySessionAttach, fields: map[string]limit{
			"IdleTimeout": span(time.Second, longest).zeroed().off(),
		}},
		"session.EnforceRequest": {value: session.EnforceRequest{DryRun: true}, try: func(t *testing.T, s *limitScene, v any) error {
			_, err := s.engine.Sessions.Enforce(t.Context(), v.(session.EnforceRequest))
			return err
		}, fields: map[string]limit{"PerSecond": num(1, 1_000_000).zeroed().off()}},
		"session.LoginRequest":  {value: session.LoginRequest{}, fields: map[string]limit{"BackFill": free("a distance in the inbox: all there is at most")}},
		"session.KickRequest":   {value: session.KickRequest{}},
		"session.BanRequest":    {value: session.BanRequest{}},
		"session.DeleteRequest": {value: session.DeleteRequest{}},
		"session.DrainRequest": {value: session.DrainRequest{}, try: tryDrain, fields: map[string]limit{
			"Over": span(time.Millisecond, day).zeroed().off(), "Back": span(time.Millisecond, day).zeroed().off(),
		}},
		"session.ParkRequest":         {value: session.ParkRequest{}, fields: map[string]limit{"Trim": free("a sequence number")}},
		"session.RemoveDeviceRequest": {value: session.RemoveDeviceRequest{}},

		"fanout.Config": {value: fanout.Config{}, try: tryEngine(func(c *manydevice.Config, v any) { c.Fanout = v.(fanout.Config) }), fields: map[string]limit{
			"Window": num(1, 65_535).zeroed(), "WindowBytes": num(1, 1<<30).zeroed(), "LiveRing": num(1, 65_535).zeroed(),
			"LiveLife": span(time.Millisecond, longest).zeroed(), "AckWait": span(10*time.Millisecond, longest).zeroed(),
			"FrameWrite": span(10*time.Millisecond, longest).zeroed(), "CursorFlush": span(time.Millisecond, longest).zeroed(),
			"PageEntries": num(1, 65_535).zeroed(), "PageBytes": num(1, 1<<30).zeroed(), "TailCache": num(1, 1<<40).zeroed().off(),
			"MaxAge": span(10*time.Minute, longest).zeroed().off(), "MaxEntries": num(1, math.MaxInt32).zeroed().off(),
			"MaxBytes": num(128<<10, 1<<40).zeroed().off(), "KeepMinimum": span(time.Minute, longest).zeroed().off(),
			"TrimInterval": span(time.Millisecond, longest).zeroed().off(),
		}},
		"fanout.PushConfig": {
			value: fanout.PushConfig{Hook: func(context.Context, fanout.Push) error { return nil }, Delay: time.Millisecond}, prefix: "Push.",
			try: tryEngine(func(c *manydevice.Config, v any) {
				c.Fanout.Push = v.(fanout.PushConfig)
				if c.Fanout.Push.Delay > time.Hour {
					c.Fanout.Push.MaxAge = longest // which is to be more
				}
			}),
			fields: map[string]limit{
				"Delay": span(time.Millisecond, 365*day).zeroed(), "MaxAge": span(time.Second, longest).zeroed(), "HookTimeout": span(time.Millisecond, longest).zeroed(),
				"Tries": num(1, 1_000).zeroed(), "Concurrency": num(1, 1<<16).zeroed(), "Pending": num(1, 1<<24).zeroed(),
			},
		},
		"fanout.PushRules": {value: fanout.PushRules{}, prefix: "Push.Rules.", try: tryEngine(func(c *manydevice.Config, v any) {
			c.Fanout.Push.Rules = v.(fanout.PushRules)
		}), fields: map[string]limit{"Idle": span(time.Second, longest).zeroed().off()}},
		"fanout.AttachRequest": {value: fanout.AttachRequest{}, try: tryAttach, fields: map[string]limit{
			"Window": num(1, 65_535).zeroed(), "WindowBytes": num(1, 4<<20).zeroed(), "AckWait": span(10*time.Millisecond, longest).zeroed(),
			"FrameWrite": span(10*time.Millisecond, longest).zeroed(), "IdleTimeout": span(time.Second, longest).zeroed().off(),
		}},
		"fanout.SendRequest": {value: fanout.SendRequest{From: "ann", To: []event.Account{"bob"}}, try: func(t *testing.T, s *limitScene, v any) error {
			_, err := s.engine.Router.Send(t.Context(), v.(fanout.SendRequest))
			return err
		}, fields: map[string]limit{"TTL": span(time.Millisecond, longest).zeroed()}},
		"fanout.InspectOptions": {value: fanout.InspectOptions{}, try: func(t *testing.T, s *limitScene, v any) error {
			_, err := s.engine.Router.Inspect(t.Context(), "ann", v.(fanout.InspectOptions))
			return err
		}, fields: map[string]limit{"Limit": num(1, 1_000).zeroed(), "After": free("a sequence number")}},
		"fanout.PublishRequest":     {value: fanout.PublishRequest{}},
		"fanout.ClaimRequest":       {value: fanout.ClaimRequest{}},
		"fanout.MarkReadRequest":    {value: fanout.MarkReadRequest{}, fields: map[string]limit{"Seq": free("a sequence number")}},
		"fanout.ClearUnreadRequest": {value: fanout.ClearUnreadRequest{}},

		"policy.Rules": {value: policy.Rules{}, try: func(_ *testing.T, _ *limitScene, v any) error {
			_, err := policy.New(v.(policy.Rules))
			return err
		}, fields: map[string]limit{
			"PerPlatform": num(-1, math.MaxInt64), "Total": num(-1, math.MaxInt64), // what is above MaxLogins never counts
			"MaxLogins": num(1, policy.MaxLogins).zeroed(), "MinAge": span(time.Minute, longest).zeroed(),
		}},
		"policy.Group": {value: policy.Group{Name: "g", Members: []string{"ios", "web"}}, prefix: "Groups[0].", try: func(_ *testing.T, _ *limitScene, v any) error {
			_, err := policy.New(policy.Rules{Platforms: map[event.Platform]int{"ios": 1, "web": 1}, Groups: []policy.Group{v.(policy.Group)}})
			return err
		}, fields: map[string]limit{"Limit": num(1, math.MaxInt64)}},
		"event.KindInfo":     {value: event.KindInfo{}, fields: map[string]limit{"Code": free("another vendor's number")}},
		"sessionhttp.Config": {value: sessionhttp.Config{}},
		"manydevice.Config":  {value: manydevice.Config{}},

		"boltstore.Config": {value: boltstore.Config{}, try: func(t *testing.T, _ *limitScene, v any) error {
			st, err := boltstore.Open(filepath.Join(t.TempDir(), "store"), v.(boltstore.Config))
			if err != nil {
				return err
			}
			return st.Close(t.Context())
		}, fields: map[string]limit{
			"MaxSize": num(4<<20, 128<<40).zeroed().off(), "Memory": num(1<<20, 4<<30).zeroed(), "LockTimeout": span(time.Millisecond, longest).zeroed().off(),
		}},
		"boltstore.DumpOptions": {value: boltstore.DumpOptions{}},
		"memstore.Config":       {value: memstore.Config{MaxBytes: 1 << 20}, try: tryMemstore, fields: map[string]limit{"MaxBytes": anything, "Reserve": anything}},
		"membus.Config":         {value: membus.Config{}, try: tryMembus, fields: map[string]limit{"Queue": anything}},
		"client.Config": {value: client.Config{}, try: func(_ *testing.T, _ *limitScene, v any) error {
			client.New(client.State{Held: []event.MessageID{"m"}}, v.(client.Config))
			return nil
		}, fields: map[string]limit{"Keep": anything}},
		"store.ReadOptions": {value: store.ReadOptions{}, fields: map[string]limit{
			"After": free("a sequence number"), "Known": free("a sequence number"), "Limit": free("the engine's own"), "MaxBytes": free("the engine's own"),
		}},
		"store.StateOptions":        {value: store.StateOptions{}, fields: map[string]limit{"Newer": free("a sequence number"), "Limit": free("the engine's own")}},
		"store.ConversationOptions": {value: store.ConversationOptions{}, fields: map[string]limit{"Limit": free("the engine's own")}},

		"storetest.Harness":           {value: storetest.Harness{}, fields: free3("Steps")},
		"storetest.LeaseHarness":      {value: storetest.LeaseHarness{}},
		"transporttest.PairConfig":    {value: transporttest.PairConfig{}, fields: free3("MaxFrames", "MaxBytes", "MaxEntry")},
		"transporttest.DeviceConfig":  {value: transporttest.DeviceConfig{}},
		"transporttest.AttachRequest": {value: transporttest.AttachRequest{}},
		"transporttest.ConnHarness":   {value: transporttest.ConnHarness{}, fields: free3("Timeout", "MaxEntry")},
		"transporttest.BusHarness":    {value: transporttest.BusHarness{}, fields: free3("Timeout")},
	}
}

func tryEngine(set func(c *manydevice.Config, v any)) func(*testing.T, *limitScene, any) error {
	return func(t *testing.T, _ *limitScene, v any) error {
		var c manydevice.Config
		set(&c, v)
		st := memstore.New(memstore.Config{})
		engine, err := manydevice.Open(st, c)
		if err == nil {
			err = engine.Close(context.Background())
		}
		return errors.Join(err, st.Close(context.Background()))
	}
}

// tryDrain drains an engine, and a registry without fan-out, which say the same.
func tryDrain(t *testing.T, _ *limitScene, v any) error {
	st := memstore.New(memstore.Config{})
	defer st.Close(context.Background())
	engine, err := manydevice.Open(st, manydevice.Config{})
	require.NoError(t, err)
	err = engine.Drain(t.Context(), v.(session.DrainRequest))
	alone := engine.Sessions.Drain(t.Context(), v.(session.DrainRequest))
	require.Equal(t, err == nil, alone == nil, "%v, and %v", err, alone)
	require.NoError(t, engine.Close(context.Background()))
	return err
}

func trySessionAttach(t *testing.T, s *limitScene, v any) error {
	q := v.(session.AttachRequest)
	q.Account, q.Login, q.Token = "ann", s.aloneLogin.Session.Login, s.aloneLogin.Token
	c, err := s.alone.Attach(t.Context(), q, transporttest.NewPair(transporttest.PairConfig{}).Conn())
	if err == nil {
		c.Detach()
	}
	return err
}

func tryAttach(t *testing.T, s *limitScene, v any) error {
	q := v.(fanout.AttachRequest)
	q.Account, q.Login, q.Token = "ann", s.login.Session.Login, s.login.Token
	a, err := s.engine.Router.Attach(t.Context(), q, transporttest.NewPair(transporttest.PairConfig{}).Conn())
	if err == nil {
		a.Detach()
	}
	return err
}

// tryMemstore appends and uses the reserve: nothing of it overflows.
func tryMemstore(t *testing.T, _ *limitScene, v any) error {
	c := v.(memstore.Config)
	if c.MaxBytes > 0 && c.MaxBytes < 1<<10 {
		return nil // it is full, which is an error of each send
	}
	st := memstore.New(c)
	defer st.Close(context.Background())
	issuer := event.NewIssuer(st.Info().IDKey)
	for _, reserve := range []bool{false, true} {
		_, err := st.Commit(t.Context(), store.Batch{Account: "ann", Now: time.Now(), Reserve: reserve, Messages: []store.Message{{
			ID: issuer.Issue(), Kind: event.KindMessage, From: "ann", Payload: []byte("x"), To: []store.Inbox{{Account: "ann"}},
		}}})
		if err != nil {
			return err
		}
	}
	return nil
}

func tryMembus(t *testing.T, _ *limitScene, v any) error {
	bus := membus.New(v.(membus.Config))
	_, err := bus.Subscribe("n", func([]byte) []byte { return nil })
	return errors.Join(err, bus.Close(t.Context()))
}
