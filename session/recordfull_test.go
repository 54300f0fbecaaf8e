package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

func TestS32_BoundedTombstones(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 1}}, func(w *world) {
		const logins = 300
		var all []*gadget
		largest := 0
		for i := range logins {
			all = append(all, w.login("ann", event.DeviceID(fmt.Sprint("d", i)), "ios"))
			largest = max(largest, len(w.stored("ann").data))
		}
		rec := shapeOf(w.t, []byte(w.stored("ann").data))
		require.Len(w.t, rec.Tombstones, 64)
		require.Len(w.t, rec.Logins, 1)
		require.Less(w.t, largest, store.MaxRecordBytes)
		for i, g := range all[:logins-1] {
			if i >= logins-1-64 {
				require.Equal(w.t, event.EvictedQuota, g.refused().Reason)
				continue
			}
			_, err := g.tryAttach(new(wire))
			require.ErrorIs(w.t, err, session.ErrUnknownLogin, "its tombstone was dropped")
		}
		all[logins-1].attach()
		cursors, err := w.st.Cursors(context.Background(), "ann")
		require.NoError(w.t, err)
		require.LessOrEqual(w.t, len(cursors), 32, "cursors go with the devices that are forgotten")
	})
}

// TestS32_LongestNames: words of a client's choice must not make an account's record so large that nobody can be ended.
func TestS32_LongestNames(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		long := strings.Repeat("<", 120)
		for i := range 150 {
			q := request("ann", event.DeviceID(fmt.Sprintf("%s%d", long, i)), "ios")
			q.Description.Name = long
			g, err := w.tryLogin(q)
			require.NoError(w.t, err)
			if i%2 == 0 {
				_, err = w.reg.Kick(w.t.Context(), session.KickRequest{
					Account: "ann", Logins: []event.LoginID{g.id}, By: g.id, Note: strings.Repeat("<", 512),
				})
				require.NoError(w.t, err)
				require.Equal(w.t, event.KickedSelf, g.refused().Reason, "the newest tombstone is there")
			}
			require.LessOrEqual(w.t, len(w.stored("ann").data), store.MaxRecordBytes)
		}
		rec := shapeOf(w.t, []byte(w.stored("ann").data))
		require.Greater(w.t, len(rec.Tombstones), 32, "names take no more room than they have bytes")
	})
}

// TestI27_FullRecord: when descriptions fill the record, logins are refused. Ends and new tokens still find room.
func TestI27_FullRecord(t *testing.T) {
	s := setup{rules: policy.Rules{PerPlatform: policy.NoLimit}, config: session.Config{TokenRotation: 10 * time.Second}}
	inBubble(t, s, func(w *world) {
		var all []*gadget
		var refusal error
		n := 0
		for ; n < 64; n++ {
			q := request("ann", event.DeviceID(fmt.Sprint("d", n)), "ios")
			q.Description.Extension = make([]byte, 1_000)
			var g *gadget
			if g, refusal = w.tryLogin(q); refusal != nil {
				break
			}
			all = append(all, g.attach())
		}
		require.ErrorIs(w.t, refusal, session.ErrRecordFull)
		full, ok := errors.AsType[*session.RecordFullError](refusal)
		require.True(w.t, ok, "%v", refusal)
		require.Greater(w.t, full.Descriptions, full.Limit*3/4, "it says what takes the room")
		require.Equal(w.t, event.RefusedQuota, full.Closed().Reason)
		for refusal = nil; refusal == nil; n++ { // K6.6: without a description there is nothing that could be invalid
			var g *gadget
			q := session.LoginRequest{Account: "ann", Device: event.DeviceID(fmt.Sprint("small", n)), Platform: "web"}
			if g, refusal = w.tryLogin(q); refusal == nil {
				all = append(all, g.attach())
			}
		}
		require.ErrorIs(w.t, refusal, session.ErrRecordFull)
		n = len(w.list("ann"))
		require.Greater(w.t, n, 16)
		for range 3 {
			w.pass(11 * time.Second)
			for _, g := range all {
				g.conn.Detach()
				g.attach()
				require.NotEmpty(w.t, string(g.conn.Token()))
				g.token = g.conn.Token()
				require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
			}
		}
		res, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true, Note: strings.Repeat("x", 512)})
		require.NoError(w.t, err)
		require.Len(w.t, res, n)
		require.Empty(w.t, w.list("ann"))
	})
}
