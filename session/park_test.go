package session_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

func (w *world) park(d event.DeviceID, epoch event.Epoch, seq, trim uint64) error {
	w.t.Helper()
	_, err := w.reg.Park(w.t.Context(), session.ParkRequest{
		Account: "ann", Device: d, Position: event.Position{Epoch: epoch, Seq: seq}, Trim: trim,
	})
	return err
}

// parked returns the numbers that are parked for a gadget's device.
func (g *gadget) parked() []uint64 {
	g.w.t.Helper()
	all, err := g.w.reg.Parked(g.w.t.Context(), g.acc, g.res.Session.Incarnation)
	require.NoError(g.w.t, err)
	var seqs []uint64
	for _, p := range all {
		seqs = append(seqs, p.Seq)
	}
	return seqs
}

func TestC24_ParkedIsDurable(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		a1, a2 := w.join("ann", "a1", "ios"), w.join("ann", "a2", "web")
		require.Empty(w.t, a1.parked())
		for _, seq := range []uint64{30, 10, 20, 10} {
			require.NoError(w.t, w.park("a1", 7, seq, 0))
		}
		before := w.stored("ann").rev
		require.NoError(w.t, w.park("a1", 7, 20, 0))
		require.Equal(w.t, before, w.stored("ann").rev, "it is parked already: nothing is written")
		require.Equal(w.t, []uint64{10, 20, 30}, a1.parked(), "in order")
		require.Empty(w.t, a2.parked(), "of one device only")

		w.restart(setup{})
		require.Equal(w.t, []uint64{10, 20, 30}, a1.parked())
		res, err := w.reg.Park(w.t.Context(), session.ParkRequest{Account: "ann", Device: "a1", Position: event.Position{Epoch: 7, Seq: 20}, Undo: true})
		require.NoError(w.t, err)
		require.Equal(w.t, session.ParkResult{Incarnation: a1.res.Session.Incarnation, Changed: true}, res)
		require.Equal(w.t, []uint64{10, 30}, a1.parked())
		again := w.login("ann", "a1", "ios")
		require.Equal(w.t, []uint64{10, 30}, again.parked(), "a new login is the same device")

		require.NoError(w.t, w.park("a1", 7, 40, 10))
		require.Equal(w.t, []uint64{30, 40}, a1.parked(), "what the inbox does not hold any more is forgotten")
		require.NoError(w.t, w.park("a1", 8, 2, 0))
		require.Equal(w.t, []uint64{2}, a1.parked(), "and so is what was parked in another epoch")

		require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1"}))
		require.Empty(w.t, a1.parked())
		require.ErrorIs(w.t, w.park("a1", 8, 3, 0), session.ErrNotFound)
		require.Empty(w.t, w.login("ann", "a1", "ios").parked(), "a device that was removed comes back as a new one")
		require.NotContains(w.t, w.stored("ann").data, "parked")
	})
}

func TestC24_ParkedIsBounded(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: -1}}, func(w *world) {
		for i := range 5 {
			w.login("ann", event.DeviceID(fmt.Sprint("a", i)), "ios")
		}
		seq := uint64(1 << 60)
		for i := range 4 {
			d := event.DeviceID(fmt.Sprint("a", i))
			for range session.MaxParked {
				seq++
				require.NoError(w.t, w.park(d, 7, seq, 0))
			}
			before := w.stored("ann")
			if i == 0 {
				require.ErrorIs(w.t, w.park(d, 7, seq+1, 0), session.ErrTooManyParked, "for one device")
				require.Equal(w.t, before, w.stored("ann"))
			}
		}
		require.ErrorIs(w.t, w.park("a4", 7, 1, 0), session.ErrTooManyParked, "for all devices of the account")
		require.NoError(w.t, w.park("a0", 7, seq+1, 1<<60+10), "there is room again once the inbox was trimmed")
		require.Less(w.t, len(w.stored("ann").data), 12<<10, "all of it is small")
		for _, q := range []session.ParkRequest{
			{Device: "a0", Position: event.Position{Epoch: 7, Seq: 1}},
			{Account: "ann", Position: event.Position{Epoch: 7, Seq: 1}},
			{Account: "ann", Device: "a0", Position: event.Position{Epoch: 7}},
		} {
			_, err := w.reg.Park(w.t.Context(), q)
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%v", err)
		}
		_, err := w.reg.Parked(w.t.Context(), "", 1)
		_, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok, "%v", err)
	})
}

// TestC24_ParkedLeavesRoom fills the record with logins: what is parked must not take the room that their ends need.
func TestC24_ParkedLeavesRoom(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: -1}, config: session.Config{MaxDevices: 64}}, func(w *world) {
		var err error
		for i := 0; err == nil; i++ {
			q := request("ann", event.DeviceID(fmt.Sprint("a", i)), "ios")
			q.Description.Extension = make([]byte, 700)
			_, err = w.tryLogin(q)
		}
		for seq := uint64(1); err == nil || seq == 1; seq++ {
			require.LessOrEqual(w.t, seq, uint64(session.MaxParked))
			err = w.park("a0", 7, 1<<60+seq, 0)
		}
		require.ErrorIs(w.t, err, session.ErrRecordFull)
		require.LessOrEqual(w.t, len(w.stored("ann").data), store.MaxRecordBytes-12<<10)
	})
}

func TestC24_ParkWhileOthersChangeTheAccount(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		a1 := w.join("ann", "a1", "ios")
		conflicts := 2
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				if conflicts--; conflicts >= 0 {
					return store.ErrConflict
				}
				return nil
			}
		})
		require.NoError(w.t, w.park("a1", 7, 3, 0))
		require.Equal(w.t, []uint64{3}, a1.parked(), "it is tried again")
	})
}

func TestD6_InspectRecord(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 1}}, func(w *world) {
		none, err := w.reg.Inspect(w.t.Context(), "nobody")
		require.NoError(w.t, err)
		require.Empty(w.t, none.Logins)
		q := request("ann", "a1", "ios")
		q.Description = session.Description{Name: "Phone", Model: "M", OS: "O", AppVersion: "1", IP: "192.0.2.1", Extension: []byte("push-secret")}
		a1, err := w.tryLogin(q)
		require.NoError(w.t, err)
		a2 := w.join("ann", "a2", "ios")
		require.NoError(w.t, w.park("a1", 7, 3, 0))
		_, err = w.reg.Ban(w.t.Context(), session.BanRequest{Account: "bob", Note: "spam"})
		require.NoError(w.t, err)

		in, err := w.reg.Inspect(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, in.Logins, 1)
		require.Equal(w.t, a2.id, in.Logins[0].Login)
		require.Equal(w.t, session.Online, in.Logins[0].State)
		require.Len(w.t, in.Tombstones, 1)
		require.Equal(w.t, a1.id, in.Tombstones[0].Login)
		require.Equal(w.t, event.EvictedQuota, in.Tombstones[0].Reason)
		require.Equal(w.t, event.DeviceID("a2"), in.Tombstones[0].ByDevice)
		require.Len(w.t, in.Devices, 2)
		require.Equal(w.t, []event.Position{{Epoch: 7, Seq: 3}}, in.Devices[0].Parked)
		require.Len(w.t, in.Recent, 3)
		require.Equal(w.t, event.EvictedQuota, in.Recent[1].Reason, "newest first")
		require.Nil(w.t, in.Ban)

		raw, err := json.Marshal(in)
		require.NoError(w.t, err)
		text := string(raw)
		require.Contains(w.t, text, `"incarnation":"`)
		require.NotContains(w.t, text, "push-secret")
		rec, err := session.DecodeRecord([]byte(w.stored("ann").data))
		require.NoError(w.t, err)
		ended := []byte(rec.Ended()[0].Tokens)
		require.Len(w.t, ended, 8)
		for _, d := range [][]byte{ended, rec.Logins[0].Token[:], rec.Logins[0].Token[:8]} {
			list, err := json.Marshal(slices.Collect(func(yield func(int) bool) {
				for _, b := range d {
					if !yield(int(b)) {
						return
					}
				}
			}))
			require.NoError(w.t, err)
			for _, form := range []string{string(d), hex.EncodeToString(d), base64.RawStdEncoding.EncodeToString(d), string(list)} {
				require.NotContains(w.t, text, form)
			}
		}

		in, err = w.reg.Inspect(w.t.Context(), "bob")
		require.NoError(w.t, err)
		require.Equal(w.t, "spam", in.Ban.Note)
		require.Zero(w.t, in.Ban.Until, "for good")
		_, err = w.reg.Inspect(w.t.Context(), "")
		_, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok, "%v", err)
	})
}
