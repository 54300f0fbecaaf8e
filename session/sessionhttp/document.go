package sessionhttp

import (
	_ "embed"
	"encoding/json"
	"maps"
	"net/url"
	"strings"
)

//go:embed openapi.json
var openAPI []byte

// document is the OpenAPI document of a handler: without the routes that it does not serve.
func (h *Handler) document() (map[string]json.RawMessage, error) {
	var doc map[string]json.RawMessage
	var paths map[string]map[string]json.RawMessage
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return nil, err
	}
	served := make(map[string]map[string]json.RawMessage)
	for i := range h.routes {
		rt := &h.routes[i]
		if served[rt.pattern()] == nil {
			served[rt.pattern()] = make(map[string]json.RawMessage)
		}
		method := strings.ToLower(rt.method)
		served[rt.pattern()][method] = paths[rt.pattern()][method]
	}
	var err error
	doc["paths"], err = json.Marshal(served)
	return doc, err
}

// openapi returns the document, with the address below which the request has found it.
func (h *Handler) openapi(c *call) (any, error) {
	server := h.cfg.Prefix
	if server == "" {
		server, _ = strings.CutSuffix(c.requestPath(), "/openapi.json")
	}
	if server == "" {
		server = "/" // what the specification has as the default
	}
	doc := maps.Clone(h.doc)
	var err error
	doc["servers"], err = json.Marshal([]map[string]string{{"url": server}})
	return doc, err
}

// requestPath returns the path of the request as it came, before anything was stripped from it.
func (c *call) requestPath() string {
	if u, err := url.ParseRequestURI(c.RequestURI); err == nil {
		return u.EscapedPath()
	}
	return c.h.cfg.Prefix + c.URL.EscapedPath()
}
