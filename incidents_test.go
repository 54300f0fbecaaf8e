package manydevice_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// An incident is provoked on an engine, and has to be seen in exactly these places: the promise is I37.
type incident struct {
	name    string // of the row in docs/operations.md
	onDisk  bool
	config  func(s *scene, c *manydevice.Config)
	provoke func(s *scene)

	// lines are those of the log, each with its level and the attributes that have to be there, in any order. Of levels warning
	// and error there is no other line, and each as often as it stands here.
	lines []string
	// events are kinds of Router.Subscribe, and what is in Cause, Call or Code if that says more.
	events []string
	// changes are kinds of Sessions.Subscribe with their reason.
	changes []string
	// figures of Engine.Stats, each as it is after it.
	figures map[string]any
}

// play provokes an incident in a bubble and looks at what shows it.
func (i *incident) play(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t, ctx: context.Background(), over: make(chan struct{})}
		logger := slog.New(slog.NewJSONHandler(&s.log, nil))
		var err error
		if i.onDisk {
			s.in, err = boltstore.Open(filepath.Join(t.TempDir(), "chat.db"), boltstore.Config{Logger: logger, MaxSize: 4 << 20})
			require.NoError(t, err)
		} else {
			s.in = memstore.New(memstore.Config{})
		}
		s.st = storetest.WithFaults(s.in)
		cfg := manydevice.Config{
			Session: session.Config{Logger: logger, Wall: func() time.Time { return time.Now().Add(time.Duration(s.wall.Load())) }},
			Fanout:  fanout.Config{Logger: logger},
		}
		if i.config != nil {
			i.config(s, &cfg)
		}
		st := store.Store(s.st)
		if i.onDisk {
			st = s.in // which tells about itself
		}
		s.Engine, err = manydevice.Open(st, cfg)
		require.NoError(t, err)
		s.events, err = s.Router.Subscribe(1_000)
		require.NoError(t, err)
		s.changes, err = s.Sessions.Subscribe(1_000)
		require.NoError(t, err)
		defer func() {
			close(s.over)
			_ = s.Engine.Close(s.ctx) // some have broken the store
			_ = s.st.Close(s.ctx)
		}()
		i.provoke(s)
		synctest.Wait()
		i.shows(s)
	})
}

// shows checks that the incident is seen where the table says, and that nothing else cries.
func (i *incident) shows(s *scene) {
	t := s.t
	t.Helper()
	for path, want := range i.figures {
		require.EqualValues(t, want, s.figure(path), path)
	}
	s.events.Close()
	var events []string
	for e := range s.events.All(s.ctx) {
		events = append(events, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s", e.Kind, e.Call, e.Cause, e.Code)), " "))
	}
	for _, want := range i.events {
		require.Contains(t, events, want)
	}
	s.changes.Close()
	var changes []string
	for c := range s.changes.All(s.ctx) {
		changes = append(changes, strings.TrimSpace(fmt.Sprintf("%s %s", c.Kind, c.Reason)))
	}
	for _, want := range i.changes {
		require.Contains(t, changes, want)
	}
	written := s.log.all(t)
	for _, want := range i.lines {
		found := -1
		for n, line := range written {
			if matches(line, want) {
				found = n
				break
			}
		}
		require.GreaterOrEqual(t, found, 0, "no line %q in %v", want, written)
		written = append(written[:found:found], written[found+1:]...)
	}
	for _, line := range written {
		require.NotContains(t, []any{"WARN", "ERROR"}, line["level"], line)
	}
}

// matches reports whether a line of the log is one as a table has it: LEVEL text | key=value key=value.
func matches(line map[string]any, want string) bool {
	level, want, _ := strings.Cut(want, " ")
	text, attrs, _ := strings.Cut(want, " | ")
	if line["level"] != level || line["msg"] != text {
		return false
	}
	for a := range strings.FieldsSeq(attrs) {
		key, value, exact := strings.Cut(a, "=")
		got, there := line[key]
		if !there || exact && fmt.Sprint(got) != value {
			return false
		}
	}
	return true
}

// pathStep is a field, or a key of a map.
var pathStep = regexp.MustCompile(`(\w+)|\[(.*?)\]`)

// figure finds one of the statistics by its path, such as Router.ByCause[full].
func (s *scene) figure(path string) any {
	s.t.Helper()
	v := reflect.ValueOf(s.Stats())
	for _, step := range pathStep.FindAllStringSubmatch(path, -1) {
		if field, key := step[1], step[2]; field != "" {
			v = reflect.Indirect(v).FieldByName(field)
		} else {
			v = v.MapIndex(reflect.ValueOf(key).Convert(v.Type().Key()))
		}
		require.True(s.t, v.IsValid(), "there is no %s", path)
	}
	return v.Interface()
}

// TestIncidents provokes what goes wrong in practice, and finds each in the log, among events, and in the statistics.
func TestIncidents(t *testing.T) {
	for _, i := range incidents {
		t.Run(i.name, i.play)
	}
}

// The table of docs/operations.md has a row for each incident, and it names every line, event and figure that shows it.
func TestIncidents_AreInTheManual(t *testing.T) {
	text, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	rows := make(map[string]string)
	_, section, _ := strings.Cut(string(text), "\n## An incident, and where it shows\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for row := range strings.Lines(section) {
		if cells := strings.Split(row, "|"); len(cells) > 3 {
			rows[strings.TrimSpace(cells[1])] = row
		}
	}
	delete(rows, "Incident")
	delete(rows, "---")
	for _, i := range incidents {
		row := rows[i.name]
		require.NotEmpty(t, row, "no row %q", i.name)
		delete(rows, i.name)
		for _, l := range i.lines {
			_, l, _ = strings.Cut(l, " ")
			l, _, _ = strings.Cut(l, " | ")
			require.Contains(t, row, "`"+l+"`")
		}
		for _, e := range append(i.events, i.changes...) {
			kind, _, _ := strings.Cut(e, " ")
			require.Contains(t, row, "`"+kind+"`")
		}
		for path := range i.figures {
			require.Contains(t, row, "`"+path+"`")
		}
	}
	require.Empty(t, rows, "rows without an incident that was provoked")
}
