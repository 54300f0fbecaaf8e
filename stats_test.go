package manydevice_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// One call has the figures of all parts (K20.4).
func TestEngineStats(t *testing.T) {
	file, err := boltstore.Open(filepath.Join(t.TempDir(), "store.db"), boltstore.Config{})
	require.NoError(t, err)
	for name, st := range map[string]store.Store{"memory": memstore.New(memstore.Config{}), "file": file} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			engine, err := manydevice.Open(st, manydevice.Config{})
			require.NoError(t, err)
			_, err = engine.Sessions.Login(ctx, session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
			require.NoError(t, err)
			_, err = engine.Router.Send(ctx, fanout.SendRequest{From: "ben", Conversation: "c", To: []event.Account{"ann"}})
			require.NoError(t, err)
			s := engine.Stats()
			require.EqualValues(t, 1, s.Sessions.Logins)
			require.EqualValues(t, 1, s.Router.Sends)
			if name == "memory" {
				require.Nil(t, s.Store)
			} else {
				require.GreaterOrEqual(t, s.Store.Commits, uint64(2))
				require.Positive(t, s.Store.Room)
			}
			require.NoError(t, engine.Close(ctx))
			require.NotPanics(t, func() { engine.Stats() })
			require.NoError(t, st.Close(ctx))
			require.NotPanics(t, func() { engine.Stats() }, "a metrics adapter may be late")
		})
	}
}

// Each figure, event and hook is explained in docs/operations.md.
func TestOperations_NameEveryFigure(t *testing.T) {
	doc, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	for _, of := range []any{session.Stats{}, session.HookStats{}, fanout.Stats{}, store.Stats{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if f.Name != "ByCause" {
				require.Contains(t, string(doc), "`"+f.Name+"`", "%T", of)
			}
		}
	}
	for _, c := range fanout.Causes() {
		require.Contains(t, string(doc), "`"+string(c)+"`")
	}
	for _, h := range fanout.Hooks() {
		require.Contains(t, string(doc), "`"+string(h)+"`")
	}
}

// writesLine finds source lines that write a line of the log, or say what its text is, and lineText the texts.
var (
	writesLine = regexp.MustCompile(`\b[lL]og\(?\)?\.(Debug|Info|Warn|Error|Log)\(|\btext[:,]|\bline :?=|\.(turned|carriedOut|hostCall|note\w+)\(|kind, text`)
	lineText   = regexp.MustCompile(`"(session|fanout|boltstore|sessionhttp): ([^"]+)"`)
)

// Each line that the engine can write stands in docs/operations.md, so that an operator who finds it in a log can look it up.
func TestOperations_NameEveryLine(t *testing.T) {
	doc, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	found := 0
	for _, dir := range []string{"session", "session/sessionhttp", "fanout", "store/boltstore", "store/boltstore/internal/kv"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			source, err := os.ReadFile(name)
			require.NoError(t, err)
			for l := range strings.Lines(string(source)) {
				if !writesLine.MatchString(l) {
					continue
				}
				for _, m := range lineText.FindAllStringSubmatch(l, -1) {
					found++
					if text := m[2]; !strings.Contains(string(doc), text+"`") && !strings.Contains(string(doc), "*"+text+"*") {
						t.Errorf("docs/operations.md does not have %q of %s", m[0], name)
					}
				}
			}
		}
	}
	require.Greater(t, found, 70)
}
