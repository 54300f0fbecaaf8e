package event_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func TestPayloads_JSON(t *testing.T) {
	tests := []struct {
		name  string
		value any
		json  string
	}{
		{"empty operation", event.Operation{}, `{}`},
		{"operation", event.Operation{
			User: "ben", Ext: "e", Group: "g", Users: []event.Account{"a", "b"}, Thread: "t", ThreadName: "T", Parent: "p", Type: "group",
			Mark: "m", On: true, Scope: "messages", Messages: []event.MessageID{"1"}, Before: 1, Timestamp: 1 << 53, Data: "d",
		}, `{"user":"ben","ext":"e","group":"g","users":["a","b"],"thread":"t","threadName":"T","parent":"p","type":"group",
			"mark":"m","on":true,"scope":"messages","messages":["1"],"before":"1","timestamp":"9007199254740992","data":"d"}`},
		{"read mark", event.ReadMark{Seq: 1<<64 - 1, Message: "m", Private: true}, `{"seq":"18446744073709551615","message":"m","private":true}`},
		{"read mark of nothing", event.ReadMark{}, `{"seq":"0"}`},
		{"receipt", event.Receipt{By: "ben", Message: "m"}, `{"by":"ben","message":"m"}`},
		{"device change", event.DeviceChange{
			Login: "l", Device: "d", Platform: "ios", Name: "phone", Reason: event.Logout, Time: time.UnixMilli(1_767_225_600_123).UTC(),
		}, `{"login":"l","device":"d","platform":"ios","name":"phone","reason":"logout","time":"1767225600123"}`},
		{"device change without a time", event.DeviceChange{Login: "l", Device: "d", Platform: "ios"}, `{"login":"l","device":"d","platform":"ios"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := json.Marshal(tt.value)
			require.NoError(t, err)
			require.JSONEq(t, tt.json, string(b))
			back := reflect.New(reflect.TypeOf(tt.value))
			require.NoError(t, json.Unmarshal(b, back.Interface()))
			require.Equal(t, tt.value, back.Elem().Interface())
		})
	}
}

func TestDeviceChange_FinerTimesAreCut(t *testing.T) {
	b, err := json.Marshal(event.DeviceChange{Time: time.Unix(5, 999_999)})
	require.NoError(t, err)
	require.Contains(t, string(b), `"time":"5000"`)
}

func TestDeviceChange_BadJSON(t *testing.T) {
	old := event.DeviceChange{Device: "d"}
	for _, b := range []string{`[]`, `{"time":5}`, `{"time":"x"}`, `{"login":5}`} {
		require.Error(t, json.Unmarshal([]byte(b), &old), b)
	}
	require.Equal(t, event.DeviceChange{Device: "d"}, old)
}
