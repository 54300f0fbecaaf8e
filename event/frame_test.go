package event_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// TestFrames_OnlyPointers: a frame by value does not compile, in either direction, so that no host hands in one that the
// engine does not know (K20.10). A nil pointer has no name, and is refused by what encodes it.
func TestFrames_OnlyPointers(t *testing.T) {
	for _, f := range []event.Frame{
		&event.Welcome{}, &event.Data{}, &event.StatePage{}, &event.CaughtUp{}, &event.Reset{}, &event.Live{}, &event.Pong{}, &event.Closed{},
	} {
		p := reflect.TypeOf(f)
		t.Run(p.Elem().Name(), func(t *testing.T) {
			require.False(t, p.Elem().Implements(reflect.TypeFor[event.Frame]()), "a value is a frame as well")
			require.False(t, p.Implements(reflect.TypeFor[event.ClientFrame]()))
			require.NotEmpty(t, event.FrameName(f))
			none := reflect.Zero(p).Interface().(event.Frame)
			require.Empty(t, event.FrameName(none))
			out, err := event.AppendFrame([]byte("before"), none)
			require.Error(t, err)
			require.Equal(t, "before", string(out))
		})
	}
	for _, f := range []event.ClientFrame{
		&event.Ack{}, &event.Nack{}, &event.ResetAck{}, &event.TokenStored{}, &event.Background{}, &event.Ping{},
	} {
		p := reflect.TypeOf(f)
		t.Run(p.Elem().Name(), func(t *testing.T) {
			require.False(t, p.Elem().Implements(reflect.TypeFor[event.ClientFrame]()), "a value is a frame as well")
			require.False(t, p.Implements(reflect.TypeFor[event.Frame]()))
			line, err := event.AppendClientFrame(nil, f)
			require.NoError(t, err)
			require.Contains(t, string(line), `"t":"`+event.ClientFrameName(f)+`"`)
			none := reflect.Zero(p).Interface().(event.ClientFrame)
			require.Empty(t, event.ClientFrameName(none))
			_, err = event.AppendClientFrame(nil, none)
			require.Error(t, err)
		})
	}
	require.Empty(t, event.FrameName(nil))
	require.Empty(t, event.ClientFrameName(nil))
}
