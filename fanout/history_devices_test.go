package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport/transporttest"
)

func (h *history) out(m *member) {
	h.note("  %s/%s is out", m.account, m.id)
	m.in = false
}

// login admits a device.
func (h *history) login(m *member) {
	var res *session.LoginResult
	err := h.must(func() (err error) {
		res, err = h.w.reg.Login(h.w.t.Context(), session.LoginRequest{Account: m.account, Device: m.id, Platform: m.platform})
		return err
	})
	require.NoError(h.w.t, err)
	m.inc = res.Session.Incarnation
	if !slices.Contains(m.incs, m.inc) {
		m.incs = append(m.incs, m.inc)
	}
	m.LoggedIn(res.Session.Login, res.Token)
	// One that has entries of a former life of the account has ordinals that mean nothing in this one, and one that begins
	// where trimming ended has not seen all that is counted.
	begins := res.Session.Admission == 1 && len(m.Entries()) == 0 && h.w.head(m.account).Trim == 0
	m.in, m.first = true, begins || m.first
	m.saved = m.Save()
	h.note("login %s/%s: %s", m.account, m.id, m.Login())
	for _, v := range res.Victims {
		for _, o := range h.members {
			if o.account == m.account && o.Login() == v.Session.Login {
				h.out(o)
			}
		}
	}
}

// bring connects a member that is logged in, and reports whether it is attached then.
func (h *history) bring(m *member) bool {
	for range 20 {
		err := m.tryConnect()
		switch {
		case err == nil:
			m.sick = false
			return true
		case errors.Is(err, session.ErrEnded), errors.Is(err, session.ErrUnknownLogin):
			h.out(m)
			return false
		case errors.Is(err, errDown), errors.Is(err, store.ErrUnknownOutcome):
		default:
			require.NoError(h.w.t, err)
		}
	}
	h.w.t.Fatal("a device cannot attach")
	return false
}

func (h *history) connect() {
	m := h.member()
	switch {
	case !m.in:
		if h.one(3) {
			h.login(m)
		}
	case !m.Connected() || h.one(10):
		m.pairCfg.MaxFrames = h.rnd.IntN(3)
		if m.pairCfg.NonBlocking = h.one(2); m.pairCfg.NonBlocking { // served on the goroutine that has something for it
			m.pairCfg.MaxFrames = 0
		}
		m.saved = m.Save() // what it claims is saved
		ok := h.bring(m)
		h.note("connect %s/%s from %d: %t", m.account, m.id, m.Position().Seq, ok)
	}
}

func (h *history) loginOne() {
	if m := h.member(); !m.in || h.one(10) {
		h.login(m)
	}
}

func (h *history) leave() {
	m := h.member()
	h.note("leave %s/%s", m.account, m.id)
	m.drop()
}

func (h *history) cut() {
	m := h.member()
	h.note("cut %s/%s", m.account, m.id)
	m.cut()
}

// hinder makes a connection slow, stuck or deaf, which nobody notices at first.
func (h *history) hinder() {
	m := h.member()
	if !m.Connected() || m.sick {
		return
	}
	m.sick = true
	n := h.rnd.IntN(3)
	h.note("hinder %s/%s: %d", m.account, m.id, n)
	switch n {
	case 0:
		m.pair.Block()
	case 1:
		m.pair.DropAfter(h.rnd.IntN(4))
	case 2:
		m.pair.Delay(time.Duration(h.rnd.IntN(50)) * time.Millisecond)
	}
}

func (h *history) holdAcks() {
	m := h.member()
	m.HoldAcks(h.one(2))
	m.HoldResetAcks(h.one(4))
}

func (h *history) save() {
	m := h.member()
	m.saved = m.Save()
}

// lose has the device's process die with all that was not saved. Its acks went out after saving, so that only what it did
// not acknowledge may be lost.
func (h *history) lose() {
	m := h.member()
	m.drop()
	at := m.saved.State.Position
	for _, f := range m.Sent() {
		if a, ok := f.(*event.Ack); ok && (at == nil || a.Position.Epoch != at.Epoch || a.Position.Seq > at.Seq) {
			m.saved = m.Save() // it had saved more
			break
		}
	}
	if m.saved.State.Login != m.Login() {
		m.saved = m.Save()
	}
	h.note("lose %s/%s: from %d back to %v", m.account, m.id, m.Position().Seq, m.saved.State.Position)
	m.Restore(m.saved)
}

// odd has a device claim a position that is of no use, or none.
func (h *history) odd() {
	m := h.member()
	if !m.in || m.Login() == "" {
		return
	}
	m.drop()
	m.saved = m.Save()
	odd := m.saved
	head := h.w.head(m.account)
	switch h.rnd.IntN(3) {
	case 0:
		odd.State.Position, odd.State.Registers = nil, nil
	case 1:
		odd.State.Position = &event.Position{Epoch: head.Epoch, Seq: head.Seq + 1_000 + h.rnd.Uint64N(1_000)}
	case 2:
		odd.State.Position = &event.Position{Epoch: head.Epoch + 77, Seq: h.rnd.Uint64N(1_000)}
	}
	h.note("odd %s/%s: claims %v", m.account, m.id, odd.State.Position)
	m.Restore(odd)
	claim := m.Position()
	if h.bring(m) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(h.w.t, m.Wait(ctx, func() bool { return !m.Connected() || m.Position() != claim }))
	}
	if odd.State.Position != nil && m.Position() == claim { // nobody put it right
		m.drop()
		m.Restore(m.saved)
	}
}

func (h *history) kick() {
	m := h.member()
	if !m.in {
		return
	}
	var err error
	if h.one(2) {
		err = h.must(func() error {
			_, err := h.w.reg.Kick(h.w.t.Context(), session.KickRequest{Account: m.account, Logins: []event.LoginID{m.Login()}})
			return err
		})
	} else if err = h.must(func() error { return h.w.reg.Logout(h.w.t.Context(), m.account, m.Login()) }); errors.Is(err, session.ErrNotFound) {
		err = nil // it had ended already
	}
	require.NoError(h.w.t, err)
	h.note("end %s/%s", m.account, m.id)
	h.out(m)
}

func (h *history) removeDevice() {
	m := h.member()
	err := h.must(func() error {
		return h.w.reg.RemoveDevice(h.w.t.Context(), session.RemoveDeviceRequest{Account: m.account, Device: m.id})
	})
	require.True(h.w.t, err == nil || errors.Is(err, session.ErrNotFound), "%v", err)
	h.note("remove %s/%s", m.account, m.id)
	h.out(m)
	m.first = false
}

func (h *history) deleteAccount() {
	m := h.account()
	err := h.must(func() error {
		_, err := h.w.reg.DeleteAccount(h.w.t.Context(), session.DeleteRequest{Account: m.name})
		return err
	})
	require.NoError(h.w.t, err)
	h.note("delete %s", m.name)
	m.clear()
	for _, o := range h.members {
		if o.account == m.name {
			h.out(o)
			o.first = false
		}
	}
}

func (h *history) policy() {
	rules := historyRules()
	rules.Platforms["ios"] = 1 + h.rnd.IntN(3)
	p, err := policy.New(rules)
	require.NoError(h.w.t, err)
	require.NoError(h.w.t, h.w.reg.SetPolicy(p))
	h.w.scfg.Policy = p
	err = h.must(func() error {
		_, err := h.w.reg.Enforce(h.w.t.Context(), session.EnforceRequest{})
		return err
	})
	require.NoError(h.w.t, err)
	h.note("policy: %d ios", rules.Platforms["ios"])
}

// trim applies retention, and checks that nothing went that a device still waits for, unless there was too much.
func (h *history) trim() {
	m := h.account()
	h.heal()
	h.w.flush()
	known, err := h.w.reg.Devices(h.w.t.Context(), m.name)
	require.NoError(h.w.t, err)
	cursors, err := h.w.inner.Cursors(h.w.t.Context(), m.name)
	require.NoError(h.w.t, err)
	before := h.w.head(m.name)
	require.NoError(h.w.t, h.w.r.Trim(h.w.t.Context(), m.name))
	after := h.w.head(m.name)
	h.note("trim %s: from %d to %d of %d", m.name, before.Trim, after.Trim, after.Seq)
	require.LessOrEqual(h.w.t, after.Entries, h.w.fcfg.MaxEntries)
	if after.Trim > before.Trim && after.Entries < h.w.fcfg.MaxEntries {
		require.NotEmpty(h.w.t, known)
		for id, inc := range known {
			i := slices.IndexFunc(cursors, func(c store.Cursor) bool { return c.Incarnation == inc })
			require.GreaterOrEqual(h.w.t, i, 0)
			if before.Entries <= h.w.fcfg.MaxEntries {
				require.GreaterOrEqual(h.w.t, cursors[i].Seq, after.Trim, "I7: %s still waits", id)
			}
		}
	}
	h.log(m)
}

func (h *history) pass() {
	if h.w.path == "" {
		d := time.Duration(h.rnd.IntN(8_000)) * time.Millisecond
		h.note("pass %v", d)
		time.Sleep(d)
		synctest.Wait()
	}
}

func (h *history) flush() {
	err := h.w.r.Flush(h.w.t.Context())
	h.note("flush: %v", err)
	require.True(h.w.t, err == nil || errors.Is(err, errDown) || errors.Is(err, store.ErrUnknownOutcome), "%v", err)
}

func (h *history) crash() {
	h.note("crash")
	h.faults = nil
	h.w.crash()
}

func (h *history) restart() {
	h.heal()
	h.w.bolt.NewIncarnation = h.w.path != "" && h.one(2)
	h.note("restart, new incarnation %t", h.w.bolt.NewIncarnation)
	h.w.restart()
	h.w.bolt.NewIncarnation = false
}

// loginProbe admits a new device of a platform that is in nobody's way.
func (w *world) loginProbe(a event.Account) *device {
	w.t.Helper()
	w.fences++
	d := &device{w: w, account: a, id: event.DeviceID(fmt.Sprint("probe", w.fences)), platform: "linux"}
	d.Device = transporttest.NewDevice(w.t, transporttest.DeviceConfig{Attach: d.attach})
	d.relogin()
	w.devices = append(w.devices, d)
	return d
}
