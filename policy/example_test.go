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
	// platform: 0 with a slot on the platform, 1 with the newcomer, limit 4; nothing to do
	// account: 0 in the account, 1 with the newcomer, limit 64; nothing to do
}
