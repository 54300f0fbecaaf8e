package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

// FuzzMachine feeds a device whatever an engine may say, right or wrong. It must never go back within a connection but by a
// Reset, acknowledge more than it has, or save what it cannot go on from.
func FuzzMachine(f *testing.F) {
	f.Add([]byte(`{"t":"welcome","login":"l","position":{"epoch":"1","seq":"5"},"head":"9","token":"x"}
{"t":"state","epoch":"1","states":[{"name":"read","conversation":"c","number":"4","seq":"5"}]}
{"t":"data","epoch":"1","prev":"5","seq":"9","entries":[{"kind":"message","seq":"7","id":"m"},{"kind":"conversation.read","seq":"8","conversation":"c","text":"{\"seq\":\"7\"}"}]}
{"t":"caughtUp","position":{"epoch":"1","seq":"9"}}
{"t":"closed","reason":"shutdown","retry":"after","afterMs":"5"}`), true)
	f.Add([]byte(`{"t":"welcome","login":"l","position":{"epoch":"1","seq":"5"},"head":"9"}
{"t":"reset","reason":"epoch","from":{"epoch":"1","seq":"5"},"to":{"epoch":"2","seq":"0"}}
{"t":"data","epoch":"2","prev":"0","seq":"3"}
{"t":"reset","reason":"ahead","from":{"epoch":"2","seq":"3"},"to":{"epoch":"2","seq":"1"}}
{"t":"data","epoch":"2","prev":"2","seq":"3"}`), false)
	vectors, err := os.ReadFile(filepath.Join("..", "..", "event", "testdata", "vectors.json"))
	require.NoError(f, err)
	var all struct{ Valid []struct{ Line string } }
	require.NoError(f, json.Unmarshal(vectors, &all))
	for _, v := range all.Valid {
		f.Add([]byte(`{"t":"welcome","login":"l","position":{"epoch":"12884901889","seq":"117"},"head":"9"}`+"\n"+v.Line), true)
	}
	f.Fuzz(func(t *testing.T, script []byte, known bool) {
		var st client.State
		if known {
			st = client.State{Login: "l", Position: &event.Position{Epoch: 1, Seq: 5}}
		}
		m := client.New(st, client.Config{Keep: 4})
		m.Attach()
		for line := range bytes.Lines(script) {
			frame, err := event.DecodeFrame(line)
			if err != nil {
				continue
			}
			before, was := m.Position()
			step, err := m.Receive(frame)
			if err != nil {
				_, ok := errors.AsType[*client.ViolationError](err)
				require.True(t, ok, "%v", err)
			}
			after, is := m.Position()
			if was && step.Reset == nil {
				require.True(t, is && after.Epoch == before.Epoch && after.Seq >= before.Seq, "%v, then %v", before, after)
			}
			for _, e := range step.Apply {
				require.LessOrEqual(t, e.Seq, after.Seq)
			}
			for _, reply := range m.Replies() {
				if ack, ok := reply.(*event.Ack); ok {
					require.Equal(t, after, ack.Position)
				}
			}
			saved, err := json.Marshal(m.Snapshot())
			require.NoError(t, err)
			var again client.State
			require.NoError(t, json.Unmarshal(saved, &again))
			require.Equal(t, m.Snapshot().Position, client.New(again, client.Config{}).Attach())
		}
	})
}

// FuzzState checks that any file that can be read as a state is one to go on from.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"login":"l","token":"t","position":{"epoch":"1","seq":"5"},"held":["a","a","b"],"registers":[{"Name":"read","Number":4},{"Name":"read"}]}`))
	f.Add([]byte(`{"position":null,"held":[""],"registers":[{"Name":"_x"}]}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		var st client.State
		if json.Unmarshal(file, &st) != nil {
			return
		}
		m := client.New(st, client.Config{Keep: 2})
		require.Equal(t, st.Position, m.Attach())
		first := m.Snapshot()
		require.LessOrEqual(t, len(first.Held), 2)
		require.Equal(t, first, client.New(first, client.Config{Keep: 2}).Snapshot())
	})
}
