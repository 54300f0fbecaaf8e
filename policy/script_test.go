package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/*.txt")

// TestScripts runs the stories in testdata. A line that begins with two spaces is expected output of the command above
// it. Commands:
//
//	rules [per=N] [single] [unknown=refuse|other] [max=N] [PLATFORM:N ...]   replaces the rules, keeps the logins
//	login DEVICE PLATFORM      a login; DEVICE "-" is none, PLATFORM `""` the empty one
//	comeback LOGIN             a login without a slot asks for one
//	lapse LOGIN                takes the slot of a login
//	logout LOGIN               ends a login
//	fill N DEVICE PLATFORM     N logins without a slot, written down without asking
//	explain DEVICE PLATFORM    what a login would do
//	list                       the logins, earliest first
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			got := runScript(t, string(want))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(want), got)
		})
	}
}

func runScript(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	a := &account{}
	a.setRules(t, nil)
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		for answer := range strings.Lines(a.run(t, words)) {
			out.WriteString("  " + strings.TrimRight(answer, "\n") + "\n")
		}
	}
	return out.String()
}

// account is what a script works on.
type account struct {
	policy    *policy.Policy
	logins    []policy.Login
	admission uint64
	buffer    []policy.Victim
}

func (a *account) run(t *testing.T, words []string) string {
	t.Helper()
	need := map[string]int{"login": 3, "comeback": 2, "lapse": 2, "logout": 2, "fill": 4, "explain": 3, "list": 1}
	if n, ok := need[words[0]]; ok {
		require.Len(t, words, n, "words of %q", words)
	}
	switch words[0] {
	case "rules":
		return a.setRules(t, words[1:])
	case "login":
		return a.admit(newcomer(words[1], words[2]))
	case "comeback":
		l := a.logins[a.find(t, words[1])]
		return a.admit(policy.Newcomer{Device: l.Device, Platform: l.Platform, Login: l.ID})
	case "lapse":
		a.logins[a.find(t, words[1])].Holds = false
	case "logout":
		i := a.find(t, words[1])
		a.logins = append(a.logins[:i], a.logins[i+1:]...)
	case "fill":
		for range number(t, words[1]) {
			a.insert(newcomer(words[2], words[3]), false)
		}
	case "explain":
		return a.policy.Explain(a.logins, newcomer(words[1], words[2]), time.Time{}).String()
	case "list":
		var s strings.Builder
		for _, l := range a.logins {
			fmt.Fprintf(&s, "%s device=%q platform=%q slot=%t\n", l.ID, l.Device, l.Platform, l.Holds)
		}
		return s.String()
	default:
		t.Fatalf("unknown command %q", words[0])
	}
	return ""
}

func (a *account) admit(in policy.Newcomer) string {
	d := a.policy.Decide(a.logins, in, time.Time{}, a.buffer)
	a.buffer = d.Victims
	if d.Verdict == policy.Refuse {
		return fmt.Sprintf("refused by %s, limit %d, count %d\n", d.Rule, d.Limit, d.Count)
	}
	var s strings.Builder
	gone := make(map[event.LoginID]bool)
	for _, v := range d.Victims {
		gone[v.Login] = true
	}
	id := in.Login
	var stay []policy.Login
	for _, l := range a.logins {
		if !gone[l.ID] && l.ID != in.Login {
			stay = append(stay, l)
		}
	}
	a.logins = stay
	a.insert(in, true)
	if id == "" {
		id = a.logins[len(a.logins)-1].ID
	}
	fmt.Fprintf(&s, "%s admitted on %s, limit %d, count %d\n", id, d.Platform, d.Limit, d.Count)
	for _, v := range d.Victims {
		fmt.Fprintf(&s, "%s ends: %s by %s\n", v.Login, v.Reason, v.Rule)
	}
	return s.String()
}

// insert writes a login down; a comeback keeps its ID and gets a fresh admission number.
func (a *account) insert(in policy.Newcomer, holds bool) {
	a.admission++
	id := in.Login
	if id == "" {
		id = event.LoginID(fmt.Sprintf("L%d", a.admission))
	}
	a.logins = append(a.logins, policy.Login{
		ID: id, Device: in.Device, Platform: in.Platform, Admission: a.admission, Holds: holds,
	})
}

func (a *account) find(t *testing.T, id string) int {
	t.Helper()
	for i, l := range a.logins {
		if string(l.ID) == id {
			return i
		}
	}
	t.Fatalf("no login %q", id)
	return -1
}

func (a *account) setRules(t *testing.T, words []string) string {
	t.Helper()
	r := policy.Rules{Platforms: make(map[event.Platform]int)}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "per":
			r.PerPlatform = number(t, value)
		case "single":
			r.Single = true
		case "unknown":
			require.Contains(t, []string{"refuse", "other"}, value)
			if value == "other" {
				r.Unknown = policy.CountAsOther
			}
		case "max":
			r.MaxLogins = number(t, value)
		default:
			name, limit, ok := strings.Cut(w, ":")
			require.True(t, ok, "unknown rule %q", w)
			r.Platforms[event.Platform(name)] = number(t, limit)
		}
	}
	p, err := policy.New(r)
	if err != nil {
		return err.Error() + "\n"
	}
	a.policy = p
	return ""
}

func newcomer(device, platform string) policy.Newcomer {
	if device == "-" {
		device = ""
	}
	return policy.Newcomer{Device: event.DeviceID(device), Platform: event.Platform(strings.Trim(platform, `"`))}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}
