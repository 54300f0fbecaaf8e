package policy

import (
	"time"

	"github.com/manydevice/manydevice/event"
)

// Preset is a set of rules under a name. docs/policy.md says what others call it.
type Preset struct {
	Name    string // stable
	Summary string // what it does, for people
	Rules   Rules  // the caller's own, to change as it likes
}

// Presets returns every preset, in a fixed order, those with a parameter with the usual one.
func Presets() []Preset {
	return []Preset{
		{"single", "one login; a new one ends it", PresetSingle()},
		{"one_per_platform", "one login on each platform", PresetPerPlatform(1)},
		{"per_platform", "4 logins on each platform; the earliest makes room", PresetPerPlatform(4)},
		{"desktop_mobile", "one of desktop and web, one mobile", PresetDesktopMobile()},
		{"mobile_desktop_web", "one mobile, one desktop, one web", PresetMobileDesktopWeb()},
		{"one_and_web", "one of all but web, and one web", PresetOneAndWeb()},
		{"web_unlimited", "one mobile, one desktop, any number of web", PresetWebUnlimited()},
		{"total", "10 logins over all platforms; the earliest makes room", PresetTotal(10)},
		{"refuse", "6 devices over all platforms, online or not; more are refused", PresetRefuse(6)},
		{"companions", "a primary device and 4 companions, online or not; more are refused", PresetCompanions(4)},
		{"min_age", "any number; a new device ends no older login for 24 h", PresetMinAge(24 * time.Hour)},
		{"matrix", "one per platform; phones exclude each other, and so do Windows and macOS", PresetMatrix()},
	}
}

// PresetSingle allows one login in all; a new one ends it.
func PresetSingle() Rules { return Rules{Single: true} }

// PresetPerPlatform allows n logins on each platform; the earliest of the platform makes room. n is 1 or more, or
// [NoLimit]. [New] refuses the rules of any other number.
func PresetPerPlatform(n int) Rules { return Rules{PerPlatform: given(n)} }

// PresetDesktopMobile allows one login on the desktop systems and web together, and one on the mobile systems.
func PresetDesktopMobile() Rules {
	return Rules{Classes: classes(), Groups: []Group{
		{Name: "mobile", Members: []string{"mobile"}, Limit: 1},
		{Name: "desktop", Members: []string{"desktop", "web"}, Limit: 1},
	}}
}

// PresetMobileDesktopWeb allows one login on the mobile systems, one on the desktop systems and one on web.
func PresetMobileDesktopWeb() Rules {
	r := PresetWebUnlimited()
	r.Platforms["web"] = 1
	return r
}

// PresetOneAndWeb allows one login on all built-in platforms but web, and one on web.
func PresetOneAndWeb() Rules {
	return Rules{
		Platforms: map[event.Platform]int{"web": 1}, Classes: classes(),
		Groups: []Group{{Name: "native", Members: []string{"mobile", "desktop"}, Limit: 1}},
	}
}

// PresetWebUnlimited allows one login on the mobile systems, one on the desktop systems and any number on web, up to
// MaxLogins in all.
func PresetWebUnlimited() Rules {
	return Rules{
		Platforms: map[event.Platform]int{"web": NoLimit}, Classes: classes(),
		Groups: []Group{
			{Name: "mobile", Members: []string{"mobile"}, Limit: 1},
			{Name: "desktop", Members: []string{"desktop"}, Limit: 1},
		},
	}
}

// PresetTotal allows n logins over all platforms; the earliest makes room. n is 1 or more, or [NoLimit]. [New] refuses the
// rules of any other number.
func PresetTotal(n int) Rules { return Rules{PerPlatform: NoLimit, Total: given(n)} }

// PresetRefuse allows n devices over all platforms, which keep their place while they are offline. One more is refused
// until a login ends, and the primary device is protected. n is as for [PresetTotal].
func PresetRefuse(n int) Rules {
	return Rules{PerPlatform: NoLimit, Total: given(n), AtTotal: RefuseNew, Slots: SlotEveryLogin}
}

// PresetCompanions allows n devices beside the primary one, which keep their place while they are offline. One more is
// refused until a login ends; the primary device is protected and does not count. n is as for [PresetTotal].
func PresetCompanions(n int) Rules {
	r := PresetRefuse(n)
	r.Primary = PrimaryFree
	return r
}

// PresetMinAge allows any number of logins up to MaxLogins, but a device that the account has known for less than the
// given age ends no login that is older than that.
func PresetMinAge(age time.Duration) Rules { return Rules{PerPlatform: NoLimit, MinAge: age} }

// PresetMatrix is an example of platforms that exclude each other in pairs, whatever the pairs: a group of two with one
// place for each. Here android excludes ios, and windows excludes macos.
func PresetMatrix() Rules {
	return Rules{PerPlatform: 1, Groups: []Group{
		{Name: "android-ios", Members: []string{"android", "ios"}, Limit: 1},
		{Name: "windows-macos", Members: []string{"windows", "macos"}, Limit: 1},
	}}
}

// given returns n. Zero, which would mean a default or no limit at all, becomes a number that [New] refuses.
func given(n int) int {
	if n == 0 {
		return NoLimit - 1
	}
	return n
}

// classes of the built-in platforms.
func classes() map[string][]event.Platform {
	return map[string][]event.Platform{
		"mobile":  {"android", "ios", "harmony"},
		"desktop": {"windows", "macos", "linux"},
	}
}
