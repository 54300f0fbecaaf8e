package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/stream"
)

func item(v int, l stream.Lane, key any) stream.Item[int] {
	return stream.Item[int]{Value: v, Lane: l, Key: key}
}

func subscribe(t *testing.T, f *stream.Feed[int], buffer int) *stream.Subscription[int] {
	t.Helper()
	s, err := f.Subscribe(buffer)
	require.NoError(t, err)
	return s
}

func drain(s *stream.Subscription[int]) (all []int) {
	for v, ok := s.Poll(); ok; v, ok = s.Poll() {
		all = append(all, v)
	}
	return all
}

func TestSubscribe_BufferIsChecked(t *testing.T) {
	var f stream.Feed[int]
	for _, n := range []int{-1, 0, stream.MaxBuffer + 1} {
		_, err := f.Subscribe(n)
		_, ok := errors.AsType[*event.InvalidError](err)
		require.True(t, ok, "%d: %v", n, err)
	}
	require.False(t, f.Watched())
	subscribe(t, &f, stream.MaxBuffer).Close()
	require.False(t, f.Watched())
}

// wait is an item of the model.
type wait struct {
	v    int
	lane stream.Lane
	key  any
}

// model is what a subscription should do, in the plainest way.
type model struct {
	size    int
	waiting []wait
	dropped [2]uint64
}

func (m *model) offer(w wait) {
	for i := range m.waiting {
		if w.key != nil && m.waiting[i].key == w.key {
			m.waiting = append(m.waiting[:i:i], m.waiting[i+1:]...)
			break
		}
	}
	n := 0
	for _, o := range m.waiting {
		if o.lane == w.lane {
			n++
		}
	}
	if n >= m.size {
		m.dropped[w.lane]++
		return
	}
	m.waiting = append(m.waiting, w)
}

func TestSubscription_DoesAsTheModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		var f stream.Feed[int]
		m := &model{size: 1 + random.IntN(6)}
		s := subscribe(t, &f, m.size)
		for v := range 500 {
			if random.IntN(3) == 0 {
				got, ok := s.Poll()
				require.Equal(t, len(m.waiting) > 0, ok)
				if ok {
					require.Equal(t, m.waiting[0].v, got)
					m.waiting = m.waiting[1:]
				}
				continue
			}
			w := wait{v: v, lane: stream.Lane(random.IntN(2))}
			if random.IntN(2) == 0 {
				w.key = fmt.Sprint(w.lane, random.IntN(4))
			}
			m.offer(w)
			f.Publish(item(w.v, w.lane, w.key))
		}
		important, frequent := s.Dropped()
		require.Equal(t, m.dropped, [2]uint64{important, frequent})
		for _, w := range m.waiting {
			got, ok := s.Poll()
			require.True(t, ok)
			require.Equal(t, w.v, got)
		}
		_, ok := s.Poll()
		require.False(t, ok)
	}
}

// Nothing is lost but what is counted as dropped or has made way, nothing comes twice, and what one goroutine publishes comes
// in order, with many publishers and many readers.
func TestSubscription_ManyPublishersAndReaders(t *testing.T) {
	const publishers, each = 8, 5_000
	var f stream.Feed[[2]int]
	s, err := f.Subscribe(64)
	require.NoError(t, err)
	var mu sync.Mutex
	seen := map[[2]int]int{}
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			last := [publishers]int{}
			for v := range s.All(context.Background()) {
				if v[1] <= last[v[0]] {
					t.Errorf("publisher %d: %d after %d", v[0], v[1], last[v[0]])
				}
				last[v[0]] = v[1]
				mu.Lock()
				seen[v]++
				mu.Unlock()
			}
		})
	}
	for p := range publishers {
		writers.Go(func() {
			for i := range each {
				f.Publish(stream.Item[[2]int]{Value: [2]int{p, i + 1}, Lane: stream.Lane(i % 2)})
			}
		})
	}
	writers.Wait()
	f.Close()
	readers.Wait()
	important, frequent := s.Dropped()
	require.EqualValues(t, publishers*each, uint64(len(seen))+important+frequent)
	for v, n := range seen {
		require.Equal(t, 1, n, v)
	}
}

// Several calls of Next wait, and some of them give up at the very moment when an item comes: another one gets it.
func TestNext_NoWakeUpIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f stream.Feed[int]
		s := subscribe(t, &f, 16)
		for round := range 500 {
			got := make(chan int, 4)
			short, giveUp := context.WithCancel(t.Context())
			long, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 4 {
				ctx := short
				if i == round%4 {
					ctx = long
				}
				wg.Go(func() {
					if v, err := s.Next(ctx); err == nil {
						got <- v
					}
				})
			}
			synctest.Wait()
			f.Publish(item(1, stream.Important, nil))
			giveUp()
			synctest.Wait()
			require.Len(t, got, 1, "round %d", round)
			stop()
			wg.Wait()
		}
	})
}

func TestNext_EndsWithItsContextAndWithTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := errors.New("over")
		f := stream.Feed[int]{End: end}
		s := subscribe(t, &f, 4)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		f.Publish(item(1, stream.Frequent, nil))
		f.Publish(item(2, stream.Important, nil))
		_, err = s.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "a loop ends with its context even if there is always something")
		var wg sync.WaitGroup
		f.Close()
		f.Close()
		f.Publish(item(3, stream.Important, nil))
		v, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, v, "what was left comes first")
		require.Equal(t, []int{2}, drain(s))
		for range 3 {
			wg.Go(func() {
				_, err := s.Next(context.Background())
				if !errors.Is(err, end) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		s.Close()
		_, err = f.Subscribe(1)
		require.ErrorIs(t, err, end)
		var plain stream.Feed[int]
		plain.Close()
		_, err = plain.Subscribe(1)
		require.ErrorIs(t, err, stream.ErrClosed)
	})
}

// Close wakes all that wait, and a subscription that was closed gets nothing more and is not kept.
func TestClose_WakesAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f stream.Feed[int]
		s, other := subscribe(t, &f, 4), subscribe(t, &f, 4)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range s.All(context.Background()) {
					t.Error("nothing was published")
				}
			})
		}
		synctest.Wait()
		s.Close()
		wg.Wait()
		f.Publish(item(1, stream.Important, nil))
		require.Equal(t, []int{1}, drain(other))
		other.Close()
		require.False(t, f.Watched())
	})
}

// The memory of a subscription is what its buffer holds, however much goes through it.
func TestSubscription_MemoryIsBounded(t *testing.T) {
	var f stream.Feed[[1_024]byte]
	s, err := f.Subscribe(64)
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 100_000 {
		f.Publish(stream.Item[[1_024]byte]{Lane: stream.Lane(i % 2), Key: i % 200})
		if i%100 == 0 {
			s.Poll()
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(1<<20))
	runtime.KeepAlive(s)
}

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{0, 1, 8} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			var f stream.Feed[int]
			for range n {
				s, err := f.Subscribe(64)
				require.NoError(b, err)
				go func() {
					for range s.All(context.Background()) {
					}
				}()
			}
			b.ReportAllocs()
			for b.Loop() {
				if f.Watched() {
					f.Publish(item(1, stream.Frequent, nil))
				}
			}
			f.Close()
		})
	}
}
