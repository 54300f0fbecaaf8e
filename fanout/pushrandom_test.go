package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// pushWorld is a random history of three devices of an account, with a model of who is to be told of what. Each round does
// some things at once and then waits until all of it is decided.
type pushWorld struct {
	w       *world
	l       *pushLog
	rnd     *rand.Rand
	devices []*device
	in      map[*device]bool // holds a login
	sent    []pushSent       // and not noted as decided
	turn    bool             // in this round something may want a push, or the engine has looked
	n       int
}

type pushSent struct {
	id    event.MessageID
	text  string
	seq   uint64
	quiet bool            // it wants no push, or is gone
	only  event.DeviceID  // empty: for all
	has   map[string]bool // devices that have it
}

func (p *pushWorld) step() {
	ctx := context.Background()
	d := p.devices[p.rnd.IntN(len(p.devices))]
	switch n := p.rnd.IntN(20); {
	case n < 8:
		p.send()
	case n < 11 && p.in[d] && !d.Connected():
		d.online()
		d.acked()
		for i := range p.sent {
			p.sent[i].has[string(d.id)] = p.sent[i].only == "" || p.sent[i].only == d.id
		}
	case n < 14 && d.Connected():
		d.acked()
		d.leave()
	case n < 15 && p.in[d]:
		_, err := p.w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{d.Login()}})
		require.NoError(p.w.t, err)
		if d.Connected() {
			d.closed()
		}
		p.in[d] = false
	case n < 17 && !p.in[d]:
		d.relogin()
		p.in[d] = true
	case n < 18 && len(p.sent) > 0:
		s := &p.sent[p.rnd.IntN(len(p.sent))]
		if _, err := p.w.r.Send(ctx, fanout.SendRequest{From: "bob", Kind: event.KindRecall, Of: s.id}); err == nil {
			s.quiet = true
		}
	case n < 19 && len(p.sent) > 0:
		at := p.sent[p.rnd.IntN(len(p.sent))].seq
		p.w.read("c1", at, p.rnd.IntN(2) == 0)
		for i := range p.sent {
			p.sent[i].quiet = p.sent[i].quiet || p.sent[i].seq <= at
		}
	case n == 19:
		for _, d := range p.devices {
			d.drop()
		}
		p.w.restart()
		p.turn = true
	}
}

func (p *pushWorld) send() {
	p.n++
	q := fanout.SendRequest{
		From: "bob", Conversation: "c1", To: []event.Account{"ann"}, Receipts: fanout.ReceiptsOff, Payload: fmt.Append(nil, p.n), NoPush: p.rnd.IntN(5) == 0,
	}
	s := pushSent{text: fmt.Sprint(p.n), quiet: q.NoPush, has: map[string]bool{}}
	if d := p.devices[p.rnd.IntN(len(p.devices))]; p.rnd.IntN(4) == 0 {
		s.only = d.id
		q.Narrow = []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{d.id}}}
	}
	s.id = p.w.post(q).ID
	s.seq = p.w.head("ann").Seq
	for _, d := range p.devices {
		if d.Connected() && (s.only == "" || s.only == d.id) {
			d.until(s.text)
			d.acked()
			s.has[string(d.id)] = true
		}
	}
	p.sent, p.turn = append(p.sent, s), p.turn || !q.NoPush
}

// want returns what each device is to be told of in this round: what it has missed since the mark.
func (p *pushWorld) want() map[string]string {
	all := map[string]string{}
	if !p.turn {
		return all
	}
	for _, d := range p.devices {
		if !p.in[d] || d.Connected() {
			continue
		}
		var missed []string
		for _, s := range p.sent {
			if !s.quiet && !s.has[string(d.id)] && (s.only == "" || s.only == d.id) {
				missed = append(missed, s.text)
			}
		}
		if missed != nil {
			all[string(d.id)] = strings.Join(missed, " ")
		}
	}
	return all
}

func TestC23_RandomWorlds(t *testing.T) {
	for range 8 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			pushInMemory(t, anyOffline(), func(w *world, l *pushLog) {
				p := &pushWorld{w: w, l: l, rnd: rand.New(rand.NewPCG(seed, 1)), in: map[*device]bool{}}
				for _, id := range []event.DeviceID{"a1", "a2", "a3"} {
					d := w.login("ann", id)
					p.devices, p.in[d] = append(p.devices, d), true
				}
				time.Sleep(11 * time.Second) // the look after the start
				for round := range 40 {
					for range p.rnd.IntN(8) {
						p.step()
					}
					want := p.want()
					time.Sleep(25 * time.Second) // what was in flight over a restart is looked for
					w.decided()
					require.Equal(t, want, l.got(), "seed %d, round %d", seed, round)
					mark := w.pushMark("ann")
					for _, told := range want { // so that it is not told again
						last := told[strings.LastIndex(told, " ")+1:]
						i := slices.IndexFunc(p.sent, func(s pushSent) bool { return s.text == last })
						require.LessOrEqual(t, p.sent[i].seq, mark, "seed %d, round %d", seed, round)
					}
					p.sent = slices.DeleteFunc(p.sent, func(s pushSent) bool { return s.seq <= mark })
					p.turn = false
				}
			})
		})
	}
}
