// Command mutants checks that the rules of package storetest find faults. It breaks store/memstore in one place at a time, by
// the patches in this directory, and runs the rules against each broken store, without the random histories: these find
// much, but not each time and not by name.
//
//	go run ./store/storetest/mutants            # all of them, in the root module
//	go run ./store/storetest/mutants -run trim  # those whose name matches
//
// A mutant is caught if a rule fails, and the rule is printed. It is alive if all rules pass. The command exits with status 1 if a
// mutant is alive, does not build, panics or hangs, or if a rule fails on the store as it is.
//
// # Adding a mutant
//
// A patch replaces text that occurs exactly once in its file. A change of memstore that makes a patch impossible fails the
// test of this package, at once and by name. Each patch must break the contract: one that changes nothing that a
// caller can see does not belong into the list. Neither does one that makes the store panic, which no rule is needed for.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

func main() {
	pattern := flag.String("run", "", "run only the mutants whose name matches this regular `expression`")
	parallel := flag.Int("parallel", runtime.NumCPU(), "build and run this `number` of mutants at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *pattern, *parallel); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// run runs the mutants that match and prints a line for each, in the order of the list.
func run(ctx context.Context, out io.Writer, pattern string, parallel int) error {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	if parallel < 1 {
		return fmt.Errorf("-parallel %d: want 1 or more", parallel)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := bench{root: root, dir: dir}

	begin := time.Now()
	if v := b.try(ctx, "as-it-is", mutant{}); v.outcome != alive { // also fills the build cache
		return fmt.Errorf("the store as it is: %s\n%s", v.outcome, v.detail)
	}
	var chosen []mutant
	for _, m := range mutants {
		if match.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	bad := 0
	for i, v := range b.tryAll(ctx, chosen, parallel) {
		fmt.Fprintf(out, "%-14s %-72s %s\n", v.outcome, chosen[i].name, v.rule)
		if v.outcome != caught {
			bad++
			fmt.Fprint(out, v.detail)
		}
	}
	fmt.Fprintf(out, "%d of %d mutants caught in %.0f s\n", len(chosen)-bad, len(chosen), time.Since(begin).Seconds())
	if err := ctx.Err(); err != nil {
		return err
	}
	if bad != 0 || len(chosen) == 0 {
		return fmt.Errorf("%d of %d mutants were not caught by a rule", bad, len(chosen))
	}
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("run it in the root module: go list: %w", err)
	}
	return strings.TrimSpace(string(mod)), nil
}

// outcome is what became of a mutant.
type outcome string

const (
	caught  outcome = "caught"
	alive   outcome = "ALIVE"
	noBuild outcome = "DOES NOT BUILD"
	noText  outcome = "NO PATCH"
	panics  outcome = "PANICS"
	unnamed outcome = "NO RULE"
)

type verdict struct {
	outcome outcome
	rule    string // the first that failed, if caught
	detail  string // of what should not be, ends with a line feed
}

const (
	module = "github.com/manydevice/manydevice"
	broken = "store/memstore" // the package that is broken, with the tests that run the rules against it
	// Each rule is a subtest of one of these. Random histories are left out.
	suites    = "^(TestS74_Suite|TestS31_Leases)$"
	histories = "^TestS74_Suite$/^history:"
	// A mutant may make a rule wait for what never comes. All rules together take less than 10 s on a slow machine.
	patience = "60s"
)

// bench is where mutants are built and run.
type bench struct {
	root string // of the module
	dir  string // for files that nobody needs afterwards
}

// tryAll tries mutants, several at once, and returns a verdict for each.
func (b bench) tryAll(ctx context.Context, list []mutant, parallel int) []verdict {
	verdicts := make([]verdict, len(list))
	next := make(chan int)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for i := range next {
				verdicts[i] = b.try(ctx, fmt.Sprint(i), list[i])
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	workers.Wait()
	return verdicts
}

// try builds one mutant and runs the rules against it until one fails.
func (b bench) try(ctx context.Context, id string, m mutant) verdict {
	overlay, err := b.overlay(id, m)
	if err != nil {
		return verdict{outcome: noText, detail: err.Error() + "\n"}
	}
	binary := filepath.Join(b.dir, id+".test")
	defer os.Remove(binary)
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-ldflags=-s -w", "-o", binary, "./"+broken)
	build.Dir = b.root
	if out, err := build.CombinedOutput(); err != nil {
		return verdict{outcome: noBuild, detail: fmt.Sprintf("%s%v\n", out, err)}
	}
	test := exec.CommandContext(ctx, binary, "-test.run", suites, "-test.skip", histories, "-test.failfast", "-test.timeout", patience)
	test.Dir = filepath.Join(b.root, broken)
	out, err := test.CombinedOutput()
	return judge(string(out), err)
}

var failed = regexp.MustCompile(`(?m)^ +--- FAIL: \w+/(.+) \(`)

// judge reads the output of the rules.
func judge(out string, err error) verdict {
	rule := failed.FindStringSubmatch(out)
	switch {
	case err == nil:
		return verdict{outcome: alive}
	case strings.Contains(out, "panic: "):
		return verdict{outcome: panics, detail: out}
	case rule == nil:
		return verdict{outcome: unnamed, detail: fmt.Sprintf("%s%v\n", out, err)}
	}
	return verdict{outcome: caught, rule: strings.ReplaceAll(rule[1], "_", " ")}
}
