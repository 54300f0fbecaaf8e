package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
)

const (
	wantName  = "want 1 to 32 lowercase letters a-z, digits, '.', '_' or '-'"
	wantKnown = "not a known platform; give it a limit first"
)

// faults collects what is wrong with rules, each with the path to it.
type faults struct {
	json bool    // paths are those of the JSON form, not of the Go struct
	errs []error // each an *event.InvalidError
}

func (f *faults) add(path, format string, args ...any) {
	f.errs = append(f.errs, &event.InvalidError{Field: path, Reason: fmt.Sprintf(format, args...)})
}

// path picks the path of a field in Go or in JSON.
func (f *faults) path(inGo, inJSON string) string {
	if f.json {
		return inJSON
	}
	return inGo
}

// at returns the path of an entry of one of the maps by platform, which are one object in JSON.
func (f *faults) at(inGo string, p event.Platform, inJSON string) string {
	if f.json {
		return fmt.Sprintf("platforms[%q].%s", string(p), inJSON)
	}
	return fmt.Sprintf("%s[%q]", inGo, string(p))
}

// validate returns every fault of the rules, whose defaults are filled in.
func (r *Rules) validate(inJSON bool) []error {
	f := &faults{json: inJSON}
	r.validatePlatforms(f)
	r.validateActions(f)
	r.validateGroups(f)
	r.validateRest(f)
	return f.errs
}

func isName(s string) bool {
	p, err := event.ParsePlatform(s)
	return err == nil && string(p) == s
}

func (r *Rules) validatePlatforms(f *faults) {
	if r.PerPlatform < NoLimit {
		f.add(f.path("PerPlatform", "per_platform.limit"), "want %d for no limit, 0 for the default, or more", NoLimit)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Platforms)) {
		path := f.at("Platforms", name, "limit")
		if !isName(string(name)) {
			f.add(path, wantName)
		}
		if name == Other && r.Unknown != CountAsOther {
			f.add(path, "reserved for unknown platforms that are counted together")
		}
		if r.Platforms[name] < NoLimit {
			f.add(path, "want %d for no limit, 0 to close the platform, or more", NoLimit)
		}
	}
	if r.Unknown > CountAsOther {
		f.add(f.path("Unknown", "unknown"), "want RefuseUnknown or CountAsOther")
	}
	if r.MaxLogins < 1 || r.MaxLogins > MaxLogins {
		f.add(f.path("MaxLogins", "max_logins"), "want 1 to %d, or 0 for the default", MaxLogins)
	}
}

func (r *Rules) validateActions(f *faults) {
	check := func(path string, a Action) {
		if a > AskHost {
			f.add(path, "not an action")
		}
	}
	check(f.path("AtPlatform", "per_platform.action"), r.AtPlatform)
	for _, name := range slices.Sorted(maps.Keys(r.Actions)) {
		path := f.at("Actions", name, "action")
		check(path, r.Actions[name])
		if !r.counted(name) {
			f.add(path, wantKnown)
		}
	}
	check(f.path("AtTotal", "total.action"), r.AtTotal)
	if unanswered := f.path("Unanswered", "unanswered"); r.Unanswered == AskHost {
		f.add(unanswered, "the host has been asked already")
	} else {
		check(unanswered, r.Unanswered)
	}
}

func (r *Rules) validateGroups(f *faults) {
	for _, name := range slices.Sorted(maps.Keys(r.Classes)) {
		path := fmt.Sprintf("%s[%q]", f.path("Classes", "classes"), name)
		switch p := event.Platform(name); {
		case !isName(name):
			f.add(path, wantName)
		case p == Other || r.known(p):
			f.add(path, "the name of a platform")
		}
		r.validateMembers(f, path, len(r.Classes[name]), func(i int) string { return string(r.Classes[name][i]) }, false)
	}
	if len(r.Groups) > MaxGroups {
		f.add(f.path("Groups", "groups"), "%d, at most %d", len(r.Groups), MaxGroups)
	}
	seen := make(map[string]bool)
	for i := range r.Groups {
		g := &r.Groups[i]
		path := fmt.Sprintf("%s[%d].", f.path("Groups", "groups"), i)
		switch {
		case !isName(g.Name):
			f.add(path+f.path("Name", "name"), wantName)
		case seen[g.Name]:
			f.add(path+f.path("Name", "name"), "there twice")
		}
		seen[g.Name] = true
		r.validateMembers(f, path+f.path("Members", "members"), len(g.Members), func(i int) string { return g.Members[i] }, true)
		if g.Limit < 1 {
			f.add(path+f.path("Limit", "limit"), "want 1 or more")
		}
		if g.Action > AskHost {
			f.add(path+f.path("Action", "action"), "not an action")
		}
	}
}

// validateMembers checks the n platforms of a class or, with classes allowed, of a group.
func (r *Rules) validateMembers(f *faults, path string, n int, member func(i int) string, classes bool) {
	if n == 0 {
		f.add(path, "empty")
	}
	seen := make(map[string]bool)
	for i := range n {
		m, at := member(i), fmt.Sprintf("%s[%d]", path, i)
		_, class := r.Classes[m]
		switch {
		case classes && class:
		case !r.counted(event.Platform(m)) && classes:
			f.add(at, "neither a known platform nor a class")
		case !r.counted(event.Platform(m)):
			f.add(at, wantKnown)
		}
		if seen[m] {
			f.add(at, "there twice")
		}
		seen[m] = true
	}
}

func (r *Rules) validateRest(f *faults) {
	if r.Total < NoLimit {
		f.add(f.path("Total", "total.limit"), "want %d or 0 for no limit, or more", NoLimit)
	}
	if r.Primary > PrimaryOrdinary {
		f.add(f.path("Primary", "primary"), "want PrimaryProtected, PrimaryFree or PrimaryOrdinary")
	}
	if r.Slots > SlotEveryLogin {
		f.add(f.path("Slots", "slots"), "want SlotOnline or SlotEveryLogin")
	}
	if r.Reconnect > ReconnectRefused {
		f.add(f.path("Reconnect", "reconnect"), "want ReconnectEvicts or ReconnectRefused")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Tabs)) {
		path := f.at("Tabs", name, "tabs")
		if !r.counted(name) {
			f.add(path, wantKnown)
		}
		if n := r.Tabs[name]; n < 1 || n > MaxTabs {
			f.add(path, "want 1 to %d", MaxTabs)
		}
	}
	if err := bounds.Duration(f.path("MinAge", "min_age"), r.MinAge, time.Minute, bounds.Longest, bounds.Zero); err != nil {
		f.errs = append(f.errs, err)
	}
}
