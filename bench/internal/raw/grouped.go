package raw

import (
	"errors"

	"github.com/manydevice/manydevice/bench/internal/rows"
)

// Grouped does the work of sends in groups: those that wait at the same time are one.
type Grouped struct {
	combiner *Combiner[*request]
	group    func(work func(rows.Map) error) error
	work     rows.Work
}

type request struct {
	rows.Message
	res rows.Result
	err error
}

// NewGrouped returns a Grouped. group calls work with a map, once, and returns when what it wrote is durable. It is called by one
// goroutine at a time. A group has at most limit sends; 0: as many as wait.
func NewGrouped(limit int, group func(work func(rows.Map) error) error) *Grouped {
	g := &Grouped{group: group}
	g.combiner = NewCombiner(limit, g.apply)
	return g
}

// Send returns when a message is durable.
func (g *Grouped) Send(m rows.Message) (rows.Result, error) {
	r := &request{Message: m}
	if err := g.combiner.Do(r); err != nil {
		return rows.Result{}, err
	}
	return r.res, r.err
}

func (g *Grouped) apply(all []*request) error {
	return g.group(func(m rows.Map) error {
		for _, r := range all {
			if r.res, r.err = g.work.Send(m, &r.Message); r.err != nil && !errors.Is(r.err, rows.ErrMismatch) {
				return r.err // the map's own
			}
		}
		return nil
	})
}

// Fill sends many messages as one group. Nothing else is sent meanwhile.
func (g *Grouped) Fill(all []rows.Message) error {
	return g.group(func(m rows.Map) error {
		for i := range all {
			if _, err := g.work.Send(m, &all[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
