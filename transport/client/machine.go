package client

import (
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
)

// ViolationError reports that the engine broke a rule of the protocol. The frame had no effect. The connection is of no
// use any more: drop it and attach again.
type ViolationError struct {
	Frame  string // its name in the reference encoding, such as "data"; empty for nil
	Reason string // which rule
}

func (e *ViolationError) Error() string { return "client: " + e.Frame + ": " + e.Reason }

// Step is what a frame means for the app. Slices and pointers are the app's; entries are shared and read-only.
type Step struct {
	// Apply are new entries in order, each exactly once between two Resets.
	Apply []*event.Sealed
	// Redelivered: Apply may hold entries that were sent to this device before, though not applied by it.
	Redelivered bool
	// States are registers whose content changed, with what they hold now.
	States []event.State
	// StatesDropped: all registers were dropped before States; see the package comment on Reset.
	StatesDropped bool
	// Reset, if set, says that entries will not come. Nothing is applied in this step.
	Reset *event.Reset
	// CaughtUp: everything that there was when the connection began has come.
	CaughtUp bool
	// Live is a live-only event: nothing to save.
	Live *event.Sealed
	// Pong is the answer to a Ping.
	Pong *event.Pong
	// Closed, if set, is the end of the connection. Closed.Retry says what to do next.
	Closed *event.Closed
	// Reattach: frames were lost, or the position is of another epoch. Drop the connection and attach again. Every step
	// says so until then.
	Reattach bool
	// Save: the state changed. Save it, together with Apply, before calling Replies.
	Save bool
}

// phase is how far a connection has come.
type phase uint8

const (
	detached  phase = iota // no connection
	attaching              // nothing came yet
	stating                // State frames may come
	flowing                // Data came
	broken                 // frames are missing
	failed                 // the engine broke a rule
	ended                  // closed
)

// Machine is the device's side of the protocol. It is not safe for concurrent use.
type Machine struct {
	cfg       Config
	login     event.LoginID
	token     event.ResumeToken
	known     bool // pos is known
	pos       event.Position
	held      *held
	registers registers
	// partial: the position is new, by the first Welcome or by a Reset, and the State frames that go with it have not all
	// come. What is saved and attached with is still claim, since registers would be missing for ever otherwise.
	partial bool
	claim   *event.Position
	dropped bool // the next Welcome has to say that registers were dropped

	// Of the connection, never saved.
	phase    phase
	fault    *ViolationError // why it failed
	acked    event.Position  // what the engine knows to be saved
	reset    bool            // a Reset waits for its answer
	confirm  bool            // a token waits for its confirmation
	pages    bool            // another State frame must follow
	caughtUp bool
	nacks    []*event.Nack
}

// New returns a machine that goes on from a saved state. It keeps no reference to st.
func New(st State, cfg Config) *Machine {
	m := &Machine{cfg: cfg, login: st.Login, token: st.Token, registers: make(registers, len(st.Registers))}
	if cfg.Holds == nil {
		m.held = newHeld(cfg.Keep, st.Held)
	}
	if st.Position != nil {
		m.pos, m.known = *st.Position, true
	}
	for _, s := range st.Registers {
		m.registers.set(s)
	}
	return m
}

// LoggedIn records the result of a login: its ID and its token. The position stays, since it is the device's.
func (m *Machine) LoggedIn(login event.LoginID, token event.ResumeToken) {
	m.login, m.token = login, token
}

// Login returns the login to attach with, or "" if there is none.
func (m *Machine) Login() event.LoginID { return m.login }

// Token returns the latest token, or "" if there is none.
func (m *Machine) Token() event.ResumeToken { return m.token }

// Position returns the place that the connection has come to, or false if it is not known yet.
func (m *Machine) Position() (event.Position, bool) { return m.pos, m.known }

// Attach begins a new connection, whatever became of the one before, and returns the position for the attach request; nil
// means that the request goes without one. Call it after the state is saved: the engine takes the position as an
// acknowledgement.
func (m *Machine) Attach() *event.Position {
	if m.partial {
		m.known = m.claim != nil
		if m.known {
			m.pos = *m.claim
		}
		m.partial, m.claim = false, nil
	}
	m.phase, m.fault, m.acked = attaching, nil, m.pos
	m.reset, m.confirm, m.pages, m.caughtUp, m.nacks = false, false, false, false, nil
	if !m.known { // registers of a place that was never saved: the engine sends all there are
		m.dropped = m.dropped || len(m.registers) > 0
		clear(m.registers)
		return nil
	}
	p := m.pos
	return &p
}

// Replies returns what to send to the engine now, and takes it as sent. Everything that came before must be saved first.
// On a connection that is over there is nothing to send.
func (m *Machine) Replies() []event.ClientFrame {
	if m.phase != stating && m.phase != flowing {
		return nil
	}
	var out []event.ClientFrame
	if m.confirm {
		out = append(out, &event.TokenStored{})
	}
	if m.reset {
		out = append(out, &event.ResetAck{Position: m.pos})
	}
	for _, n := range m.nacks {
		out = append(out, n)
	}
	nacked := len(m.nacks) > 0 && m.nacks[len(m.nacks)-1].Position == m.pos
	if m.acked != m.pos && !m.reset && !nacked {
		out = append(out, &event.Ack{Position: m.pos})
	}
	m.acked, m.reset, m.confirm, m.nacks = m.pos, false, false, nil
	return out
}

// Nack makes the next Replies say that the app cannot process the entry with that number; it counts as acknowledged. It
// reports false, and does nothing, unless the number is among those that the next Replies acknowledge, and above that of
// an earlier Nack. Of the code the first 128 characters count.
func (m *Machine) Nack(seq uint64, code string) bool {
	after := m.acked.Seq
	if n := len(m.nacks); n > 0 {
		after = m.nacks[n-1].Position.Seq
	}
	if m.phase != flowing || m.reset || seq <= after || seq > m.pos.Seq {
		return false
	}
	if r := []rune(code); len(r) > 128 {
		code = string(r[:128])
	}
	m.nacks = append(m.nacks, &event.Nack{Position: event.Position{Epoch: m.pos.Epoch, Seq: seq}, Code: code})
	return true
}

// Registers returns the conversation state in order of conversation and name. The slice is the caller's.
func (m *Machine) Registers() []event.State { return m.registers.sorted() }

// Register returns one register, or false if it was never set.
func (m *Machine) Register(conversation event.ConversationID, name string) (event.State, bool) {
	s, ok := m.registers[registerKey{conversation, name}]
	return clone(s), ok
}

// Digest returns the digest of the registers; see the function [Digest].
func (m *Machine) Digest() [32]byte { return Digest(m.registers.sorted()) }

// Snapshot returns what to save. It shares nothing with the machine.
func (m *Machine) Snapshot() State {
	st := State{Login: m.login, Token: m.token, Registers: m.registers.sorted()}
	if m.held != nil {
		st.Held = m.held.list()
	}
	switch {
	case m.partial && m.claim != nil:
		p := *m.claim
		st.Position = &p
	case m.known && !m.partial:
		p := m.pos
		st.Position = &p
	}
	return st
}

// Record merges registers that the app learned of in another way than by frames, and returns those whose content changed.
// An app calls it with the result of an operation of its own, such as a read mark, because the engine does not send an
// operation back to the login that did it. Save the operation before it is asked for, and repeat it until its result is
// recorded and saved: what gets lost in between does not come again.
func (m *Machine) Record(states ...event.State) []event.State {
	var step Step
	m.setStates(&step, states)
	return step.States
}

// holds reports whether the message was applied, before or in the step at hand.
func (m *Machine) holds(id event.MessageID, now []*event.Sealed) bool {
	if id == "" {
		return false
	}
	if m.held != nil && m.held.limit > 0 {
		return m.held.has(id)
	}
	return slices.ContainsFunc(now, func(e *event.Sealed) bool { return e.ID == id }) ||
		m.cfg.Holds != nil && m.cfg.Holds(id)
}

func (m *Machine) hold(id event.MessageID) {
	if m.held != nil {
		m.held.add(id)
	}
}

// setStates merges registers and adds what changed to the step.
func (m *Machine) setStates(step *Step, states []event.State) {
	for _, s := range states {
		if !m.registers.set(s) {
			continue
		}
		step.States = slices.DeleteFunc(step.States, func(old event.State) bool {
			return old.Conversation == s.Conversation && old.Name == s.Name
		})
		step.States = append(step.States, clone(s))
	}
}

func violation(f event.Frame, format string, args ...any) *ViolationError {
	return &ViolationError{Frame: event.FrameName(f), Reason: fmt.Sprintf(format, args...)}
}
