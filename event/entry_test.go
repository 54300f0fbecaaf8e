package event_test

import (
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func TestEntry_For(t *testing.T) {
	const phone, laptop = event.Incarnation(1), event.Incarnation(2)
	tests := []struct {
		name   string
		entry  event.Entry
		device event.Incarnation
		login  event.LoginID
		want   bool
	}{
		{"for all", event.Entry{}, phone, "p", true},
		{"I13 not for the origin", event.Entry{Origin: "p"}, phone, "p", false},
		{"I13 for another login", event.Entry{Origin: "p"}, laptop, "l", true},
		{"I13 for a later login of the same device", event.Entry{Origin: "p"}, phone, "p2", true},
		{"S38 origin counts by login, not by device", event.Entry{Origin: "p"}, laptop, "p", false},
		{"I14 for the target", event.Entry{Targets: []event.Incarnation{3, phone}}, phone, "p", true},
		{"I14 not for others", event.Entry{Targets: []event.Incarnation{3, phone}}, laptop, "l", false},
		{"not for the origin, though a target", event.Entry{Origin: "p", Targets: []event.Incarnation{phone}}, phone, "p", false},
		{"from the host, device without a login", event.Entry{}, phone, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, tt.entry.For(tt.device, tt.login)) })
	}
}

func TestEntry_Expired(t *testing.T) {
	at := time.UnixMilli(1_000)
	tests := []struct {
		name    string
		expires time.Time
		now     time.Time
		want    bool
	}{
		{"never", time.Time{}, at, false},
		{"before", at, at.Add(-event.Millis), false},
		{"at the moment", at, at, true},
		{"after", at, at.Add(event.Millis), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Entry{Expires: tt.expires}
			require.Equal(t, tt.want, e.Expired(tt.now))
		})
	}
}

func TestEntry_Size(t *testing.T) {
	require.Equal(t, 64, (&event.Entry{}).Size())
	require.Equal(t, 74, (&event.Entry{Payload: make([]byte, 10)}).Size())
}

func TestState_Internal(t *testing.T) {
	require.True(t, (&event.State{Name: event.StateDelivered}).Internal())
	for _, name := range []string{"", "read", event.StateRead, event.StateReadPrivate, "a_"} {
		require.False(t, (&event.State{Name: name}).Internal(), name)
	}
}

// TestSealed_OneEncoding checks that all devices of an account share one encoding, made once.
func TestSealed_OneEncoding(t *testing.T) {
	s := event.Seal(event.Entry{Seq: 1, Kind: "message", Payload: []byte("hello")})
	const devices = 32
	got := make([][]byte, devices)
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() { got[i] = s.JSON() })
	}
	wg.Wait()
	for _, b := range got {
		require.Equal(t, `{"kind":"message","seq":"1","text":"hello"}`, string(b))
		require.Same(t, unsafe.SliceData(got[0]), unsafe.SliceData(b))
	}
	_ = append(got[0], "of one device"...)
	require.NotContains(t, string(got[1][:cap(got[1])]), "of one device", "what a device appends is its own")
}

func TestSealed_SharesThePayload(t *testing.T) {
	payload := []byte("hello")
	s := event.Seal(event.Entry{Payload: payload})
	require.Same(t, unsafe.SliceData(payload), unsafe.SliceData(s.Payload))
}
