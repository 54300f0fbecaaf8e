package membus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/membus"
	"github.com/manydevice/manydevice/transport/transporttest"
)

func open(t testing.TB, cfg membus.Config) *membus.Bus {
	b := membus.New(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(t, b.Close(ctx))
	})
	return b
}

func TestContract(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(t testing.TB) transport.Bus
	}{
		{"plain", func(t testing.TB) transport.Bus { return open(t, membus.Config{}) }},
		{"as a node", func(t testing.TB) transport.Bus { return open(t, membus.Config{}).As("me") }},
	} {
		t.Run(tt.name, func(t *testing.T) { transporttest.TestBus(t, transporttest.BusHarness{Open: tt.open}) })
	}
}

func Example() {
	b := membus.New(membus.Config{})
	stop, err := b.Subscribe("node-1", func(msg []byte) []byte { return append([]byte("got "), msg...) })
	if err != nil {
		fmt.Println(err)
		return
	}
	reply, err := b.Request(context.Background(), "node-1", []byte("hello"))
	fmt.Printf("%s %v\n", reply, err)
	stop()
	_, err = b.Request(context.Background(), "node-1", []byte("hello"))
	fmt.Println(errors.Is(err, transport.ErrGone), b.Close(context.Background()))
	// Output:
	// got hello <nil>
	// true <nil>
}

// bubble runs a test with a bus in a synctest bubble.
func bubble(t *testing.T, cfg membus.Config, test func(t *testing.T, b *membus.Bus)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, open(t, cfg)) })
}

// count subscribes a handler that counts and answers.
func count(t *testing.T, b *membus.Bus, node event.NodeID) *atomic.Int64 {
	t.Helper()
	n := new(atomic.Int64)
	stop, err := b.Subscribe(node, func([]byte) []byte { return fmt.Append(nil, n.Add(1)) })
	require.NoError(t, err)
	t.Cleanup(stop)
	return n
}

func TestQueueIsBounded(t *testing.T) {
	bubble(t, membus.Config{Queue: 2}, func(t *testing.T, b *membus.Bus) {
		release := make(chan struct{})
		var handled atomic.Int64
		stop, err := b.Subscribe("n", func([]byte) []byte { <-release; handled.Add(1); return nil })
		require.NoError(t, err)
		require.NoError(t, b.Publish(t.Context(), "n", nil))
		synctest.Wait() // the handler has it
		for range 2 {
			require.NoError(t, b.Publish(t.Context(), "n", nil))
		}
		require.ErrorIs(t, b.Publish(t.Context(), "n", nil), membus.ErrFull)
		_, err = b.Request(t.Context(), "n", nil)
		require.ErrorIs(t, err, transport.ErrUnknown)
		require.ErrorIs(t, err, membus.ErrFull)
		require.Equal(t, uint64(2), b.Dropped())
		close(release)
		synctest.Wait()
		require.Equal(t, int64(3), handled.Load())
		stop()
	})
}

func TestRequestEndsWithContext(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(b *membus.Bus)
	}{
		{"slow handler", func(*membus.Bus) {}},
		{"lost", func(b *membus.Bus) { b.Lose(membus.EveryNth(1)) }},
		{"cut off", func(b *membus.Bus) { b.Partition("n") }},
		{"sender cut off", func(b *membus.Bus) { b.Partition("me") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, membus.Config{}, func(t *testing.T, b *membus.Bus) {
				release := make(chan struct{})
				_, err := b.Subscribe("n", func([]byte) []byte { <-release; return nil })
				require.NoError(t, err)
				tt.prepare(b)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				_, err = b.As("me").Request(ctx, "n", nil)
				require.ErrorIs(t, err, transport.ErrUnknown)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, time.Hour, time.Since(start))
				_, err = b.Request(ctx, "n", nil)
				require.ErrorIs(t, err, transport.ErrUnknown, "a context that ended before")
				require.Error(t, b.Publish(ctx, "n", nil))
				close(release)
			})
		})
	}
}

func TestGoneIsAnsweredAtOnce(t *testing.T) {
	bubble(t, membus.Config{}, func(t *testing.T, b *membus.Bus) {
		start := time.Now()
		_, err := b.Request(t.Context(), "n", nil)
		require.ErrorIs(t, err, transport.ErrGone)
		require.ErrorIs(t, b.Publish(t.Context(), "n", nil), transport.ErrGone)
		require.ErrorIs(t, b.As("me").Publish(t.Context(), "n", nil), transport.ErrGone)
		require.Zero(t, time.Since(start))
	})
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(b *membus.Bus)
		want    int64 // of 10 messages
	}{
		{"none", func(*membus.Bus) {}, 10},
		{"every third is lost", func(b *membus.Bus) { b.Lose(membus.EveryNth(3)) }, 7},
		{"none is lost", func(b *membus.Bus) { b.Lose(membus.EveryNth(0)) }, 10},
		{"every second comes twice", func(b *membus.Bus) { b.Duplicate(membus.EveryNth(2)) }, 15},
		{"lost for one node only", func(b *membus.Bus) {
			b.Lose(func(node event.NodeID, msg []byte) bool { return node == "n" && msg[0] < 4 })
		}, 6},
		{"cut off", func(b *membus.Bus) { b.Partition("n") }, 0},
		{"sender cut off", func(b *membus.Bus) { b.Partition("me") }, 0},
		{"another one cut off", func(b *membus.Bus) { b.Partition("other") }, 10},
		{"healed", func(b *membus.Bus) { b.Partition("n"); b.Heal("n") }, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, membus.Config{}, func(t *testing.T, b *membus.Bus) {
				n := count(t, b, "n")
				tt.prepare(b)
				for i := range byte(10) {
					require.NoError(t, b.As("me").Publish(t.Context(), "n", []byte{i}))
				}
				synctest.Wait()
				require.Equal(t, tt.want, n.Load())
			})
		})
	}
	t.Run("a request that comes twice gets the first answer", func(t *testing.T) {
		bubble(t, membus.Config{}, func(t *testing.T, b *membus.Bus) {
			n := count(t, b, "n")
			b.Duplicate(membus.EveryNth(1))
			reply, err := b.Request(t.Context(), "n", nil)
			require.NoError(t, err)
			require.Equal(t, "1", string(reply))
			synctest.Wait()
			require.Equal(t, int64(2), n.Load())
		})
	})
	t.Run("a second copy that finds no room is dropped", func(t *testing.T) {
		bubble(t, membus.Config{Queue: 1}, func(t *testing.T, b *membus.Bus) {
			n := count(t, b, "n")
			b.Duplicate(membus.EveryNth(1))
			require.NoError(t, b.Publish(t.Context(), "n", nil))
			synctest.Wait()
			require.Equal(t, int64(2), n.Load()+int64(b.Dropped()))
		})
	})
}

func TestStopDropsWhatWaits(t *testing.T) {
	bubble(t, membus.Config{}, func(t *testing.T, b *membus.Bus) {
		entered, release := make(chan struct{}), make(chan struct{})
		stop, err := b.Subscribe("n", func([]byte) []byte { entered <- struct{}{}; <-release; return []byte("done") })
		require.NoError(t, err)
		var wg sync.WaitGroup
		results := make(chan error, 3)
		request := func() {
			reply, err := b.Request(t.Context(), "n", nil)
			if err == nil && string(reply) != "done" {
				err = fmt.Errorf("reply %q", reply)
			}
			results <- err
		}
		wg.Go(request)
		<-entered
		wg.Go(request)
		wg.Go(request)
		synctest.Wait()
		wg.Go(stop)
		synctest.Wait()
		_, err = b.Request(t.Context(), "n", nil)
		require.ErrorIs(t, err, transport.ErrGone, "gone for new ones as soon as stop begins")
		close(release)
		wg.Wait()
		var answered, gone int
		for range 3 {
			switch err := <-results; {
			case err == nil:
				answered++
			case errors.Is(err, transport.ErrGone):
				gone++
			}
		}
		require.Equal(t, 1, answered, "the one that ran")
		require.Equal(t, 2, gone, "those that waited")
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := membus.New(membus.Config{Queue: -1})
		entered, release := make(chan struct{}), make(chan struct{})
		stop, err := b.Subscribe("n", func([]byte) []byte { close(entered); <-release; return nil })
		require.NoError(t, err)
		waiting := make(chan error, 1)
		go func() {
			_, err := b.Request(t.Context(), "n", nil)
			waiting <- err
		}()
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, b.Close(ctx), context.DeadlineExceeded, "the handler runs")
		require.Equal(t, time.Minute, time.Since(start))
		require.ErrorIs(t, <-waiting, transport.ErrUnknown)

		require.ErrorIs(t, b.Publish(t.Context(), "n", nil), transport.ErrClosed)
		_, err = b.Request(t.Context(), "n", nil)
		require.ErrorIs(t, err, transport.ErrClosed)
		_, err = b.Subscribe("m", func([]byte) []byte { return nil })
		require.ErrorIs(t, err, transport.ErrClosed)

		close(release)
		require.NoError(t, b.Close(t.Context()), "again, until it is done")
		stop()
		require.NoError(t, b.Close(ctx), "with nothing to wait for")
	})
}
