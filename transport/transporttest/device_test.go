package transporttest_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/client"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// server stands for the engine: it keeps what devices attach with and send.
type server struct {
	mu       sync.Mutex
	conn     transport.Conn
	requests []transporttest.AttachRequest
	got      []event.ClientFrame
	refuse   error
	busy     chan struct{} // closed when it has time for what devices send
}

func (s *server) attach(conn transport.Conn, r transporttest.AttachRequest) (transporttest.Handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	s.requests = append(s.requests, r)
	if s.refuse != nil {
		return nil, s.refuse
	}
	return s.handle, nil
}

func (s *server) handle(f event.ClientFrame) error {
	if s.busy != nil {
		<-s.busy
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, f)
	if _, ok := f.(*event.Ping); ok {
		return errors.New("refused")
	}
	return nil
}

func (s *server) take() []event.ClientFrame {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

func (s *server) send(t *testing.T, frames ...event.Frame) {
	t.Helper()
	require.NoError(t, s.conn.Send(t.Context(), frames))
	synctest.Wait()
}

func at(seq uint64) event.Position { return event.Position{Epoch: 1, Seq: seq} }

func welcome(seq uint64) *event.Welcome {
	return &event.Welcome{Login: "l1", Position: at(seq), Head: 100}
}

func message(seq uint64) *event.Sealed {
	return event.Seal(event.Entry{Seq: seq, Kind: event.KindMessage, ID: event.MessageID(rune('a' + seq))})
}

func data(prev, seq uint64, entries ...*event.Sealed) *event.Data {
	return &event.Data{Epoch: 1, Prev: prev, Seq: seq, Entries: entries}
}

// device runs a test with a connected device in a synctest bubble.
func device(t *testing.T, cfg transporttest.DeviceConfig, test func(t *testing.T, d *transporttest.Device, s *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		cfg := cfg
		cfg.Attach = s.attach
		d := transporttest.NewDevice(t, cfg)
		require.NoError(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})))
		test(t, d, s)
	})
}

func TestDeviceApplies(t *testing.T) {
	device(t, transporttest.DeviceConfig{}, func(t *testing.T, d *transporttest.Device, s *server) {
		s.send(t, &event.Welcome{Login: "l1", Position: at(0), Token: event.ResumeTokenOf("token")},
			&event.StatePage{Epoch: 1, States: []event.State{{Conversation: "c", Name: event.StateRead, Number: 1}}},
			data(0, 2, message(1), message(2)), &event.CaughtUp{Position: at(2)}, &event.Live{Event: message(9)})
		require.Equal(t, []event.ClientFrame{&event.TokenStored{}, &event.Ack{Position: at(2)}}, s.take())
		redelivered := data(2, 4, message(4))
		redelivered.Redelivered = true
		s.send(t, redelivered)
		require.Equal(t, []event.ClientFrame{&event.Ack{Position: at(4)}}, s.take())

		require.NoError(t, d.WaitCaughtUp(t.Context()))
		require.NoError(t, d.WaitEntries(t.Context(), 3))
		require.NoError(t, d.WaitPosition(t.Context(), 4))
		require.NoError(t, d.WaitLives(t.Context(), 1))
		require.Equal(t, event.LoginID("l1"), d.Login())
		require.Equal(t, event.ResumeTokenOf("token"), d.Token())
		require.Equal(t, at(4), d.Position())
		require.Len(t, d.Messages(event.KindMessage), 3)
		require.Empty(t, d.Messages(event.KindTyping))
		require.Len(t, d.Lives(), 1)
		require.Len(t, d.Frames(), 6)
		require.Len(t, d.Sent(), 3)
		require.Equal(t, 1, d.Redelivered())
		require.Len(t, d.Registers(), 1)
		d.Record(event.State{Conversation: "d", Name: event.StateRead, Number: 3})
		require.Equal(t, client.Digest(d.Registers()), d.Digest())
		require.True(t, d.Connected())

		require.ErrorContains(t, d.Send(&event.Ping{}), "refused")
		require.NoError(t, s.conn.Close(event.KickedSelf.Closed(0)))
		why, err := d.WaitClosed(t.Context())
		require.NoError(t, err)
		require.Equal(t, event.KickedSelf, why.Reason)
		require.False(t, d.Connected())
		require.ErrorIs(t, d.Send(&event.Ping{}), transporttest.ErrEnded)
		require.ErrorIs(t, d.WaitEntries(t.Context(), 9), transporttest.ErrEnded)
		require.NoError(t, d.WaitEntries(t.Context(), 3), "what is there is there")
	})
}

func TestDeviceHolds(t *testing.T) {
	device(t, transporttest.DeviceConfig{}, func(t *testing.T, d *transporttest.Device, s *server) {
		d.HoldAcks(true)
		s.send(t, welcome(0), data(0, 1, message(1)), data(1, 2, message(2)))
		require.Empty(t, s.take())
		require.Len(t, d.Entries(), 2)
		require.True(t, d.Answered(), "what is held back does not count")
		s.busy = make(chan struct{})
		d.HoldAcks(false)
		require.False(t, d.Answered())
		synctest.Wait()
		require.False(t, d.Answered(), "not taken yet")
		close(s.busy)
		synctest.Wait()
		require.True(t, d.Answered())
		require.Equal(t, []event.ClientFrame{&event.Ack{Position: at(2)}}, s.take(), "one for all")

		d.HoldAcks(true)
		d.HoldResetAcks(true)
		s.send(t, data(2, 3, message(3)), &event.Reset{Reason: event.ResetTrimmed, From: at(3), To: at(5)})
		require.Empty(t, s.take())
		d.HoldAcks(false)
		d.HoldResetAcks(false)
		synctest.Wait()
		require.Equal(t, []event.ClientFrame{&event.ResetAck{Position: at(5)}}, s.take(), "no Ack from before the Reset")
		require.NoError(t, d.WaitResets(t.Context(), 1))
		require.Equal(t, at(5), d.Resets()[0].To)

		d.Pause()
		s.send(t, data(5, 6, message(6)))
		require.Len(t, d.Entries(), 3)
		d.Resume()
		synctest.Wait()
		require.Len(t, d.Entries(), 4)
	})
}

func TestDeviceNack(t *testing.T) {
	cfg := transporttest.DeviceConfig{Nack: func(e *event.Entry) string {
		if e.Seq == 2 {
			return "poison"
		}
		return ""
	}}
	device(t, cfg, func(t *testing.T, _ *transporttest.Device, s *server) {
		s.send(t, welcome(0), data(0, 3, message(1), message(2), message(3)))
		require.Equal(t, []event.ClientFrame{&event.Nack{Position: at(2), Code: "poison"}, &event.Ack{Position: at(3)}}, s.take())
	})
}

func TestDeviceReconnects(t *testing.T) {
	cfg := transporttest.DeviceConfig{NoRecord: true}
	device(t, cfg, func(t *testing.T, d *transporttest.Device, s *server) {
		s.send(t, welcome(0), data(0, 2, message(1), message(2)))
		saved := d.Save()
		first := s.conn
		d.Abandon()
		require.NoError(t, first.Send(t.Context(), []event.Frame{data(2, 3, message(3))}), "nobody told the engine")
		d.Abandon()
		d.Disconnect()
		require.ErrorIs(t, first.Send(t.Context(), []event.Frame{data(3, 4)}), transporttest.ErrHangup)
		require.Equal(t, at(2), d.Position())
		require.Empty(t, d.Frames())

		pair := transporttest.NewPair(transporttest.PairConfig{})
		d.LoggedIn("l2", event.ResumeTokenOf("t2"))
		require.NoError(t, d.Connect(pair))
		pos := at(2)
		require.Equal(t, transporttest.AttachRequest{Login: "l2", Token: event.ResumeTokenOf("t2"), Position: &pos}, s.requests[1])
		s.send(t, welcome(2), data(2, 3, message(3)))
		require.Len(t, d.Entries(), 3)
		pair.Cut()
		_, err := d.WaitClosed(t.Context())
		require.ErrorIs(t, err, io.EOF)

		d.Restore(saved)
		require.Len(t, d.Entries(), 2)
		require.NoError(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})))
		require.Equal(t, &pos, s.requests[2].Position)
		s.send(t, welcome(2), data(2, 3, message(3)))
		require.Len(t, d.Entries(), 3)

		s.refuse = errors.New("no")
		require.ErrorIs(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})), s.refuse)
		require.False(t, d.Connected())
		d.Close()
		d.Close()
		require.ErrorIs(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})), transporttest.ErrEnded)
	})
}

func TestDeviceRepliesWaitForAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		d := transporttest.NewDevice(t, transporttest.DeviceConfig{Attach: func(conn transport.Conn, r transporttest.AttachRequest) (transporttest.Handle, error) {
			// More than the buffer holds, so that the device has to read while Attach runs.
			if err := conn.Send(t.Context(), []event.Frame{welcome(0), data(0, 1, message(1)), &event.CaughtUp{Position: at(1)}}); err != nil {
				return nil, err
			}
			return s.attach(conn, r)
		}})
		require.ErrorIs(t, d.WaitCaughtUp(t.Context()), transporttest.ErrEnded, "there was no connection")
		require.NoError(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{MaxFrames: 1})))
		synctest.Wait()
		require.Equal(t, []event.ClientFrame{&event.Ack{Position: at(1)}}, s.take())
	})
}

func TestDeviceWaitsAreBounded(t *testing.T) {
	device(t, transporttest.DeviceConfig{}, func(t *testing.T, d *transporttest.Device, _ *server) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, d.WaitCaughtUp(ctx), context.DeadlineExceeded)
		_, err := d.WaitClosed(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, d.Wait(ctx, func() bool { return false }), context.DeadlineExceeded)
	})
}

func TestDeviceHandleErrors(t *testing.T) {
	want := errors.New("no")
	synctest.Test(t, func(t *testing.T) {
		d := transporttest.NewDevice(t, transporttest.DeviceConfig{Attach: func(conn transport.Conn, _ transporttest.AttachRequest) (transporttest.Handle, error) {
			return func(event.ClientFrame) error { return want }, conn.Send(t.Context(), []event.Frame{welcome(0), data(0, 1)})
		}})
		require.NoError(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})))
		synctest.Wait()
		require.Len(t, d.HandleErrors(), 1)
		require.ErrorIs(t, d.HandleErrors()[0], want)
	})
}

// TestDeviceChecks shows that the device notices every rule that the engine can break.
func TestDeviceChecks(t *testing.T) {
	reset := &event.Reset{Reason: event.ResetTrimmed, From: at(5), To: at(8)}
	own := event.Seal(event.Entry{Seq: 6, Origin: "l1"})
	for _, tt := range []struct {
		name   string
		frames []event.Frame // after a device at 5 attached
		want   string        // "": all is well
	}{
		{"all is well", []event.Frame{welcome(5), data(5, 7, message(6)), &event.CaughtUp{Position: at(7)}, data(7, 9, message(9))}, ""},
		{"a Reset first", []event.Frame{welcome(8), reset, &event.StatePage{Epoch: 1}}, ""},
		{"no Welcome", []event.Frame{&event.Pong{}}, "before Welcome"},
		{"I6 gap", []event.Frame{welcome(5), data(6, 7, message(7))}, "I6"},
		{"I6 going back", []event.Frame{welcome(5), data(5, 7), data(6, 8, message(8))}, "I6"},
		{"I6 epoch", []event.Frame{welcome(5), &event.Data{Epoch: 2, Prev: 5, Seq: 6}}, "I6"},
		{"I6 order", []event.Frame{welcome(5), data(5, 8, message(7), message(6))}, "I6"},
		{"covers nothing", []event.Frame{welcome(5), data(5, 5)}, "covers"},
		{"I8 another start without a Reset", []event.Frame{welcome(4), data(4, 6, message(6))}, "I8"},
		{"I8 the same with CaughtUp", []event.Frame{welcome(4), &event.CaughtUp{Position: at(4)}}, "I8"},
		{"I8 Data before the answer", []event.Frame{welcome(5), reset, data(8, 9)}, "I8"},
		{"I13 echo", []event.Frame{welcome(5), data(5, 6, own)}, "I13"},
		{"wrong From", []event.Frame{welcome(5), &event.Reset{Reason: event.ResetTrimmed, From: at(4), To: at(8)}}, "claimed"},
		{"caught up elsewhere", []event.Frame{welcome(5), data(5, 6), &event.CaughtUp{Position: at(5)}}, "CaughtUp"},
		{"caught up twice", []event.Frame{welcome(5), &event.CaughtUp{Position: at(5)}, &event.CaughtUp{Position: at(5)}}, "second"},
		{"states after data", []event.Frame{welcome(5), data(5, 6), &event.StatePage{Epoch: 1}}, "first Data"},
		{"states of another epoch", []event.Frame{welcome(5), &event.StatePage{Epoch: 2}}, "epoch"},
		{"no live event", []event.Frame{welcome(5), &event.Live{}}, "no event"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pos := at(5)
			cfg := transporttest.DeviceConfig{Lenient: true, State: client.State{Login: "l1", Position: &pos}}
			device(t, cfg, func(t *testing.T, d *transporttest.Device, s *server) {
				d.HoldResetAcks(true)
				s.send(t, tt.frames...)
				if tt.want == "" {
					require.Empty(t, d.Violations())
					return
				}
				require.NotEmpty(t, d.Violations())
				require.Contains(t, d.Violations()[0], tt.want)
			})
		})
	}
	t.Run("a gap asks for another connection", func(t *testing.T) {
		device(t, transporttest.DeviceConfig{Lenient: true}, func(t *testing.T, d *transporttest.Device, s *server) {
			s.send(t, welcome(0), data(1, 2, message(2)))
			require.True(t, d.NeedsReattach())
			require.False(t, d.Connected())
			require.ErrorIs(t, s.conn.Send(t.Context(), pongs(1)), transporttest.ErrHangup)
		})
	})
	t.Run("the test fails", func(t *testing.T) {
		rec := &recorder{TB: t}
		s := &server{}
		d := transporttest.NewDevice(rec, transporttest.DeviceConfig{Attach: s.attach})
		require.NoError(t, d.Connect(transporttest.NewPair(transporttest.PairConfig{})))
		require.NoError(t, s.conn.Send(t.Context(), []event.Frame{pong("early")}))
		_, err := d.WaitClosed(t.Context())
		require.ErrorIs(t, err, io.EOF)
		rec.cleanup()
		require.NotZero(t, rec.failures)
	})
}

// recorder is a test that counts its failures instead of failing.
type recorder struct {
	testing.TB
	cleanup  func()
	failures int
}

func (r *recorder) Cleanup(f func())      { r.cleanup = f }
func (r *recorder) Errorf(string, ...any) { r.failures++ }
