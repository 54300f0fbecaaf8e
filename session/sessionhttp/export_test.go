package sessionhttp

// RouteInfo is a route as tests see it.
type RouteInfo struct {
	Method, Pattern string
	Action          Action
	Takes           []string
	HasBody         bool
}

// Routes lists what a handler serves.
func (h *Handler) Routes() []RouteInfo {
	var all []RouteInfo
	for i := range h.routes {
		rt := &h.routes[i]
		all = append(all, RouteInfo{rt.method, rt.pattern(), rt.action, rt.takes, rt.hasBody})
	}
	return all
}
