package sessionhttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
)

type route struct {
	method, path string
	op           map[string]any
}

func document(t *testing.T) map[string]any {
	t.Helper()
	raw, err := os.ReadFile("openapi.json")
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(raw, &doc))
	return doc
}

// routes returns every path and method of the document.
func routes(t *testing.T) []route {
	t.Helper()
	var all []route
	paths := document(t)["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		ops := paths[path].(map[string]any)
		for _, method := range slices.Sorted(maps.Keys(ops)) {
			all = append(all, route{strings.ToUpper(method), path, ops[method].(map[string]any)})
		}
	}
	return all
}

// TestB18_OpenAPI asks every operation of the document and compares the answers with its schemas.
func TestB18_OpenAPI(t *testing.T) {
	doc := document(t)
	require.Equal(t, "3.1.0", doc["openapi"])
	bodies := map[string]string{"kick": `{"all":true}`, "ban": `{"note":"spam"}`, "deleteAccount": `{}`}
	ids := map[string]bool{}
	for _, r := range routes(t) {
		id := r.op["operationId"].(string)
		require.False(t, ids[id], "operation IDs are unique")
		ids[id] = true
		t.Run(id, func(t *testing.T) {
			d := newDesk(t, session.Config{})
			login := d.login("ann", "d1", "ios")
			if id == "getBan" {
				_, err := d.reg.Ban(context.Background(), session.BanRequest{Account: "ann", Until: time.Now().Add(time.Hour)})
				require.NoError(t, err)
			}
			path := strings.NewReplacer("{account}", "ann", "{login}", string(login), "{device}", "d1", "{resource}", string(login)).Replace(r.path)
			_, takes := r.op["requestBody"]
			require.Equal(t, takes, bodies[id] != "", "a sample of the body")
			good := d.ask(r.method, path, bodies[id])
			require.Less(t, good.StatusCode, 300, "%s", good.body)
			declared(t, doc, r, good)
			if id == "openapi" {
				return
			}
			wrong := strings.NewReplacer("{account}", "%00", "{login}", string(login), "{device}", "d1", "{resource}", string(login)).Replace(r.path)
			for name, a := range map[string]answer{
				"invalid":   d.ask(r.method, wrong, bodies[id]),
				"nobody":    d.ask(r.method, path, bodies[id], "Who", ""),
				"forbidden": d.ask(r.method, path, bodies[id], "Who", "user:bea"),
				"broken":    d.ask(r.method, path, bodies[id], "Who", "broken"),
				"again":     d.ask(r.method, path, bodies[id]),
				"ended":     d.ask(r.method, path, bodies[id], "Who", "lax user", "Self", string(login)),
				"parameter": d.ask(r.method, path+"?x=y", bodies[id]),
			} {
				t.Run(name, func(t *testing.T) { declared(t, doc, r, a) })
			}
			if takes {
				declared(t, doc, r, d.ask(r.method, path, "x", "Content-Type", "text/plain"))
				declared(t, doc, r, d.ask(r.method, path, strings.Repeat(" ", 65<<10)))
			}
			d.st.Break()
			declared(t, doc, r, d.ask(r.method, path, bodies[id]))
			for _, p := range parameters(r.op) {
				if after, ok := strings.CutPrefix(p, "path "); ok {
					require.Contains(t, r.path, "{"+after+"}")
				}
			}
			require.Len(t, pathParams.FindAllString(r.path, -1), countPath(r.op), "every parameter of the path is described")
		})
	}
}

var pathParams = regexp.MustCompile(`\{[a-z]+\}`)

func parameters(op map[string]any) []string {
	var all []string
	list, _ := op["parameters"].([]any)
	for _, p := range list {
		m := p.(map[string]any)
		all = append(all, m["in"].(string)+" "+m["name"].(string))
	}
	return all
}

func countPath(op map[string]any) int {
	n := 0
	for _, p := range parameters(op) {
		if strings.HasPrefix(p, "path ") {
			n++
		}
	}
	return n
}

// declared requires that the document describes an answer, and that its body is as described.
func declared(t *testing.T, doc map[string]any, r route, a answer) {
	t.Helper()
	res, ok := r.op["responses"].(map[string]any)[fmt.Sprint(a.StatusCode)].(map[string]any)
	require.True(t, ok, "%s %s answers %d: %s", r.method, r.path, a.StatusCode, a.body)
	content, _ := res["content"].(map[string]any)
	if content == nil {
		require.Empty(t, a.body)
		return
	}
	media, ok := content[a.Header.Get("Content-Type")].(map[string]any)
	require.True(t, ok, "media type %q", a.Header.Get("Content-Type"))
	var body any
	require.NoError(t, json.Unmarshal(a.body, &body))
	require.NoError(t, matches(doc, media["schema"].(map[string]any), body, "body"))
}

// matches checks a value against the part of JSON Schema that the document uses. A keyword that it does not know is an
// error, so that none is silently not checked.
func matches(doc, schema map[string]any, v any, at string) error {
	if want, ok := schema["type"].(string); ok { // the other keywords rely on it
		if err := isType(want, v, at); err != nil {
			return err
		}
	}
	for key, want := range schema {
		var err error
		switch key {
		case "$ref":
			name := strings.TrimPrefix(want.(string), "#/components/schemas/")
			err = matches(doc, doc["components"].(map[string]any)["schemas"].(map[string]any)[name].(map[string]any), v, at)
		case "type": // checked before
		case "enum":
			if !slices.Contains(want.([]any), v) {
				err = fmt.Errorf("%s: %v is none of %v", at, v, want)
			}
		case "required":
			for _, f := range want.([]any) {
				if _, ok := v.(map[string]any)[f.(string)]; !ok {
					err = fmt.Errorf("%s: %s is missing", at, f)
				}
			}
		case "properties":
			for name, field := range v.(map[string]any) {
				s, ok := want.(map[string]any)[name].(map[string]any)
				if !ok {
					return fmt.Errorf("%s: %s is not described", at, name)
				}
				if err := matches(doc, s, field, at+"."+name); err != nil {
					return err
				}
			}
		case "items":
			for i, e := range v.([]any) {
				if err := matches(doc, want.(map[string]any), e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		case "format":
			_, err = time.Parse(time.RFC3339Nano, v.(string))
		case "additionalProperties", "contentEncoding", "description": // checked by properties; words for readers
		default:
			err = fmt.Errorf("%s: keyword %s is not known to this test", at, key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isType(want string, v any, at string) error {
	ok := false
	switch v := v.(type) {
	case string:
		ok = want == "string"
	case bool:
		ok = want == "boolean"
	case float64:
		ok = want == "number" || want == "integer" && v == float64(int64(v))
	case []any:
		ok = want == "array"
	case map[string]any:
		ok = want == "object"
	}
	if !ok {
		return fmt.Errorf("%s: %v is no %s", at, v, want)
	}
	return nil
}

// Every route of the handler is in the document, with what it takes and nothing else.
func TestB18_OpenAPIHasAllRoutesAndInputs(t *testing.T) {
	d := newDesk(t, session.Config{})
	have, described := map[string][]string{}, map[string][]string{}
	for _, r := range d.h.Routes() {
		have[r.Method+" "+r.Pattern] = append([]string{}, slices.Sorted(slices.Values(r.Takes))...)
	}
	schemas := document(t)["components"].(map[string]any)["schemas"].(map[string]any)
	for _, r := range routes(t) {
		takes := []string{}
		for _, p := range parameters(r.op) {
			if name, ok := strings.CutPrefix(p, "query "); ok {
				takes = append(takes, name)
			}
		}
		if body, ok := r.op["requestBody"].(map[string]any); ok {
			ref := body["content"].(map[string]any)["application/json"].(map[string]any)["schema"].(map[string]any)["$ref"].(string)
			schema := schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any)
			takes = slices.AppendSeq(takes, maps.Keys(schema["properties"].(map[string]any)))
		}
		slices.Sort(takes)
		described[r.method+" "+r.path] = takes
	}
	require.Equal(t, have, described)

	a := d.ask("GET", "/openapi.json", "", "Who", "")
	require.Equal(t, 200, a.StatusCode)
	raw, err := os.ReadFile("openapi.json")
	require.NoError(t, err)
	require.JSONEq(t, string(raw), string(a.body))
}

// The document names where its routes are, wherever the handler is mounted.
func TestOpenAPI_NamesItsServer(t *testing.T) {
	d := newDesk(t, session.Config{})
	for name, tt := range map[string]struct {
		prefix string
		mount  func(h http.Handler) http.Handler
		path   string
		want   string
	}{
		"at the root":           {"", func(h http.Handler) http.Handler { return h }, "/openapi.json", "/"},
		"stripped":              {"", func(h http.Handler) http.Handler { return http.StripPrefix("/a/b", h) }, "/a/b/openapi.json", "/a/b"},
		"prefix":                {"/a%20b", func(h http.Handler) http.Handler { return h }, "/a%20b/openapi.json", "/a%20b"},
		"prefix, stripped":      {"/a", func(h http.Handler) http.Handler { return http.StripPrefix("/a", h) }, "/a/openapi.json", "/a"},
		"stripped by a gateway": {"/a", func(h http.Handler) http.Handler { return h }, "/openapi.json", "/a"},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.serve(sessionhttp.Config{Prefix: tt.prefix})
			w := httptest.NewRecorder()
			tt.mount(d.h).ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
			require.Equal(t, 200, w.Code)
			var doc struct{ Servers []struct{ URL string } }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
			require.Len(t, doc.Servers, 1)
			require.Equal(t, tt.want, doc.Servers[0].URL)
		})
	}
}

// A handler describes just the routes that it serves.
func TestB18_OpenAPIOfEachConfig(t *testing.T) {
	d := newDesk(t, session.Config{})
	for _, cfg := range []sessionhttp.Config{{}, {EaseMob: &sessionhttp.EaseMob{}}, {EaseMob: &sessionhttp.EaseMob{GET: true}}} {
		h, err := sessionhttp.New(d.reg, authorize, cfg)
		require.NoError(t, err)
		d.h = h
		var doc struct {
			OpenAPI    string
			Paths      map[string]map[string]any
			Components map[string]any
		}
		d.ask("GET", "/openapi.json", "").into(t, 200, &doc)
		require.Equal(t, "3.1.0", doc.OpenAPI)
		require.NotEmpty(t, doc.Components)
		for _, r := range routes(t) {
			path := strings.NewReplacer("{account}", "ann", "{login}", string(event.NewLoginID()), "{device}", "d1", "{resource}", "x").Replace(r.path)
			status := d.ask(r.method, path, "", "Who", "").StatusCode
			_, described := doc.Paths[r.path][strings.ToLower(r.method)]
			require.Equal(t, status != 404 && status != 405, described, "%+v: %s %s answers %d", cfg, r.method, r.path, status)
		}
	}
}

// The test above would be of no use if the small validator took everything.
func TestSchemaCheckHasTeeth(t *testing.T) {
	doc := document(t)
	for name, body := range map[string]string{
		"missing":   `{"state":"online"}`,
		"extra":     `{"state":"online","logins":[],"more":1}`,
		"enum":      `{"state":"somewhere","logins":[]}`,
		"type":      `{"state":"online","logins":{}}`,
		"in a list": `{"state":"online","logins":[{}]}`,
	} {
		var v any
		require.NoError(t, json.Unmarshal([]byte(body), &v))
		require.Error(t, matches(doc, map[string]any{"$ref": "#/components/schemas/Presence"}, v, "body"), name)
	}
	require.Error(t, matches(doc, map[string]any{"oneOf": nil}, nil, "body"))
	require.NoError(t, event.Account("ann").Validate())
}
