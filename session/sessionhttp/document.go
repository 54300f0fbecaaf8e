package sessionhttp

import (
	_ "embed"
	"encoding/json"
	"strings"
)

//go:embed openapi.json
var openAPI []byte

// document is the OpenAPI document of a handler: without the routes that it does not serve.
func document(cfg Config) ([]byte, error) {
	if cfg.EaseMob && cfg.EaseMobGET {
		return openAPI, nil
	}
	var doc map[string]json.RawMessage
	var paths map[string]map[string]json.RawMessage
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return nil, err
	}
	for path, methods := range paths {
		switch {
		case !strings.HasPrefix(path, "/users/"):
		case !cfg.EaseMob:
			delete(paths, path)
		case path == "/users/{account}/disconnect":
			delete(methods, "get")
		}
	}
	var err error
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return nil, err
	}
	return json.MarshalIndent(doc, "", "  ")
}
