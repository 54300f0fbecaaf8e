// Command bench measures manydevice, its peers and the limits of the machine with the same work in one run, and prints
// ratios.
//
//	go run -C bench . -quick                             a few minutes, smaller sizes
//	go run -C bench . -full                              the sizes that the goals are about; two hours, 30 GB of disk
//	go run -C bench . -quick -run 'live|memory' -notes   some lines, with what they measure
//	go run -C bench . -full -md ../docs/performance.md   write the table into the document
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
)

var modules = []string{
	"go.etcd.io/bbolt", "github.com/centrifugal/centrifuge", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go",
	"github.com/mochi-mqtt/server/v2", "github.com/cockroachdb/pebble/v2",
}

func main() {
	if ours.Child() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	args     []string
	scale    lab.Scale
	pattern  *regexp.Regexp
	tsv      string
	plots    string
	markdown string
	readme   string
	dir      string
	notes    bool
	list     bool
}

func parse(args []string) (options, error) {
	o := options{args: args}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := f.Bool("quick", false, "3 runs of each side, smaller sizes (the default)")
	full := f.Bool("full", false, "5 runs of each side, the sizes that the goals are about")
	pattern := f.String("run", "", "only lines whose name matches this regular expression")
	f.StringVar(&o.tsv, "tsv", "", "write a table for machines to this file")
	f.StringVar(&o.plots, "plots", "", "write SVG charts into this folder")
	f.StringVar(&o.markdown, "md", "", "write the table between the marks of this document")
	f.StringVar(&o.readme, "readme", "", "write a summary between the marks of this document")
	f.StringVar(&o.dir, "dir", "", "folder on the disk to measure, for temporary files; empty: the system's")
	f.BoolVar(&o.notes, "notes", false, "print what each line measures")
	f.BoolVar(&o.list, "list", false, "print the lines and their goals, and measure nothing")
	perRun := f.Duration("time", 0, "counted time of a run; 0: that of the scale")
	runs := f.Int("runs", 0, "runs of each side; 0: those of the scale")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || *quick && *full || *perRun < 0 || *runs < 0 {
		return o, errors.New("unknown argument, -quick with -full, or a negative number; see -help")
	}
	o.scale = lab.Quick()
	if *full {
		o.scale = lab.Full()
	}
	if *perRun > 0 {
		o.scale.Time, o.scale.Warm = *perRun, *perRun/3
	}
	if *runs > 0 {
		o.scale.Runs = *runs
	}
	var err error
	o.pattern, err = regexp.Compile(*pattern)
	return o, err
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	todo := chosen(lines(o.scale), o.pattern)
	if o.list {
		for _, l := range todo {
			fmt.Printf("%-44s %-8s %s\n", l.Name, l.Goal, l.Against)
		}
		return nil
	}
	runner, err := lab.NewRunner(o.scale, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, runner.Close()) }()
	page := lab.Page{
		Command:     strings.TrimSpace("go run -C bench . " + strings.Join(o.args, " ")),
		Environment: append(lab.Environment(runner.Dir(), modules...), "scale: "+o.scale.Name+", "+time.Now().UTC().Format(time.DateOnly)),
	}
	for _, fact := range page.Environment {
		fmt.Println(fact)
	}
	var failed error
	for _, l := range todo {
		res, err := runner.Run(ctx, l)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the others are worth having
			fmt.Println("FAILED", err)
			failed = errors.Join(failed, err)
			continue
		}
		lab.WriteLine(os.Stdout, &res, o.notes)
		page.Results = append(page.Results, res)
	}
	return errors.Join(failed, write(&o, &page))
}

// write makes the files that were asked for.
func write(o *options, page *lab.Page) error {
	if o.tsv != "" {
		f, err := os.Create(o.tsv)
		if err != nil {
			return err
		}
		if err := errors.Join(lab.WriteTSV(f, page.Results), f.Close()); err != nil {
			return err
		}
	}
	if o.plots != "" {
		names, err := lab.WritePlots(o.plots, page.Results)
		if err != nil {
			return err
		}
		for _, n := range names {
			page.Charts = append(page.Charts, linked(o, n))
		}
	}
	if o.markdown != "" {
		if err := page.Replace(o.markdown); err != nil {
			return err
		}
	}
	if o.readme != "" {
		return page.Summary(o.readme)
	}
	return nil
}

// linked is the path of a chart as the document links it.
func linked(o *options, name string) string {
	path := filepath.Join(o.plots, name)
	if rel, err := filepath.Rel(filepath.Dir(o.markdown), path); o.markdown != "" && err == nil {
		path = rel
	}
	return filepath.ToSlash(path)
}
