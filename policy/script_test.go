package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
//	preset NAME                the rules of a preset
//	json {...}                 rules as JSON
//	login DEVICE PLATFORM [OPTION ...]   a login; DEVICE "-" is none, PLATFORM `""` the empty one; options are force,
//	                           never, primary and answer=refuse|none|LOGIN,... for what a host says if it is asked
//	comeback LOGIN [OPTION ...]   a login without a slot asks for one
//	lapse LOGIN                takes the slot and the connection of a login
//	offline LOGIN              takes the connection alone
//	active LOGIN               a sign of activity
//	wait SPAN                  time goes by
//	logout LOGIN               ends a login
//	kick LOGIN LOGIN           the first one asks to end the second one
//	fill N DEVICE PLATFORM     N logins without a slot, written down without asking
//	explain DEVICE PLATFORM [OPTION ...]   what a login would do
//	enforce                    ends those that the rules would not have
//	tabs PLATFORM              how many connections a login may have
//	list                       the logins, earliest first
//	clear                      another account
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
	a := &account{now: time.Unix(1_700_000_000, 0), known: make(map[event.DeviceID]time.Time)}
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
	now       time.Time
	known     map[event.DeviceID]time.Time // from when on
}

func (a *account) run(t *testing.T, words []string) string {
	t.Helper()
	need := map[string]int{
		"preset": 2, "login": 3, "comeback": 2, "lapse": 2, "offline": 2, "active": 2, "wait": 2, "logout": 2, "kick": 3,
		"fill": 4, "explain": 3, "enforce": 1, "tabs": 2, "list": 1, "clear": 1,
	}
	if n, ok := need[words[0]]; ok {
		require.GreaterOrEqual(t, len(words), n, "words of %q", words)
		if !slices.Contains([]string{"login", "comeback", "explain"}, words[0]) {
			require.Len(t, words, n, "words of %q", words)
		}
	}
	switch words[0] {
	case "rules":
		return a.setRules(t, words[1:])
	case "preset":
		for _, p := range policy.Presets() {
			if p.Name == words[1] {
				return a.use(p.Rules)
			}
		}
		t.Fatalf("no preset %q", words[1])
	case "json":
		r, err := policy.ParseJSON([]byte(strings.Join(words[1:], " ")))
		if err != nil {
			return err.Error() + "\n"
		}
		return a.use(r)
	case "login":
		return a.admit(t, a.newcomer(t, words[1], words[2], words[3:]), words[3:])
	case "comeback":
		l := a.logins[a.find(t, words[1])]
		in := a.newcomer(t, string(l.Device), string(l.Platform), words[2:])
		in.Login, in.Since, in.Primary = l.ID, time.Time{}, l.Primary
		return a.admit(t, in, words[2:])
	case "explain":
		return a.explain(t, a.newcomer(t, words[1], words[2], words[3:]), words[3:])
	case "kick":
		actor, victim := a.logins[a.find(t, words[1])], a.find(t, words[2])
		if may := a.policy.MayEnd(actor, a.logins[victim], a.now); !may.OK {
			return strings.TrimSuffix(fmt.Sprintf("may not: %s, wait %v", may.Cause, may.Wait), ", wait 0s") + "\n"
		}
		a.logins = slices.Delete(a.logins, victim, victim+1)
	case "fill":
		for range number(t, words[1]) {
			a.insert(a.newcomer(t, words[2], words[3], nil), false)
		}
	case "enforce":
		a.buffer = a.policy.Enforce(a.logins, a.buffer)
		a.logins = without(a.logins, a.buffer)
		return victims(a.buffer)
	case "clear":
		*a = account{policy: a.policy, now: a.now, known: make(map[event.DeviceID]time.Time)}
	case "tabs":
		return fmt.Sprintln(a.policy.Tabs(event.Platform(words[1])))
	case "list":
		var s strings.Builder
		for _, l := range a.logins {
			fmt.Fprintf(&s, "%s device=%q platform=%q slot=%t\n", l.ID, l.Device, l.Platform, l.Holds)
		}
		return s.String()
	default:
		a.change(t, words)
	}
	return ""
}

// change does what happens to a login, and to the clock.
func (a *account) change(t *testing.T, words []string) {
	t.Helper()
	if words[0] == "wait" {
		d, err := time.ParseDuration(words[1])
		require.NoError(t, err)
		a.now = a.now.Add(d)
		return
	}
	i := a.find(t, words[1])
	switch words[0] {
	case "lapse":
		a.logins[i].Holds, a.logins[i].Online = false, false
	case "offline":
		a.logins[i].Online = false
	case "active":
		a.logins[i].LastActive = a.now
	case "logout":
		a.logins = slices.Delete(a.logins, i, i+1)
	default:
		t.Fatalf("unknown command %q", words[0])
	}
}

func (a *account) admit(t *testing.T, in policy.Newcomer, options []string) string {
	t.Helper()
	d := a.policy.Decide(a.logins, in, a.now, a.buffer)
	var s strings.Builder
	if d.Verdict == policy.Ask {
		fmt.Fprintf(&s, "asked by %s, limit %d, count %d: %d of", d.Rule, d.Limit, d.Count, d.Need)
		for _, v := range d.Victims {
			fmt.Fprintf(&s, " %s", v.Login)
		}
		s.WriteString("\n")
		d = a.policy.Resolve(a.logins, in, a.now, answer(options), d.Victims)
	}
	a.buffer = d.Victims
	if d.Verdict == policy.Refuse {
		fmt.Fprintf(&s, "refused by %s, limit %d, count %d", d.Rule, d.Limit, d.Count)
		if d.Cause != policy.CauseRule {
			fmt.Fprintf(&s, ", cause %s", d.Cause)
		}
		if d.Wait != 0 {
			fmt.Fprintf(&s, ", wait %v", d.Wait)
		}
		return s.String() + "\n"
	}
	id := in.Login
	a.logins = without(a.logins, append(d.Victims, policy.Victim{Login: id}))
	a.insert(in, true)
	if id == "" {
		id = a.logins[len(a.logins)-1].ID
	}
	fmt.Fprintf(&s, "%s admitted on %s, limit %d, count %d\n", id, d.Platform, d.Limit, d.Count)
	return s.String() + victims(d.Victims)
}

func victims(all []policy.Victim) string {
	var s strings.Builder
	for _, v := range all {
		fmt.Fprintf(&s, "%s ends: %s by %s\n", v.Login, v.Reason, v.Rule)
	}
	return s.String()
}

func (a *account) explain(t *testing.T, in policy.Newcomer, options []string) string {
	t.Helper()
	if slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "answer=") }) {
		return a.policy.ExplainAnswer(a.logins, in, a.now, answer(options)).String()
	}
	return a.policy.Explain(a.logins, in, a.now).String()
}

// answer returns what a host says according to the options.
func answer(options []string) policy.Answer {
	var a policy.Answer
	for _, o := range options {
		switch value, ok := strings.CutPrefix(o, "answer="); {
		case !ok || value == "none":
		case value == "refuse":
			a.Refuse = true
		default:
			for id := range strings.SplitSeq(value, ",") {
				a.End = append(a.End, event.LoginID(id))
			}
		}
	}
	return a
}

// insert writes a login down; a comeback keeps its ID and gets a fresh admission number.
func (a *account) insert(in policy.Newcomer, holds bool) {
	a.admission++
	id := in.Login
	if id == "" {
		id = event.LoginID(fmt.Sprintf("L%d", a.admission))
	}
	since := a.now
	if in.Device != "" {
		if _, ok := a.known[in.Device]; !ok {
			a.known[in.Device] = a.now
		}
		since = a.known[in.Device]
	}
	a.logins = append(a.logins, policy.Login{
		ID: id, Device: in.Device, Platform: in.Platform, Admission: a.admission, Holds: holds, Online: holds,
		Primary: in.Primary, LastActive: a.now, Since: since,
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
	return a.use(r)
}

func (a *account) use(r policy.Rules) string {
	p, err := policy.New(r)
	if err != nil {
		return err.Error() + "\n"
	}
	a.policy = p
	return ""
}

func (a *account) newcomer(t *testing.T, device, platform string, options []string) policy.Newcomer {
	t.Helper()
	if device == "-" {
		device = ""
	}
	in := policy.Newcomer{Device: event.DeviceID(device), Platform: event.Platform(strings.Trim(platform, `"`))}
	in.Since = a.known[in.Device]
	for _, o := range options {
		switch {
		case o == "force":
			in.Wish = policy.ForceEvict
		case o == "never":
			in.Wish = policy.NeverEvict
		case o == "primary":
			in.Primary = true
		default:
			require.True(t, strings.HasPrefix(o, "answer="), "unknown option %q", o)
		}
	}
	return in
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}
