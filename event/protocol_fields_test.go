package event_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// documented returns the fields that the first table after a line of the page has in its first column, in order of name.
func documented(t *testing.T, page, after string) []string {
	_, rest, ok := strings.Cut(page, after)
	require.True(t, ok, after)
	_, rest, ok = strings.Cut(rest, "| --- |")
	require.True(t, ok, after)
	table, _, _ := strings.Cut(rest, "\n\n")
	var fields []string
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			fields = append(fields, quotedNames(cells[1])...)
		}
	}
	slices.Sort(fields)
	return slices.Compact(fields)
}

func quotedNames(text string) []string {
	var names []string
	for _, m := range regexp.MustCompile("`([A-Za-z]+)`").FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

// wireFields are the names that the fields of a frame's type have on the wire.
func wireFields(v any, hidden ...string) []string {
	special := map[string][]string{"ID": {"id"}, "ClientID": {"clientId"}, "Payload": {"data", "text"}, "Value": {"data", "text"}, "After": {"afterMs"}}
	var names []string
	for f := range reflect.Indirect(reflect.ValueOf(v)).Type().Fields() {
		switch {
		case slices.Contains(hidden, f.Name):
		case special[f.Name] != nil:
			names = append(names, special[f.Name]...)
		default:
			names = append(names, strings.ToLower(f.Name[:1])+f.Name[1:])
		}
	}
	slices.Sort(names)
	return names
}

// TestProtocolDoc_Fields: what a frame holds in the code is what the page says, and nothing else.
func TestProtocolDoc_Fields(t *testing.T) {
	page := readProtocol(t)
	for after, v := range map[string]any{
		"\n### welcome\n": event.Welcome{}, "\n### state\n": event.StatePage{}, "\nA register:\n": event.State{}, "\n### data\n": event.Data{},
		"\n### caughtUp\n": event.CaughtUp{}, "\n### reset\n": event.Reset{}, "\n### live\n": event.Live{}, "\n### pong\n": event.Pong{},
		"\n### closed\n": event.Closed{}, "\nAn entry:\n": event.Entry{},
	} {
		require.Equal(t, wireFields(v, "Targets"), documented(t, page, after), after)
	}
	cause := page[strings.Index(page, "| `cause` | object"):]
	require.Subset(t, quotedNames(cause[:strings.Index(cause, "\n")]), wireFields(event.Cause{}))
	for name, v := range map[string]event.ClientFrame{
		"ack": &event.Ack{}, "nack": &event.Nack{}, "resetAck": &event.ResetAck{}, "tokenStored": &event.TokenStored{},
		"background": &event.Background{}, "ping": &event.Ping{},
	} {
		row := regexp.MustCompile("(?m)^\\| `" + name + "` \\|([^|]*)\\|").FindStringSubmatch(page)
		require.NotNil(t, row, name)
		require.ElementsMatch(t, wireFields(v), quotedNames(row[1]), name)
	}
}

// TestProtocolDoc_Payloads: the same for the payloads of the engine's own kinds.
func TestProtocolDoc_Payloads(t *testing.T) {
	page := readProtocol(t)
	_, page, ok := strings.Cut(page, "\n## Payloads of the engine's own kinds\n")
	require.True(t, ok)
	for after, v := range map[string]any{
		"**`conversation.read`**": event.ReadMark{}, "**`receipt.delivered`": event.Receipt{}, "**`claim`**": event.Claim{},
		"**`device.login`": event.DeviceChange{}, "**Operations**": event.Operation{},
	} {
		var names []string
		for f := range reflect.Indirect(reflect.ValueOf(v)).Type().Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" { // written by MarshalJSON
				name = strings.ToLower(f.Name)
			}
			names = append(names, name)
		}
		slices.Sort(names)
		require.Equal(t, names, documented(t, page, after), after)
	}
	mark := page[strings.Index(page, "| `marks` |"):]
	for f := range reflect.TypeFor[event.ConversationMark]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		require.Contains(t, mark[:strings.Index(mark, "\n")], "`"+name+"`")
	}
}

// TestVectors_Coverage: the vectors have every field of every frame, every reason with its usual advice, every reason of a
// reset, and a kind of each family.
func TestVectors_Coverage(t *testing.T) {
	v := readVectors(t)
	closed, resets, families := map[string]bool{}, map[string]bool{}, map[event.Family]bool{}
	kinds, err := event.NewRegistry()
	require.NoError(t, err)
	for _, vec := range v.Valid {
		m := vec.Means
		switch m.Frame {
		case "closed":
			closed[m.Reason+" "+m.Retry] = true
		case "reset":
			resets[m.Reason] = true
		}
		entries := m.Entries
		if m.Event != nil {
			entries = append(entries, *m.Event)
		}
		for _, e := range entries {
			families[kinds.Info(event.Kind(e.Kind)).Family] = true
		}
	}
	for _, r := range event.Reasons() {
		require.True(t, closed[string(r.Reason)+" "+string(r.Retry)], r.Reason)
	}
	for _, r := range []event.ResetReason{event.ResetAhead, event.ResetEpoch, event.ResetTrimmed} {
		require.True(t, resets[string(r)], r)
	}
	for _, k := range kinds.Kinds() {
		require.True(t, families[kinds.Info(k).Family], kinds.Info(k).Family)
	}
	seen := map[string]map[string]bool{}
	for _, vec := range v.Valid {
		var frame map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(vec.Line), &frame))
		note(seen, vec.Means.Frame, frame)
		for _, list := range []string{"entries", "states"} {
			var objects []map[string]json.RawMessage
			if json.Unmarshal(frame[list], &objects) == nil {
				for _, o := range objects {
					note(seen, list, o)
				}
			}
		}
		for _, name := range []string{"event", "cause"} {
			var o map[string]json.RawMessage
			if json.Unmarshal(frame[name], &o) == nil {
				note(seen, name, o)
			}
		}
	}
	for name, v := range map[string]any{
		"welcome": event.Welcome{}, "state": event.StatePage{}, "data": event.Data{}, "caughtUp": event.CaughtUp{}, "reset": event.Reset{},
		"live": event.Live{}, "pong": event.Pong{}, "closed": event.Closed{}, "entries": event.Entry{}, "states": event.State{},
		"cause": event.Cause{}, "ack": &event.Ack{}, "nack": &event.Nack{}, "resetAck": &event.ResetAck{}, "background": &event.Background{},
		"ping": &event.Ping{},
	} {
		require.Subset(t, slices.Collect(maps.Keys(seen[name])), wireFields(v, "Targets"), name)
	}
}

func note(seen map[string]map[string]bool, name string, object map[string]json.RawMessage) {
	if seen[name] == nil {
		seen[name] = map[string]bool{}
	}
	for field := range object {
		seen[name][field] = true
	}
}
