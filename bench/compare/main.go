// Command compare says what got slower between two commits, by more than the noise.
//
//	go run -C bench ./compare v0.1.0 HEAD
//	go run -C bench ./compare -bench 'Live|DurableSend' -count 10 v0.1.0 HEAD
//
// It checks both commits out into a temporary folder, builds the benchmarks of the packages, and runs them in turns, so that
// what the machine does meanwhile meets both sides. Runs are compared as benchstat does it: medians, and the Mann-Whitney U
// test. It ends with status 1 if something is worse.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

// packages are those whose benchmarks say how fast the library is.
const packages = "./event,./policy,./store/memstore,./store/boltstore,./session,./fanout"

type options struct {
	bench, benchtime, packages string
	count                      int
	base, head                 string
	all                        bool
}

var errWorse = errors.New("something got slower")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o, err := parse(os.Args[1:])
	if err == nil {
		err = compare(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("compare", flag.ContinueOnError)
	f.StringVar(&o.bench, "bench", ".", "only benchmarks that match this regular expression")
	f.StringVar(&o.benchtime, "benchtime", "200ms", "time or number of iterations of each benchmark in each run")
	f.StringVar(&o.packages, "packages", packages, "packages of the library, with commas between them")
	f.IntVar(&o.count, "count", 10, "runs of each side")
	f.BoolVar(&o.all, "all", false, "print every benchmark, not only those that changed")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() != 2 || o.count < 4 { // with fewer runs no difference can be told from noise
		return o, errors.New("want two commits and at least 4 runs; see -help")
	}
	o.base, o.head = f.Arg(0), f.Arg(1)
	return o, nil
}

func compare(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "manydevice-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var sides [2]*side
	for i, commit := range []string{o.base, o.head} {
		s, err := newSide(ctx, filepath.Join(dir, fmt.Sprint(i)), commit)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		if err := s.build(ctx, strings.Split(o.packages, ",")); err != nil {
			return err
		}
		sides[i] = s
	}
	for i := range o.count {
		fmt.Fprintf(os.Stderr, "run %d of %d\n", i+1, o.count)
		for _, s := range sides {
			if err := s.run(ctx, o.bench, o.benchtime); err != nil {
				return err
			}
		}
	}
	changes, err := diff(&sides[0].output, &sides[1].output)
	if err != nil {
		return err
	}
	if report(out, changes, o.all) > 0 {
		return errWorse
	}
	return nil
}

// command runs a program in a folder and returns what it prints.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s%s", err, out, exit.Stderr)
		}
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out, nil
}
