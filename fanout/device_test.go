package fanout_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// device is a client that follows the client rule, with its connection.
type device struct {
	*transporttest.Device
	w        *world
	account  event.Account
	id       event.DeviceID
	platform event.Platform // empty: ios
	inc      event.Incarnation
	incs     []event.Incarnation // all that it had
	tab      string
	vouched  bool // it attaches by the host's word
	rough    bool // it sends what a correct client does not: refused replies are no fault of the engine
	pairs    []*transporttest.Pair
	pair     *transporttest.Pair // of the latest connection
	pairCfg  transporttest.PairConfig

	mu  sync.Mutex
	att *fanout.Attachment
}

// login admits a device, which is not attached yet.
func (w *world) login(account event.Account, id event.DeviceID) *device {
	w.t.Helper()
	return w.loginWith(account, id, transporttest.DeviceConfig{})
}

func (w *world) loginWith(account event.Account, id event.DeviceID, cfg transporttest.DeviceConfig) *device {
	w.t.Helper()
	d := &device{w: w, account: account, id: id}
	cfg.Attach, cfg.Client.Kinds = d.attach, w.fcfg.Kinds
	d.Device = transporttest.NewDevice(w.t, cfg)
	d.relogin()
	w.devices = append(w.devices, d)
	return d
}

// sibling is another tab of a device, with the same login and storage of its own.
func (d *device) sibling(tab string) *device {
	d.w.t.Helper()
	o := &device{w: d.w, account: d.account, id: d.id, inc: d.inc, incs: d.incs, tab: tab}
	o.Device = transporttest.NewDevice(d.w.t, transporttest.DeviceConfig{Attach: o.attach})
	o.LoggedIn(d.Login(), d.Token())
	d.w.devices = append(d.w.devices, o)
	return o
}

// relogin logs the device in once more.
func (d *device) relogin() {
	d.w.t.Helper()
	res, err := d.w.reg.Login(context.Background(), session.LoginRequest{Account: d.account, Device: d.id, Platform: cmp.Or(d.platform, "ios")})
	require.NoError(d.w.t, err)
	d.inc = res.Session.Incarnation
	d.incs = append(d.incs, d.inc)
	d.LoggedIn(res.Session.Login, res.Token)
}

func (d *device) attach(conn transport.Conn, q transporttest.AttachRequest) (transporttest.Handle, error) {
	r := fanout.AttachRequest{Account: d.account, Login: q.Login, Token: q.Token, Position: q.Position, Tab: d.tab}
	if d.vouched {
		r.Login, r.Token, r.Device, r.Vouched = "", "", d.id, true
	}
	att, err := d.w.r.Attach(context.Background(), r, conn)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.att = att
	d.mu.Unlock()
	return func(f event.ClientFrame) error { return att.Handle(context.Background(), f) }, nil
}

// attachment returns the latest one.
func (d *device) attachment() *fanout.Attachment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.att
}

// tryConnect begins a connection.
func (d *device) tryConnect() error {
	d.pair = transporttest.NewPair(d.pairCfg)
	d.pairs = append(d.pairs, d.pair)
	return d.Connect(d.pair)
}

// start begins a connection, which must succeed.
func (d *device) start() {
	d.w.t.Helper()
	require.NoError(d.w.t, d.tryConnect())
}

// online begins a connection and waits until the device has all there is.
func (d *device) online() {
	d.w.t.Helper()
	d.start()
	d.caughtUp()
}

func (d *device) caughtUp() {
	d.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(d.w.t, d.WaitCaughtUp(ctx))
}

// acked waits until the engine knows that the device has all it was sent.
func (d *device) acked() {
	d.w.t.Helper()
	d.w.until("acked by "+string(d.id), func() bool {
		n, _, _, _ := d.attachment().Window()
		return n == 0
	})
}

// closed waits until the connection is over and returns why.
func (d *device) closed() event.Closed {
	d.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	why, err := d.WaitClosed(ctx)
	require.NoError(d.w.t, err)
	return why
}

// drop ends the connection from the device's side, and tells the engine.
func (d *device) drop() {
	d.Disconnect()
	if att := d.attachment(); att != nil {
		att.Detach()
	}
}

// leave is drop that waits until the engine has let go of the connection.
func (d *device) leave() {
	d.w.t.Helper()
	d.drop()
	d.w.until("detached", func() bool {
		return errors.Is(d.attachment().Handle(context.Background(), &event.Ping{}), fanout.ErrDetached)
	})
}

// cut takes the network away: neither side is told.
func (d *device) cut() {
	if d.pair != nil {
		d.pair.Cut()
	}
	d.Disconnect()
}

// ready connects several devices of several accounts.
func (w *world) ready(account event.Account, ids ...event.DeviceID) []*device {
	w.t.Helper()
	all := make([]*device, len(ids))
	for i, id := range ids {
		all[i] = w.login(account, id)
		all[i].online()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, d := range all { // each hears of those that came after it
		require.NoError(w.t, d.WaitPosition(ctx, w.head(account).Seq))
		d.acked()
	}
	return all
}

// texts returns the messages that the device applied, in order, without fences.
func (d *device) texts() []string { return texts(d.Messages(event.KindMessage)) }

// of returns the entries of one kind that the device applied, without fences.
func (d *device) of(k event.Kind) []*event.Sealed {
	return slices.DeleteFunc(d.Messages(k), func(e *event.Sealed) bool { return e.Conversation == "fence" })
}

// wire returns the messages of all Data frames that came, in order, without fences: what comes twice is there twice.
func (d *device) wire() []string {
	var all []*event.Sealed
	for _, f := range d.Frames() {
		if data, ok := f.(*event.Data); ok {
			all = append(all, data.Entries...)
		}
	}
	return texts(slices.DeleteFunc(all, func(e *event.Sealed) bool { return e.Kind != event.KindMessage }))
}

func texts(entries []*event.Sealed) []string {
	var all []string
	for _, e := range entries {
		if e.Conversation != "fence" {
			all = append(all, string(e.Payload))
		}
	}
	return all
}

// count returns how many frames of one type came.
func count[F event.Frame](d *device) int { return len(framesOf[F](d)) }

// framesOf returns the frames of one type that came.
func framesOf[F event.Frame](d *device) []F {
	var all []F
	for _, f := range d.Frames() {
		if f, ok := f.(F); ok {
			all = append(all, f)
		}
	}
	return all
}

// read returns the device's read marker of a conversation.
func (d *device) read(conv event.ConversationID, name string) uint64 {
	for _, s := range d.Registers() {
		if s.Conversation == conv && s.Name == name {
			return s.Number
		}
	}
	return 0
}

// verify checks what every device must find: no broken contract of its connections, and nothing refused of what a correct
// client sends.
func (d *device) verify() {
	d.w.t.Helper()
	for _, p := range d.pairs {
		require.Empty(d.w.t, p.Faults(), "connection of %s", d.id)
	}
	for _, err := range d.HandleErrors() {
		if !d.rough {
			require.ErrorIs(d.w.t, err, fanout.ErrDetached, "reply of %s", d.id)
		}
	}
}
