package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
)

// The JSON form. Fields with their default are left out.
type (
	rulesJSON struct {
		PerPlatform *limitJSON                      `json:"per_platform,omitempty"`
		Platforms   map[event.Platform]platformJSON `json:"platforms,omitempty"`
		Unknown     string                          `json:"unknown,omitempty"`
		Classes     map[string][]event.Platform     `json:"classes,omitempty"`
		Groups      []groupJSON                     `json:"groups,omitempty"`
		Total       *limitJSON                      `json:"total,omitempty"`
		Single      bool                            `json:"single,omitempty"`
		MaxLogins   int                             `json:"max_logins,omitempty"`
		Unanswered  string                          `json:"unanswered,omitempty"`
		AllowForce  bool                            `json:"allow_force,omitempty"`
		Primary     string                          `json:"primary,omitempty"`
		Slots       string                          `json:"slots,omitempty"`
		Reconnect   string                          `json:"reconnect,omitempty"`
		MinAge      string                          `json:"min_age,omitempty"`
	}
	limitJSON struct {
		Limit  int    `json:"limit,omitempty"`
		Action string `json:"action,omitempty"`
	}
	platformJSON struct {
		Limit  *int   `json:"limit,omitempty"` // 0 closes the platform
		Action string `json:"action,omitempty"`
		Tabs   int    `json:"tabs,omitempty"`
	}
	groupJSON struct {
		Name    string   `json:"name"`
		Members []string `json:"members"`
		Limit   int      `json:"limit"`
		Action  string   `json:"action,omitempty"`
	}
)

// name returns the name of a choice, empty for the default.
func name[T interface {
	~uint8
	fmt.Stringer
}](choice T) string {
	if choice == 0 {
		return ""
	}
	return choice.String()
}

// jsonName of an unknown rule: what String returns is for people.
func (u UnknownRule) jsonName() string {
	if u == CountAsOther {
		return "count_as_other"
	}
	return u.String()
}

// MarshalJSON writes the rules in the form that [ParseJSON] reads; fields with their default are left out. Rules that
// [New] refuses are not written; the error joins one [*event.InvalidError] for each fault.
func (r Rules) MarshalJSON() ([]byte, error) {
	full := r.withDefaults()
	if err := errors.Join(full.validate(false)...); err != nil {
		return nil, fmt.Errorf("policy: rules: %w", err)
	}
	doc := rulesJSON{
		PerPlatform: limitOf(r.PerPlatform, r.AtPlatform), Total: limitOf(r.Total, r.AtTotal),
		Classes: r.Classes, Single: r.Single, MaxLogins: r.MaxLogins, Unanswered: name(r.Unanswered),
		AllowForce: r.AllowForce, Primary: name(r.Primary), Slots: name(r.Slots), Reconnect: name(r.Reconnect),
	}
	if r.Unknown != RefuseUnknown {
		doc.Unknown = r.Unknown.jsonName()
	}
	if r.MinAge != 0 {
		doc.MinAge = r.MinAge.String()
	}
	doc.Platforms = make(map[event.Platform]platformJSON)
	for p, limit := range r.Platforms {
		doc.Platforms[p] = platformJSON{Limit: &limit}
	}
	for p, action := range r.Actions {
		own := doc.Platforms[p]
		own.Action = action.String() // in full: it may differ from AtPlatform
		doc.Platforms[p] = own
	}
	for p, tabs := range r.Tabs {
		own := doc.Platforms[p]
		own.Tabs = tabs
		doc.Platforms[p] = own
	}
	for _, g := range r.Groups {
		doc.Groups = append(doc.Groups, groupJSON{Name: g.Name, Members: g.Members, Limit: g.Limit, Action: name(g.Action)})
	}
	return json.Marshal(doc)
}

// limitOf returns nil if both are the default.
func limitOf(limit int, action Action) *limitJSON {
	if limit == 0 && action == 0 {
		return nil
	}
	return &limitJSON{Limit: limit, Action: name(action)}
}

// UnmarshalJSON reads what [ParseJSON] reads, with the same errors. r changes only if there is none.
func (r *Rules) UnmarshalJSON(doc []byte) error {
	got, err := ParseJSON(doc)
	if err != nil {
		return err
	}
	*r = got
	return nil
}

// ParseJSON reads rules from a JSON object of at most [MaxJSON] bytes. All its fields may be left out:
//
//	{
//	  "per_platform": {"limit": 4, "action": "evict_earliest"},
//	  "platforms": {"ios": {"limit": 2, "action": "refuse"}, "tv": {"limit": 1}, "web": {"tabs": 8}},
//	  "unknown": "refuse",
//	  "classes": {"phones": ["android", "ios"]},
//	  "groups": [{"name": "mobile", "members": ["phones", "harmony"], "limit": 2, "action": "evict_least_active"}],
//	  "total": {"limit": 5, "action": "evict_offline_first"},
//	  "single": false,
//	  "max_logins": 64,
//	  "unanswered": "evict_earliest",
//	  "allow_force": false,
//	  "primary": "protected",
//	  "slots": "online",
//	  "reconnect": "evict",
//	  "min_age": "24h"
//	}
//
// Each means what the field of [Rules] with that name means; what a platform's object does not say is the default of all
// platforms. Limits are whole numbers, -1 for none; 0 closes a single platform and is refused
// elsewhere. Choices are the names that their String methods return, but for
// "unknown", which is "refuse" or "count_as_other". A span of time is written as [time.ParseDuration] reads it.
//
// Names are compared as they are. Unknown fields, fields that are there twice, null and anything after the object are
// refused. The error joins one [*event.InvalidError] for every fault of the document, whose Field is the path to it, such
// as `groups[1].limit` or `platforms["ios"].action`; if it is no JSON, there is one with the Field "rules".
func ParseJSON(doc []byte) (Rules, error) {
	root, err := parseTree(doc)
	if err != nil {
		return Rules{}, fmt.Errorf("policy: rules: %w", err)
	}
	var r Rules
	d := &reader{faults{json: true}}
	r.read(d, root)
	// Beyond the shape, values can only be judged together: a group is wrong or right by the platforms there are.
	full := r.withDefaults()
	d.merge(full.validate(true))
	if err := errors.Join(d.errs...); err != nil {
		return Rules{}, fmt.Errorf("policy: rules: %w", err)
	}
	return r, nil
}

// set puts an entry into a map that may be nil.
func set[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[key] = value
}

// read takes the rules from the root of a document.
func (r *Rules) read(d *reader, root *node) {
	d.object("", root, map[string]func(path string, n *node){
		"per_platform": func(path string, n *node) { d.limit(path, n, &r.PerPlatform, &r.AtPlatform) },
		"platforms":    func(path string, n *node) { r.readPlatforms(d, path, n) },
		"unknown": func(path string, n *node) {
			choose(d, path, n, &r.Unknown, CountAsOther, UnknownRule.jsonName)
		},
		"classes": func(path string, n *node) {
			d.entries(path, n, func(path, name string, n *node) {
				var platforms []event.Platform
				d.list(path, n, func(path string, n *node) { platforms = append(platforms, event.Platform(d.text(path, n))) })
				set(&r.Classes, name, platforms)
			})
		},
		"groups": func(path string, n *node) {
			d.list(path, n, func(path string, n *node) { r.Groups = append(r.Groups, d.group(path, n)) })
		},
		"total":       func(path string, n *node) { d.limit(path, n, &r.Total, &r.AtTotal) },
		"single":      func(path string, n *node) { r.Single = d.truth(path, n) },
		"max_logins":  func(path string, n *node) { r.MaxLogins = d.number(path, n) },
		"unanswered":  func(path string, n *node) { choose(d, path, n, &r.Unanswered, AskHost, Action.String) },
		"allow_force": func(path string, n *node) { r.AllowForce = d.truth(path, n) },
		"primary":     func(path string, n *node) { choose(d, path, n, &r.Primary, PrimaryOrdinary, PrimaryRule.String) },
		"slots":       func(path string, n *node) { choose(d, path, n, &r.Slots, SlotEveryLogin, SlotRule.String) },
		"reconnect":   func(path string, n *node) { choose(d, path, n, &r.Reconnect, ReconnectRefused, ReconnectRule.String) },
		"min_age": func(path string, n *node) {
			s, _ := n.token.(string)
			age, err := time.ParseDuration(s)
			if err != nil {
				d.add(path, "want a span of time in a string, such as \"24h\"")
			}
			r.MinAge = age
		},
	})
}

// readPlatforms takes what single platforms have of their own.
func (r *Rules) readPlatforms(d *reader, path string, n *node) {
	d.entries(path, n, func(path, name string, n *node) {
		p := event.Platform(name)
		d.object(path, n, map[string]func(path string, n *node){
			"limit": func(path string, n *node) { set(&r.Platforms, p, d.number(path, n)) },
			"action": func(path string, n *node) {
				var a Action
				choose(d, path, n, &a, AskHost, Action.String)
				set(&r.Actions, p, a)
			},
			"tabs": func(path string, n *node) { set(&r.Tabs, p, d.number(path, n)) },
		})
		if n.isObject() && len(n.members) == 0 {
			d.add(path, "want limit, action or tabs")
		}
	})
}
