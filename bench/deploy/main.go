// Command deploy measures what users notice when the server process is replaced: how long they are without a connection, and
// whether anything is lost, doubled or sent again.
//
//	go run -C bench ./deploy                    2,000 clients, three runs of each kind of stop; six minutes
//	go run -C bench ./deploy -quick             50 clients, one run
//	go run -C bench ./deploy -stops kill,close  some kinds
//
// Everything is a real process: a server over a boltstore file and TCP sockets on the loopback, its supervisor, which starts the
// next one as soon as it has ended, and a process with the clients. These follow the client rule (package transport/client) and
// docs/protocol.md: they acknowledge what they have got, do what a closing frame advises, and come back with their position
// after a growing, random delay if there was none. Each sends a message every few seconds, and repeats it under the same client
// message ID until it has an answer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

type options struct {
	clients, runs     int
	warm, every, back time.Duration
	stops             []string
	dir               string
}

func main() {
	if child() {
		return
	}
	ctx, end := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer end()
	o, err := parse(os.Args[1:])
	if err == nil {
		err = o.run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("deploy", flag.ContinueOnError)
	quick := f.Bool("quick", false, "50 clients, one run of each kind, short waits")
	f.IntVar(&o.clients, "clients", 2_000, "clients, two of each account")
	f.IntVar(&o.runs, "runs", 3, "runs of each kind of stop")
	f.DurationVar(&o.warm, "warm", 5*time.Second, "traffic before the stop")
	f.DurationVar(&o.every, "every", 4*time.Second, "time between two messages of a client")
	f.DurationVar(&o.back, "back", 400*time.Millisecond, "DrainRequest.Back: when the next process takes connections")
	stops := f.String("stops", strings.Join(allStops, ","), "kinds of stops")
	f.StringVar(&o.dir, "dir", "", "folder for the files; empty: the system's")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.stops = strings.Split(*stops, ",")
	if *quick {
		o.clients, o.runs, o.warm, o.every = 50, 1, time.Second, 500*time.Millisecond
	}
	for _, s := range o.stops {
		if !slices.Contains(allStops, s) {
			return nil, fmt.Errorf("stop %q: want one of %v", s, allStops)
		}
	}
	if f.NArg() > 0 || o.clients < 4 || o.clients%2 > 0 || o.runs < 1 || o.every <= 0 || o.back < 0 {
		return nil, errors.New("unknown argument, or a number that makes no sense; see -help")
	}
	return o, nil
}

// allStops are the kinds of stops, by what the server is told.
var allStops = []string{"kill", "close", "drain0s", "drain1s", "drain10s"}

var names = map[string]string{
	"kill": "kill -9", "close": "Close", "drain0s": "Drain 0 s", "drain1s": "Drain 1 s", "drain10s": "Drain 10 s",
}

func (o *options) run(ctx context.Context, out io.Writer) error {
	for _, fact := range lab.Environment(o.dir, "go.etcd.io/bbolt") {
		fmt.Fprintln(out, fact)
	}
	fmt.Fprintf(out, "%d clients, a message from each every %v, Back %v, medians of %d runs\n\n", o.clients, o.every, o.back, o.runs)
	all := make(map[string][]*outcome)
	for run := range o.runs { // in turns, so that what else the machine does meets all kinds
		for _, stop := range o.stops {
			res, err := o.deploy(ctx, stop)
			if err != nil {
				return fmt.Errorf("run %d, %s: %w", run+1, names[stop], err)
			}
			fmt.Fprintf(os.Stderr, "run %d, %-10s %v\n", run+1, names[stop], res)
			all[stop] = append(all[stop], res)
		}
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "| Stop\t| outage p50\t| outage max\t| stop and start\t| met the old process\t| redelivered\t| lost\t| doubled\t|")
	fmt.Fprintln(w, "| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t|")
	var bad error
	for _, stop := range o.stops {
		lost, doubled := 0, 0
		for _, res := range all[stop] {
			lost, doubled = lost+res.Lost, doubled+res.Doubled
			if res.Gone > 0 {
				bad = errors.Join(bad, fmt.Errorf("%s: %d clients did not come back", names[stop], res.Gone))
			}
		}
		fmt.Fprintf(w, "| %s\t| %.2f s\t| %.2f s\t| %.2f s\t| %.0f\t| %.0f of %.0f\t| %d\t| %d\t|\n", names[stop],
			median(all[stop], func(r *outcome) float64 { return r.P50 }), median(all[stop], func(r *outcome) float64 { return r.Max }),
			median(all[stop], func(r *outcome) float64 { return r.Away }), median(all[stop], func(r *outcome) float64 { return float64(r.Early) }),
			median(all[stop], func(r *outcome) float64 { return float64(r.Redelivered) }),
			median(all[stop], func(r *outcome) float64 { return float64(r.Delivered) }), lost, doubled)
		if lost+doubled > 0 {
			bad = errors.Join(bad, fmt.Errorf("%s: %d lost, %d doubled", names[stop], lost, doubled))
		}
	}
	return errors.Join(w.Flush(), bad)
}

func median(all []*outcome, of func(*outcome) float64) float64 {
	var values []float64
	for _, r := range all {
		values = append(values, of(r))
	}
	return lab.Median(values)
}

// outcome is what one deploy was like.
type outcome struct {
	P50, Max float64 // seconds without a connection: from when it was closed or lost to the next Welcome
	Away     float64 `json:",omitempty"` // seconds from the signal until the next process listens
	Stop     float64 `json:",omitempty"` // of them until the process has ended
	Early    int     // attaches that the old process has refused
	NoServer int     // attempts that found no process at all
	Slow     int     // attaches that the new process has put off

	Redelivered, Delivered uint64 // entries, by the new process until all was quiet
	Lost, Doubled          int
	Gone                   int // clients that did not come back within two minutes
}

func (r *outcome) String() string {
	return fmt.Sprintf("p50 %.2f s, max %.2f s, stop %.2f s, back after %.2f s, early %d, no server %d, put off %d, redelivered %d of %d, lost %d, doubled %d",
		r.P50, r.Max, r.Stop, r.Away, r.Early, r.NoServer, r.Slow, r.Redelivered, r.Delivered, r.Lost, r.Doubled)
}

// deploy replaces a server once.
func (o *options) deploy(ctx context.Context, stop string) (_ *outcome, err error) {
	dir, err := os.MkdirTemp(o.dir, "deploy")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := serverConfig{Addr: addr, Path: filepath.Join(dir, "store.db"), Stop: stop, Back: o.back}
	server, err := start(ctx, role{Server: &s})
	if err != nil {
		return nil, err
	}
	defer func() { server.kill() }()
	crowd, err := start(ctx, role{Clients: &clientsConfig{Addr: addr, Clients: o.clients, Every: o.every}})
	if err != nil {
		return nil, err
	}
	defer func() { crowd.kill() }()
	if err := pause(ctx, o.warm); err != nil {
		return nil, err
	}
	if err := crowd.ask("stopping", nil); err != nil {
		return nil, err
	}
	res, begin := &outcome{}, time.Now()
	signal := os.Signal(syscall.SIGTERM)
	if stop == "kill" {
		signal = syscall.SIGKILL
	}
	if err := server.end(signal); err != nil {
		return nil, err
	}
	res.Stop = time.Since(begin).Seconds()
	if server, err = start(ctx, role{Server: &s}); err != nil {
		return nil, err
	}
	res.Away = time.Since(begin).Seconds()
	if err := crowd.ask("report", res); err != nil {
		return nil, err
	}
	if err := server.ask("stats", res); err != nil {
		return nil, err
	}
	return res, errors.Join(crowd.end(syscall.SIGTERM), server.end(syscall.SIGTERM))
}
