package sessionhttp_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// K12.2: a parameter that a route does not take, one that is there twice or cannot be read, is never one that is absent.
func TestQueries_AreReadAsAWholeOrNotAtAll(t *testing.T) {
	some := []string{"at the root", "behind a router that redirects decoded paths for good"} // the others do not look at them
	forEach(t, slices.Values(some), func(a *arena, follow bool) {
		for _, rt := range a.h.Routes() {
			target := a.fill(rt.Pattern, "", "")
			send := func(query string) int {
				return a.check(request{rt.Method, target + "?" + query, goodBodies[rt.Pattern], "application/json"}, follow, "ann", true)
			}
			for _, bad := range []string{
				"x", "x=y", "refuse=true;note=y", "note=a;b", "Note=x", "NOTE=x", "note=x&note=x", "note=%zz", "note=x&x=y", "=x", "limit=1&limit=2",
				"all=true", "%6eote=x&note=y", "note%00=x", "account=bob", "note[]=x",
			} {
				require.Equal(a.t, 400, send(bad), "%s %s?%s", rt.Method, target, bad)
			}
			for _, name := range []string{"note", "limit", "after"} {
				for _, nasty := range nasties {
					status := send(name + "=" + url.QueryEscape(nasty))
					if rt.HasBody || !slices.Contains(rt.Takes, name) || name != "note" || !utf8.ValidString(nasty) { // notes are cleaned
						require.Equal(a.t, 400, status, "%s %s %s=%q", rt.Method, target, name, nasty)
					}
					send(name + "=" + nasty)
				}
			}
		}
	})
}

// K12.3: a body is one object whose members are known, as they are written, and there once.
func TestBodies_AreReadAsAWholeOrNotAtAll(t *testing.T) {
	a := newArena(t, "at the root")
	for _, rt := range a.h.Routes() {
		target := a.fill(rt.Pattern, "", "")
		send := func(body, media string) int {
			return a.check(request{rt.Method, target, body, media}, false, "ann", true)
		}
		if !rt.HasBody {
			for _, body := range []string{`{}`, `null`, ` `, `{"all":true}`} {
				require.Equal(t, 400, send(body, "application/json"), "%s %s takes no body", rt.Method, target)
			}
			continue
		}
		good := goodBodies[rt.Pattern]
		for _, bad := range []string{
			`null`, `[]`, `"x"`, `true`, `1`, `{`, `{}{}`, `{},`, `{"x":1}`, `[` + good + `]`, good + good, good + `x`, "\ufeff" + good, strings.ToUpper(good),
			strings.Replace(good, `{`, `{"note":"a","note":"b",`, 1), strings.Replace(good, `{`, `{"Note":"a",`, 1),
			strings.Replace(good, `{`, `{"x":{"note":"a"},`, 1), strings.Replace(good, `{`, `{"note":null,`, 1), good[:len(good)-1], good[:len(good)-1] + ",}",
			"{'note':'x'}", "{\"note\":\"\xff\"}", `{"note":"\ud800"}`, `{"":""}`,
		} {
			require.Equal(t, 400, send(bad, "application/json"), "%s %s", rt.Pattern, bad)
		}
		for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/problem+json"} {
			require.Equal(t, 415, send(good, media), media)
		}
		for _, member := range rt.Takes {
			for _, nasty := range nasties {
				text, err := json.Marshal(nasty)
				require.NoError(t, err)
				for _, value := range []string{string(text), "[" + string(text) + "]", `"` + nasty + `"`} {
					if member == "note" && json.Unmarshal([]byte(value), new(string)) == nil {
						continue // a note like any other: it is cleaned
					}
					send(fmt.Sprintf(`{%q:%s}`, member, value), "application/json")
				}
			}
		}
		require.Equal(t, 2, send(good, "application/json; charset=utf-8")/100)
	}
}
