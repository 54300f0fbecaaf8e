package fanout_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// What was sent before a crash is flagged on every later connection, not only on the first, and on those of later logins of
// the device.
func TestS47_FlaggedAfterACrash(t *testing.T) {
	for name, meanwhile := range map[string]func(d *device){
		"another connection": func(d *device) {
			d.pairCfg.MaxFrames = 1
			d.Pause()
			d.start()
			d.leave()
			d.Resume()
		},
		"an attach that fails": func(d *device) {
			defer d.w.st.Inject(storetest.Fault{Method: storetest.Cursors, Err: errAway})()
			require.Error(d.w.t, d.tryConnect())
		},
		"a new login": func(d *device) { d.relogin() },
	} {
		t.Run(name, func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				d := w.ready("ann", "a1")[0]
				d.acked()
				w.flush()
				saved := d.Save()
				d.HoldAcks(true)
				w.feed("ann", 0, 5)
				w.until("sent", func() bool { return len(d.texts()) == 5 })
				time.Sleep(10 * time.Millisecond) // the engine is opened again later than the device logged in
				w.crash()
				login, token := d.Login(), d.Token()
				d.Restore(saved)
				d.LoggedIn(login, token)
				d.HoldAcks(false)
				meanwhile(d)
				before := len(d.Frames())
				d.online()
				require.Equal(w.t, numbers(0, 5), d.texts())
				for _, f := range d.Frames()[before:] {
					if data, ok := f.(*event.Data); ok {
						for _, e := range data.Entries {
							require.True(w.t, data.Redelivered || e.Kind != event.KindMessage, "%s was sent before the crash", e.Payload)
						}
					}
				}
			})
		})
	}
}
