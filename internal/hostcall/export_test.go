package hostcall

// Hanging returns how many calls hang, and for how many accounts.
func (h *Hook) Hanging() (accounts, all int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.hanging), h.all
}
