package fanout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

func TestC23_NothingIsKeptAtRest(t *testing.T) {
	pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
		d := w.ready("ann", "a1")[0]
		w.undecided(0)
		w.send(d, "own", "eve")
		w.undecided(1)
		w.decided()
		time.Sleep(time.Second) // the look after the start is over
		commits, cursors := w.st.Calls("Commit"), w.st.Calls("Cursors")
		for i := range 20 {
			w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Receipts: fanout.ReceiptsOff, Payload: fmt.Append(nil, i)})
			d.until(fmt.Sprint(i))
		}
		d.acked()
		w.undecided(1)
		w.decided()
		require.Empty(w.t, l.take())
		require.Zero(w.t, w.pushMark("ann"))
		require.Equal(w.t, 20, w.st.Calls("Commit")-commits, "who has everything costs no write")
		require.Zero(w.t, w.st.Calls("Cursors")-cursors, "nor a read")
		time.Sleep(time.Hour)
		w.undecided(0)
		w.restart()
		time.Sleep(11 * time.Second)
		require.Zero(w.t, w.pushMark("ann"), "nor does the look after a start take anything of it up")
	})
}

func TestC23_MoreThanFitsInMemory(t *testing.T) {
	pushOverStores(t, fanout.Config{Push: fanout.PushConfig{Pending: 2}}, func(w *world, l *pushLog) {
		time.Sleep(11 * time.Second) // the look after the start is over
		want := map[string]string{}
		for _, a := range numbers(0, 9) {
			w.login(event.Account(a), event.DeviceID("of "+a))
			w.host("bob", "x", event.Account(a))
			want["of "+a] = "x"
		}
		w.undecided(2)
		w.pushes(9)
		w.decided()
		require.Equal(w.t, want, l.got())
	})
}
