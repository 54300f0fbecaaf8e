package transporttest_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/transporttest"
)

func pong(s string) *event.Pong { return &event.Pong{Nonce: s} }

func pongs(n int) []event.Frame {
	var out []event.Frame
	for i := range n {
		out = append(out, pong(string(rune('a'+i))))
	}
	return out
}

// drain receives until nothing is there, without waiting.
func drain(p *transporttest.Pair) (out []event.Frame) {
	for {
		f, ok := p.TryReceive()
		if !ok {
			return out
		}
		out = append(out, f)
	}
}

// bubble runs a test with a pair in a synctest bubble.
func bubble(t *testing.T, cfg transporttest.PairConfig, test func(t *testing.T, p *transporttest.Pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, transporttest.NewPair(cfg)) })
}

func TestPairKeepsTheContract(t *testing.T) {
	open := func(cfg transporttest.PairConfig) func(testing.TB) (transport.Conn, transporttest.Peer) {
		return func(t testing.TB) (transport.Conn, transporttest.Peer) {
			p := transporttest.NewPair(cfg)
			t.Cleanup(func() { require.Empty(t, p.Faults()) })
			return p.Conn(), p
		}
	}
	for _, tt := range []struct {
		name string
		h    transporttest.ConnHarness
	}{
		{"bounded bytes", transporttest.ConnHarness{Open: open(transporttest.PairConfig{MaxBytes: 256 << 10, Addr: "here", NoRecord: true})}},
		{"bounded frames", transporttest.ConnHarness{Open: open(transporttest.PairConfig{MaxFrames: 1})}},
		{"no bound", transporttest.ConnHarness{Open: open(transporttest.PairConfig{NoRecord: true}), NoBackpressure: true}},
		{"skips", transporttest.ConnHarness{Open: open(transporttest.PairConfig{MaxBytes: 256 << 10, MaxEntry: 64 << 10}), MaxEntry: 64 << 10}},
		{"never waits and skips", transporttest.ConnHarness{
			Open: open(transporttest.PairConfig{MaxBytes: 2 << 20, MaxEntry: 64 << 10, NonBlocking: true}), MaxEntry: 64 << 10, NoBackpressure: true,
		}},
		{"never waits", transporttest.ConnHarness{Open: open(transporttest.PairConfig{MaxFrames: 512, NonBlocking: true}), NoBackpressure: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			transporttest.TestConn(t, tt.h)
		})
	}
}

func TestPairBounds(t *testing.T) {
	entry := event.Seal(event.Entry{Seq: 1, Payload: make([]byte, 100)})
	data := &event.Data{Seq: 1, Entries: []*event.Sealed{entry}}
	page := &event.StatePage{States: []event.State{{Value: make([]byte, 200)}}}
	live := &event.Live{Event: entry}
	for _, tt := range []struct {
		name  string
		cfg   transporttest.PairConfig
		send  []event.Frame
		taken int
	}{
		{"frames", transporttest.PairConfig{MaxFrames: 2}, pongs(3), 2},
		{"bytes", transporttest.PairConfig{MaxBytes: 64*2 + 10}, pongs(3), 2},
		{"entries count", transporttest.PairConfig{MaxBytes: 64 + 164 + 63}, []event.Frame{data, pong("")}, 1},
		{"states count", transporttest.PairConfig{MaxBytes: 64 + 264 + 64}, []event.Frame{page, pong(""), pong("")}, 2},
		{"live events count", transporttest.PairConfig{MaxBytes: 64 + 164 + 63}, []event.Frame{live, pong("")}, 1},
		{"an empty buffer takes any frame", transporttest.PairConfig{MaxBytes: 1}, []event.Frame{page, pong("")}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, tt.cfg, func(t *testing.T, p *transporttest.Pair) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				require.ErrorIs(t, p.Conn().Send(ctx, tt.send), context.DeadlineExceeded)
				frames, _ := p.Buffered()
				require.Equal(t, tt.taken, frames)
				require.Equal(t, tt.send[:tt.taken], drain(p))
				frames, bytes := p.Buffered()
				require.Zero(t, frames+bytes)
			})
			cfg := tt.cfg
			cfg.NonBlocking = true
			p := transporttest.NewPair(cfg)
			require.True(t, p.Conn().NonBlocking())
			told := 0
			p.Conn().NotifyDrained(func() { told++ })
			require.NoError(t, p.Conn().Send(t.Context(), tt.send), "an empty buffer takes any batch")
			require.ErrorIs(t, p.Conn().Send(t.Context(), tt.send), transport.ErrFull)
			require.Equal(t, tt.send, drain(p), "all of one and nothing of the other")
			require.Equal(t, 1, told)
			require.NoError(t, p.Conn().Send(t.Context(), tt.send))
		})
	}
	t.Run("reading makes room", func(t *testing.T) {
		bubble(t, transporttest.PairConfig{MaxFrames: 1}, func(t *testing.T, p *transporttest.Pair) {
			sent := make(chan error, 1)
			go func() { sent <- p.Conn().Send(t.Context(), pongs(3)) }()
			synctest.Wait()
			for _, want := range pongs(3) {
				got, err := p.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			require.NoError(t, <-sent)
		})
	})
}

func TestPairBlock(t *testing.T) {
	bubble(t, transporttest.PairConfig{}, func(t *testing.T, p *transporttest.Pair) {
		p.Block()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, p.Conn().Send(ctx, pongs(1)), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))

		sent := make(chan error, 1)
		go func() { sent <- p.Conn().Send(t.Context(), pongs(2)) }()
		synctest.Wait()
		require.Empty(t, drain(p))
		p.Unblock()
		require.NoError(t, <-sent)
		require.Equal(t, pongs(2), drain(p))

		p.Block()
		go func() { sent <- p.Conn().Send(t.Context(), pongs(1)) }()
		synctest.Wait()
		require.NoError(t, p.Conn().Close(event.Slow.Closed(0)))
		require.ErrorIs(t, <-sent, transport.ErrClosed)
		require.Empty(t, p.Faults())
	})
}

func TestPairEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		end    func(p *transporttest.Pair) error
		err    error // of Send
		frames int   // that the device still gets, besides the reason
		reason bool
	}{
		{"close", func(p *transporttest.Pair) error { return p.Conn().Close(event.Replaced.Closed(0)) }, transport.ErrClosed, 2, true},
		{"cut", func(p *transporttest.Pair) error { p.Cut(); return nil }, transporttest.ErrCut, 2, false},
		{"hangup", func(p *transporttest.Pair) error { p.Hangup(); return nil }, transporttest.ErrHangup, 0, false},
		{"cut, then closed", func(p *transporttest.Pair) error { p.Cut(); return p.Conn().Close(event.Lost.Closed(0)) }, transporttest.ErrCut, 2, false},
		{"closed, then cut", func(p *transporttest.Pair) error { err := p.Conn().Close(event.Lost.Closed(0)); p.Cut(); return err }, transport.ErrClosed, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, transporttest.PairConfig{}, func(t *testing.T, p *transporttest.Pair) {
				require.NoError(t, p.Conn().Send(t.Context(), pongs(2)))
				select {
				case <-p.Done():
					require.Fail(t, "done too early")
				default:
				}
				require.NoError(t, tt.end(p))
				<-p.Done()
				require.ErrorIs(t, p.Conn().Send(t.Context(), pongs(1)), tt.err)
				require.ErrorIs(t, p.Conn().Send(t.Context(), nil), tt.err)
				got := drain(p)
				_, closed := p.Closed()
				if tt.reason {
					require.IsType(t, &event.Closed{}, got[len(got)-1])
					require.True(t, closed)
					got = got[:len(got)-1]
				}
				require.Len(t, got, tt.frames)
				_, err := p.Receive(t.Context())
				require.ErrorIs(t, err, io.EOF)
			})
		})
	}
}

func TestPairDelay(t *testing.T) {
	bubble(t, transporttest.PairConfig{}, func(t *testing.T, p *transporttest.Pair) {
		start := time.Now()
		p.Delay(time.Second)
		require.NoError(t, p.Conn().Send(t.Context(), []event.Frame{pong("late")}))
		p.Delay(-1)
		require.NoError(t, p.Conn().Send(t.Context(), []event.Frame{pong("early")}))
		require.Empty(t, drain(p), "in order")
		f, err := p.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, pong("late"), f)
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, []event.Frame{pong("early")}, drain(p))

		p.Delay(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = p.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		p.Delay(0)
		require.NoError(t, p.Conn().Send(t.Context(), []event.Frame{pong("arrived")}))
		p.Delay(time.Second)
		require.NoError(t, p.Conn().Send(t.Context(), []event.Frame{pong("in flight")}))
		p.Cut()
		require.Equal(t, []event.Frame{pong("arrived")}, drain(p), "what is in flight is lost")
		_, err = p.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestPairDropAfter(t *testing.T) {
	bubble(t, transporttest.PairConfig{}, func(t *testing.T, p *transporttest.Pair) {
		require.NoError(t, p.Conn().Send(t.Context(), pongs(2)))
		p.DropAfter(1)
		require.NoError(t, p.Conn().Send(t.Context(), pongs(3)))
		require.Len(t, drain(p), 3)
		require.Len(t, p.Sent(), 5)
		p.DropAfter(-1)
		require.NoError(t, p.Conn().Send(t.Context(), pongs(1)))
		require.Len(t, drain(p), 1)
		p.DropAfter(0)
		require.NoError(t, p.Conn().Close(event.Slow.Closed(0)))
		require.Empty(t, drain(p), "the reason is swallowed too")
		got, ok := p.Closed()
		require.True(t, ok)
		require.Equal(t, event.Slow, got.Reason)
	})
}

func TestS27_CloseBlocksOrPanics(t *testing.T) {
	t.Run("blocks", func(t *testing.T) {
		bubble(t, transporttest.PairConfig{}, func(t *testing.T, p *transporttest.Pair) {
			release := p.BlockClose()
			closed := make(chan error, 1)
			go func() { closed <- p.Conn().Close(event.Slow.Closed(0)) }()
			synctest.Wait()
			require.Empty(t, closed)
			<-p.Done()
			release()
			release()
			require.NoError(t, <-closed)
		})
	})
	t.Run("panics", func(t *testing.T) {
		p := transporttest.NewPair(transporttest.PairConfig{})
		p.PanicOnClose("boom")
		require.PanicsWithValue(t, "boom", func() { _ = p.Conn().Close(event.Closed{}) })
		<-p.Done()
	})
	t.Run("fails", func(t *testing.T) {
		p := transporttest.NewPair(transporttest.PairConfig{})
		want := errors.New("no")
		p.FailClose(want)
		require.ErrorIs(t, p.Conn().Close(event.Closed{}), want)
	})
}

func TestPairFaults(t *testing.T) {
	bubble(t, transporttest.PairConfig{}, func(t *testing.T, p *transporttest.Pair) {
		p.Block()
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- p.Conn().Send(t.Context(), pongs(1)) }()
		}
		synctest.Wait()
		require.Len(t, p.Faults(), 1, "overlapping Sends")
		require.NoError(t, p.Conn().Close(event.Closed{}))
		<-done
		<-done
		require.Zero(t, p.LateSends())
		require.Error(t, p.Conn().Send(t.Context(), pongs(1)))
		require.Equal(t, 1, p.LateSends())
		require.NoError(t, p.Conn().Close(event.Closed{}))
		require.Len(t, p.Faults(), 2, "Close twice")
	})
}

func TestCopy(t *testing.T) {
	cause := &event.Cause{Name: "Phone"}
	for _, f := range []event.Frame{
		&event.Welcome{Head: 1}, &event.Data{Seq: 1, Entries: []*event.Sealed{event.Seal(event.Entry{Seq: 1})}},
		&event.StatePage{States: []event.State{{Name: "x", Value: []byte("v")}}}, &event.CaughtUp{}, &event.Reset{},
		&event.Live{Event: event.Seal(event.Entry{})}, pong("n"), &event.Closed{Cause: cause},
	} {
		c := transporttest.Copy(f)
		require.Equal(t, f, c)
		require.NotSame(t, f, c)
	}
	require.Nil(t, transporttest.Copy(nil))
	c := transporttest.Copy(&event.Closed{Cause: cause}).(*event.Closed)
	require.NotSame(t, cause, c.Cause)
}
