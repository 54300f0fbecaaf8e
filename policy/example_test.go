package policy_test

import (
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

func ExampleNew() {
	_, err := policy.New(policy.Rules{
		PerPlatform: -5,
		Platforms:   map[event.Platform]int{"iOS": 2},
	})
	fmt.Println(err)
	// Output:
	// policy: rules: invalid PerPlatform: want -1 for no limit, 0 for the default, or more
	// invalid Platforms["iOS"]: want 1 to 32 lowercase letters a-z, digits, '.', '_' or '-'
}

// Two phones, one tablet, one browser whose tabs share one login, nothing else; who comes when all places are taken is
// refused. [ExampleParseJSON] is the same as JSON.
func ExampleRules() {
	p, err := policy.New(policy.Rules{
		AtPlatform: policy.RefuseNew,
		Platforms: map[event.Platform]int{
			"ipad": 1, "android-tablet": 1, "web": 1,
			"windows": 0, "macos": 0, "linux": 0, "harmony": 0, // closed
		},
		Tabs: map[event.Platform]int{"web": 8},
		Groups: []policy.Group{
			{Name: "phones", Members: []string{"android", "ios"}, Limit: 2, Action: policy.RefuseNew},
			{Name: "tablets", Members: []string{"ipad", "android-tablet"}, Limit: 1, Action: policy.RefuseNew},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	arrive(p)
	// Output:
	// phone 1: admit
	// phone 2: admit
	// tablet 1: admit
	// phone 3: refuse by group:phones, limit 2
	// tablet 2: refuse by group:tablets, limit 1
	// browser 1: admit
	// browser 2: refuse by platform, limit 1
	// laptop: refuse by platform, limit 0
	// a browser's login has up to 8 tabs, a phone's 1
}

func ExampleParseJSON() {
	rules, err := policy.ParseJSON([]byte(`{
		"per_platform": {"action": "refuse"},
		"platforms": {
			"ipad": {"limit": 1}, "android-tablet": {"limit": 1},
			"web": {"limit": 1, "tabs": 8},
			"windows": {"limit": 0}, "macos": {"limit": 0}, "linux": {"limit": 0}, "harmony": {"limit": 0}
		},
		"groups": [
			{"name": "phones", "members": ["android", "ios"], "limit": 2, "action": "refuse"},
			{"name": "tablets", "members": ["ipad", "android-tablet"], "limit": 1, "action": "refuse"}
		]
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := policy.New(rules)
	if err != nil {
		fmt.Println(err)
		return
	}
	arrive(p)
	// Output:
	// phone 1: admit
	// phone 2: admit
	// tablet 1: admit
	// phone 3: refuse by group:phones, limit 2
	// tablet 2: refuse by group:tablets, limit 1
	// browser 1: admit
	// browser 2: refuse by platform, limit 1
	// laptop: refuse by platform, limit 0
	// a browser's login has up to 8 tabs, a phone's 1
}

// arrive lets one device after the other log in.
func arrive(p *policy.Policy) {
	var logins []policy.Login
	for i, in := range []policy.Newcomer{
		{Device: "phone 1", Platform: "ios"},
		{Device: "phone 2", Platform: "android"},
		{Device: "tablet 1", Platform: "ipad"},
		{Device: "phone 3", Platform: "ios"},
		{Device: "tablet 2", Platform: "android-tablet"},
		{Device: "browser 1", Platform: "web"},
		{Device: "browser 2", Platform: "web"},
		{Device: "laptop", Platform: "macos"},
	} {
		d := p.Decide(logins, in, time.Time{}, nil)
		if d.Verdict == policy.Refuse {
			fmt.Printf("%s: refuse by %s, limit %d\n", in.Device, d.Rule, d.Limit)
			continue
		}
		fmt.Printf("%s: %v\n", in.Device, d.Verdict)
		logins = append(logins, policy.Login{
			ID: event.LoginID(in.Device), Device: in.Device, Platform: in.Platform, Admission: uint64(i + 1), Holds: true,
		})
	}
	fmt.Printf("a browser's login has up to %d tabs, a phone's %d\n", p.Tabs("web"), p.Tabs("ios"))
}

func ExamplePolicy_Resolve() {
	p, err := policy.New(policy.Rules{Total: 2, AtTotal: policy.AskHost})
	if err != nil {
		fmt.Println(err)
		return
	}
	logins := []policy.Login{
		{ID: "first", Device: "phone", Platform: "ios", Admission: 1, Holds: true},
		{ID: "second", Device: "laptop", Platform: "macos", Admission: 2, Holds: true},
	}
	in := policy.Newcomer{Device: "tablet", Platform: "ios"}
	d := p.Decide(logins, in, time.Time{}, nil)
	if d.Verdict == policy.Ask {
		fmt.Println("of", len(d.Victims), "logins must end", d.Need)
		answer := policy.Answer{End: []event.LoginID{"second"}} // what the host chose
		d = p.Resolve(logins, in, time.Time{}, answer, nil)
	}
	fmt.Println(d.Verdict, d.Victims[0].Login, d.Victims[0].Rule)
	// Output:
	// of 2 logins must end 1
	// admit second total
}

func ExamplePolicy_Enforce() {
	logins := []policy.Login{
		{ID: "first", Device: "phone", Platform: "ios", Admission: 1, Holds: true},
		{ID: "second", Device: "tablet", Platform: "ios", Admission: 2, Holds: true},
		{ID: "third", Device: "laptop", Platform: "macos", Admission: 3, Holds: true},
	}
	p, err := policy.New(policy.PresetPerPlatform(1)) // the new rules
	if err != nil {
		fmt.Println(err)
		return
	}
	victims := p.Enforce(logins, nil)
	for _, v := range victims {
		fmt.Println(v.Login, v.Reason, v.Rule)
	}
	var preview policy.Tally
	preview.Add(len(logins), victims, p.Protected(logins))
	fmt.Println("accounts affected:", preview.Affected, "logins that would end:", preview.Ends)
	// Output:
	// first policy_changed platform
	// accounts affected: 1 logins that would end: 1
}

func ExamplePolicy_MayEnd() {
	p, err := policy.New(policy.PresetMinAge(24 * time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Unix(1_700_000_000, 0)
	phone := policy.Login{ID: "phone", Since: now.Add(-1000 * time.Hour)}
	stranger := policy.Login{ID: "stranger", Since: now.Add(-time.Hour)}
	fmt.Println(p.MayEnd(phone, stranger, now))
	fmt.Println(p.MayEnd(stranger, phone, now))
	// Output:
	// {true  0s}
	// {false min_age 23h0m0s}
}

func ExamplePresets() {
	for _, p := range policy.Presets() {
		fmt.Println(p.Name+":", p.Summary)
	}
	// Output:
	// single: one login; a new one ends it
	// one_per_platform: one login on each platform
	// per_platform: 4 logins on each platform; the earliest makes room
	// desktop_mobile: one of desktop and web, one mobile
	// mobile_desktop_web: one mobile, one desktop, one web
	// one_and_web: one of all but web, and one web
	// web_unlimited: one mobile, one desktop, any number of web
	// total: 10 logins over all platforms; the earliest makes room
	// refuse: 6 devices over all platforms, online or not; more are refused
	// companions: a primary device and 4 companions, online or not; more are refused
	// min_age: any number; a new device ends no older login for 24 h
	// matrix: one per platform; phones exclude each other, and so do Windows and macOS
}

func ExamplePolicy_Decide() {
	p, err := policy.New(policy.Rules{Platforms: map[event.Platform]int{"ios": 2, "web": 0}})
	if err != nil {
		fmt.Println(err)
		return
	}
	logins := []policy.Login{
		{ID: "first", Device: "phone", Platform: "ios", Admission: 1, Holds: true},
		{ID: "second", Device: "tablet", Platform: "ios", Admission: 2, Holds: true},
		{ID: "third", Device: "laptop", Platform: "macos", Admission: 3, Holds: true},
	}
	var buffer []policy.Victim
	for _, in := range []policy.Newcomer{
		{Device: "new phone", Platform: "ios"}, // the earliest on ios makes room
		{Device: "tablet", Platform: "ios"},    // replaces its own login
		{Device: "browser", Platform: "web"},   // closed
	} {
		d := p.Decide(logins, in, time.Time{}, buffer)
		fmt.Println(in.Device+":", d.Verdict, d.Rule, d.Limit)
		for _, v := range d.Victims {
			fmt.Println("  ends", v.Login, v.Reason)
		}
		buffer = d.Victims
	}
	// Output:
	// new phone: admit platform 2
	//   ends first evicted_quota
	// tablet: admit platform 2
	//   ends second replaced
	// browser: refuse platform 0
}

func ExamplePolicy_Explain() {
	p, err := policy.New(policy.Rules{Single: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	logins := []policy.Login{{ID: "first", Device: "phone", Platform: "ios", Admission: 1, Holds: true}}
	fmt.Println(p.Explain(logins, policy.Newcomer{Device: "browser", Platform: "web"}, time.Time{}))
	// Output:
	// admitted on web, 1 end
	// device: 0 of the same device, 1 with the newcomer, limit 1; nothing to do
	// single: 1 in the account, 2 with the newcomer, limit 1; picks 1, all of them: first (evicted_single)
	// platform: 0 with a slot on web, 1 with the newcomer, limit 4; nothing to do
	// account: 0 in the account, 1 with the newcomer, limit 64; nothing to do
}

// Private browser windows are devices of their own that never log out. At the safety bound those without a slot end first.
func ExamplePolicy_Decide_safetyBound() {
	p, err := policy.New(policy.Rules{PerPlatform: policy.NoLimit, MaxLogins: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	logins := []policy.Login{
		{ID: "phone", Platform: "ios", Admission: 1, Holds: true},
		{ID: "closed window", Platform: "web", Admission: 2},
		{ID: "open window", Platform: "web", Admission: 3, Holds: true},
	}
	d := p.Decide(logins, policy.Newcomer{Platform: "web"}, time.Time{}, nil)
	fmt.Println(d.Verdict, d.Victims[0].Login, d.Victims[0].Reason, d.Victims[0].Rule)

	logins[1].Holds = true // that window is open as well
	e := p.Explain(logins, policy.Newcomer{Platform: "web"}, time.Time{})
	fmt.Println(e.Summary())
	// Output:
	// admit closed window evicted_quota account
	// refused by "account" (limit 3, count 3, 1 would have to end)
}

func ExampleExplanation_Summary() {
	var p policy.Policy // of the zero Rules
	fmt.Println(p.Explain(nil, policy.Newcomer{Platform: "ipad"}, time.Time{}).Summary())
	// Output:
	// refused: platform "ipad" is not known
}

func ExamplePolicy_MayReplace() {
	p, err := policy.New(policy.PresetMinAge(24 * time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Unix(1_700_000_000, 0)
	phone := policy.Login{ID: "phone", Device: "phone", Since: now} // registered this moment
	fmt.Println(p.MayReplace(policy.Newcomer{Device: "stranger"}, phone, now))
	fmt.Println(p.MayReplace(policy.Newcomer{Device: "tablet", Since: now.Add(-48 * time.Hour)}, phone, now))
	// Output:
	// {false min_age 0s}
	// {true  0s}
}
