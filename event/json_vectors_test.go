package event_test

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

var update = flag.Bool("update", false, "rewrite what tests compare with; read the difference before keeping it")

// vectors is the file that docs/protocol.md points authors of clients to.
type vectors struct {
	Valid   []validVector   `json:"valid"`
	Invalid []invalidVector `json:"invalid"`
}

type validVector struct {
	Name      string   `json:"name"`
	Direction string   `json:"direction"`           // who sends it: server or client
	Line      string   `json:"line"`                // as received
	Canonical string   `json:"canonical,omitempty"` // as we would write it, if that is not Line
	Means     *meaning `json:"means"`
}

type invalidVector struct {
	Name      string           `json:"name"`
	Direction string           `json:"direction"`
	Line      string           `json:"line,omitempty"`
	Hex       string           `json:"hex,omitempty"`    // in place of Line, for what is not text
	Spaces    int              `json:"spaces,omitempty"` // so many spaces follow
	Fault     event.FrameFault `json:"fault"`
}

func (v *invalidVector) bytes(t *testing.T) []byte {
	b, err := hex.DecodeString(v.Hex)
	require.NoError(t, err)
	return append(append(b, v.Line...), strings.Repeat(" ", v.Spaces)...)
}

// meaning is a frame in words that do not depend on how it is encoded: bytes are in hexadecimal, all numbers in decimal.
type meaning struct {
	Frame       string        `json:"frame"`
	Login       string        `json:"login,omitempty"`
	Head        *uint64       `json:"head,string,omitempty"`
	Token       string        `json:"token,omitempty"`
	Position    *place        `json:"position,omitempty"`
	From        *place        `json:"from,omitempty"`
	To          *place        `json:"to,omitempty"`
	Epoch       *uint64       `json:"epoch,string,omitempty"`
	Prev        *uint64       `json:"prev,string,omitempty"`
	Seq         *uint64       `json:"seq,string,omitempty"`
	Redelivered bool          `json:"redelivered,omitempty"`
	Entries     []entryWords  `json:"entries,omitempty"`
	States      []stateWords  `json:"states,omitempty"`
	More        bool          `json:"more,omitempty"`
	Event       *entryWords   `json:"event,omitempty"`
	Nonce       string        `json:"nonce,omitempty"`
	Code        string        `json:"code,omitempty"`
	On          *bool         `json:"on,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	Note        string        `json:"note,omitempty"`
	Cause       *causeWords   `json:"cause,omitempty"`
	Retry       string        `json:"retry,omitempty"`
	AfterMillis time.Duration `json:"afterMillis,string,omitempty"`
}

type place struct {
	Epoch uint64 `json:"epoch,string"`
	Seq   uint64 `json:"seq,string"`
}

type causeWords struct {
	Login    string `json:"login,omitempty"`
	Device   string `json:"device,omitempty"`
	Platform string `json:"platform,omitempty"`
	Name     string `json:"name,omitempty"`
}

type stateWords struct {
	Conversation string `json:"conversation,omitempty"`
	Name         string `json:"name"`
	Number       uint64 `json:"number,string"`
	ValueHex     string `json:"valueHex"`
	Seq          uint64 `json:"seq,string"`
}

type entryWords struct {
	Seq           uint64 `json:"seq,string"`
	Kind          string `json:"kind"`
	Unread        bool   `json:"countsAsUnread,omitempty"`
	Receipts      bool   `json:"wantsReceipts,omitempty"`
	OtherFlags    uint16 `json:"otherFlags,omitempty"`
	Conversation  string `json:"conversation,omitempty"`
	ID            string `json:"id,omitempty"`
	ClientID      string `json:"clientId,omitempty"`
	From          string `json:"from,omitempty"`
	Origin        string `json:"origin,omitempty"`
	Key           string `json:"key,omitempty"`
	TimeMillis    *int64 `json:"timeMillis,string,omitempty"`
	ExpiresMillis *int64 `json:"expiresMillis,string,omitempty"`
	Ordinal       uint64 `json:"ordinal,string"`
	PayloadHex    string `json:"payloadHex"`
}

func readVectors(t testing.TB) vectors {
	b, err := os.ReadFile(filepath.Join("testdata", "vectors.json"))
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var v vectors
	require.NoError(t, d.Decode(&v))
	return v
}

func TestVectors_Valid(t *testing.T) {
	v := readVectors(t)
	require.GreaterOrEqual(t, len(v.Valid), 30)
	if *update {
		rewriteVectors(t, &v)
	}
	for _, vec := range v.Valid {
		t.Run(vec.Name, func(t *testing.T) {
			want := cmp.Or(vec.Canonical, vec.Line)
			require.NotContains(t, want, "\n")
			if vec.Direction == "client" {
				got, err := event.DecodeClientFrame([]byte(vec.Line))
				require.NoError(t, err)
				require.Equal(t, vec.Means, describeClient(t, got))
				line, err := event.AppendClientFrame(nil, vec.Means.buildClient(t))
				require.NoError(t, err)
				require.Equal(t, want, string(line))
				return
			}
			got, err := event.DecodeFrame([]byte(vec.Line))
			require.NoError(t, err)
			require.Equal(t, vec.Means, describe(t, got))
			line, err := event.AppendFrame(nil, vec.Means.build(t))
			require.NoError(t, err)
			require.Equal(t, want, string(line))
			line, err = event.AppendFrame(nil, got)
			require.NoError(t, err)
			require.Equal(t, want, string(line))
		})
	}
}

func TestVectors_Invalid(t *testing.T) {
	v := readVectors(t)
	require.GreaterOrEqual(t, len(v.Invalid), 30)
	for _, vec := range v.Invalid {
		t.Run(vec.Name, func(t *testing.T) {
			var got any
			var err error
			if vec.Direction == "client" {
				got, err = event.DecodeClientFrame(vec.bytes(t))
			} else {
				got, err = event.DecodeFrame(vec.bytes(t))
			}
			require.Nil(t, got)
			fault, ok := errors.AsType[*event.FrameError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, vec.Fault, fault.Fault, "%v", err)
			require.NotEmpty(t, fault.Reason)
		})
	}
}

func TestVectors_NamesAndFramesAreCovered(t *testing.T) {
	v := readVectors(t)
	names, frames, faults := map[string]bool{}, map[string]int{}, map[event.FrameFault]int{}
	for _, vec := range v.Valid {
		require.False(t, names[vec.Name], vec.Name)
		require.Contains(t, []string{"server", "client"}, vec.Direction)
		names[vec.Name] = true
		frames[vec.Means.Frame]++
	}
	for _, vec := range v.Invalid {
		require.False(t, names[vec.Name], vec.Name)
		require.Contains(t, []string{"server", "client"}, vec.Direction)
		names[vec.Name] = true
		faults[vec.Fault]++
	}
	for _, f := range []string{"welcome", "data", "state", "caughtUp", "reset", "live", "pong", "closed",
		"ack", "nack", "resetAck", "tokenStored", "background", "ping"} {
		require.NotZero(t, frames[f], f)
	}
	for _, f := range []event.FrameFault{event.FaultSize, event.FaultSyntax, event.FaultType, event.FaultField, event.FaultValue} {
		require.NotZero(t, faults[f], f)
	}
}

// rewriteVectors fills in what the lines mean.
func rewriteVectors(t *testing.T, v *vectors) {
	for i := range v.Valid {
		vec := &v.Valid[i]
		var line []byte
		if vec.Direction == "client" {
			f, err := event.DecodeClientFrame([]byte(vec.Line))
			require.NoError(t, err, vec.Name)
			vec.Means = describeClient(t, f)
			line, err = event.AppendClientFrame(nil, f)
			require.NoError(t, err)
		} else {
			f, err := event.DecodeFrame([]byte(vec.Line))
			require.NoError(t, err, vec.Name)
			vec.Means = describe(t, f)
			line, err = event.AppendFrame(nil, f)
			require.NoError(t, err)
		}
		if vec.Canonical = ""; string(line) != vec.Line {
			vec.Canonical = string(line)
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(v))
	require.NoError(t, os.WriteFile(filepath.Join("testdata", "vectors.json"), out.Bytes(), 0o644))
}
