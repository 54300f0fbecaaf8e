package client

import (
	"slices"

	"github.com/manydevice/manydevice/event"
)

// Receive takes the next frame of the connection and says what it means for the app. It keeps entries, and nothing else
// of the frame. The error is a [*ViolationError]; the frame then had no effect, and every later one fails alike until
// Attach.
func (m *Machine) Receive(f event.Frame) (Step, error) {
	if m.phase == failed {
		return Step{}, m.fault
	}
	fault := m.check(f)
	var step Step
	if fault == nil {
		step, fault = m.dispatch(f)
	}
	if fault != nil {
		m.phase, m.fault = failed, fault
		return Step{}, fault
	}
	step.Reattach = m.phase == broken
	return step, nil
}

// check applies the rules on what may follow what.
func (m *Machine) check(f event.Frame) *ViolationError {
	if event.FrameName(f) == "" {
		return violation(f, "nothing there")
	}
	switch m.phase {
	case detached:
		return violation(f, "no connection was begun")
	case ended:
		return violation(f, "after Closed")
	case attaching:
		switch f.(type) {
		case *event.Welcome, *event.Closed:
			return nil
		}
		return violation(f, "before Welcome")
	case broken:
		return nil
	}
	switch f.(type) {
	case *event.Welcome:
		return violation(f, "a second one on the connection")
	case *event.Data, *event.CaughtUp:
		if m.reset {
			return violation(f, "between Reset and its answer")
		}
		if m.pages {
			return violation(f, "another StatePage was announced")
		}
	case *event.StatePage:
		if m.phase == flowing {
			return violation(f, "after the first Data")
		}
	}
	return nil
}

func (m *Machine) dispatch(f event.Frame) (Step, *ViolationError) {
	switch f := f.(type) {
	case *event.Live:
		return Step{Live: f.Event}, nil
	case *event.Pong:
		return Step{Pong: &event.Pong{Nonce: f.Nonce}}, nil
	case *event.Closed:
		return m.closed(f), nil
	}
	if m.phase == broken {
		return Step{}, nil // what comes after a gap is of no use
	}
	switch f := f.(type) {
	case *event.Welcome:
		return m.welcome(f), nil
	case *event.Data:
		return m.data(f)
	case *event.StatePage:
		return m.statePage(f)
	case *event.CaughtUp:
		return m.caught(f)
	case *event.Reset:
		return m.restart(f)
	}
	return Step{}, violation(f, "unknown frame")
}

func (m *Machine) closed(f *event.Closed) Step {
	c := *f
	if f.Cause != nil {
		cause := *f.Cause
		c.Cause = &cause
	}
	if m.phase != broken {
		m.phase = ended
	}
	return Step{Closed: &c}
}

func (m *Machine) welcome(f *event.Welcome) Step {
	m.phase = stating
	step := Step{Save: f.Token != "" || f.Login != m.login}
	m.login = f.Login
	if f.Token != "" {
		m.token, m.confirm = f.Token, true
	}
	if !m.known {
		m.pos, m.known, m.acked = f.Position, true, f.Position
		m.partial = true
		if step.StatesDropped = m.dropped; m.dropped {
			step.States, m.dropped = m.registers.sorted(), false // what was recorded since the connection began
		}
	}
	return step
}

func (m *Machine) data(f *event.Data) (Step, *ViolationError) {
	if f.Seq < f.Prev {
		return Step{}, violation(f, "position goes back from %d to %d", f.Prev, f.Seq)
	}
	last := f.Prev
	for _, e := range f.Entries {
		if e == nil || e.Seq <= last || e.Seq > f.Seq {
			return Step{}, violation(f, "an entry is out of order or not in (%d, %d]", f.Prev, f.Seq)
		}
		last = e.Seq
	}
	if f.Epoch != m.pos.Epoch || f.Prev > m.pos.Seq {
		m.phase = broken
		return Step{}, nil
	}
	whole := m.flow()
	if f.Seq <= m.pos.Seq {
		return Step{Save: whole}, nil // came before
	}
	step := Step{Redelivered: f.Redelivered, Save: true}
	for _, e := range f.Entries {
		if e.Seq <= m.pos.Seq {
			continue
		}
		m.setStates(&step, m.stated(&e.Entry))
		if !m.holds(e.ID, step.Apply) {
			m.hold(e.ID)
			step.Apply = append(step.Apply, e)
		}
	}
	m.pos.Seq = f.Seq
	return step, nil
}

func (m *Machine) statePage(f *event.StatePage) (Step, *ViolationError) {
	if slices.ContainsFunc(f.States, func(s event.State) bool { return s.Internal() }) {
		return Step{}, violation(f, "an internal register")
	}
	if f.Epoch != m.pos.Epoch {
		m.phase = broken
		return Step{}, nil
	}
	m.pages = f.More
	var step Step
	m.setStates(&step, f.States)
	step.Save = len(step.States) > 0
	return step, nil
}

func (m *Machine) caught(f *event.CaughtUp) (Step, *ViolationError) {
	if m.caughtUp {
		return Step{}, violation(f, "a second one on the connection")
	}
	if f.Position.Epoch != m.pos.Epoch || f.Position.Seq > m.pos.Seq {
		m.phase = broken
		return Step{}, nil
	}
	if f.Position.Seq < m.pos.Seq {
		return Step{}, violation(f, "position goes back from %d to %d", m.pos.Seq, f.Position.Seq)
	}
	m.caughtUp = true
	return Step{CaughtUp: true, Save: m.flow()}, nil
}

// flow notes that all State frames have come, and reports whether the position is to be saved for that.
func (m *Machine) flow() bool {
	whole := m.partial
	m.phase, m.partial, m.claim = flowing, false, nil
	return whole
}

// restart handles a Reset.
func (m *Machine) restart(f *event.Reset) (Step, *ViolationError) {
	step := Step{Save: true}
	if f.Reason == event.ResetTrimmed {
		if f.To.Epoch != m.pos.Epoch || f.To.Seq < m.pos.Seq {
			return Step{}, violation(f, "trimmed, yet the position goes back or the epoch changes")
		}
	} else {
		clear(m.registers)
		step.StatesDropped = true
	}
	if !m.partial {
		p := m.pos
		m.partial, m.claim = true, &p
	}
	if f.Reason == event.ResetAhead {
		m.claim = nil // the inbox may have reached that number, with other entries, when the client claims it again
	}
	r := *f
	step.Reset = &r
	m.pos, m.reset, m.pages, m.nacks, m.phase = f.To, true, false, nil, stating
	return step, nil
}
