// Command mdfile looks at the file of a boltstore while no process has it open, or at a backup of one, and makes new files of them.
// It never changes the file that it is given, and prints no secrets.
//
//	mdfile info FILE                 what the file is: schema, incarnation, sizes, rows by table, state of the log
//	mdfile verify FILE               all that is damaged, one line each; exit status 1 if there is anything
//	mdfile inspect FILE ACCOUNT      an account: head, cursors, counts, newest entries without their payloads
//	mdfile top [-n 20] FILE          the largest accounts, by bytes and by entries
//	mdfile dump [-payloads] FILE     all rows as JSON, one a line; without the bytes of payloads unless they are asked for
//	mdfile compact FILE NEW          a copy of a store, with full pages; use one of the two from then on, and never the other
//	mdfile salvage FILE NEW          all that can be read, also of a file that Open refuses, as a new store
//	mdfile restore BACKUP NEW        a store made of a backup
//
// Exit status: 0; 1: there is damage; 2: it could not be done.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const (
	exitDamage = 1
	exitFailed = 2
)

// errDamage: there is damage, and it was told.
var errDamage = errors.New("there is damage")

// command is one of the commands.
type command struct {
	args string // after the flags
	n    int    // how many
	run  func(context.Context, *tool, []string) error
}

var commands = map[string]command{
	"info":    {"FILE", 1, info},
	"verify":  {"FILE", 1, verify},
	"inspect": {"FILE ACCOUNT", 2, inspect},
	"top":     {"FILE", 1, top},
	"dump":    {"FILE", 1, dump},
	"compact": {"FILE NEW", 2, compact},
	"salvage": {"FILE NEW", 2, salvage},
	"restore": {"BACKUP NEW", 2, restore},
}

// names are those of the commands, in the order of the documentation.
var names = []string{"info", "verify", "inspect", "top", "dump", "compact", "salvage", "restore"}

// tool is what a command writes to, and its flags.
type tool struct {
	out      *bufio.Writer
	err      io.Writer
	most     int
	payloads bool
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		return usage(stderr)
	}
	c, ok := commands[args[0]]
	if !ok {
		return usage(stderr)
	}
	t := &tool{out: bufio.NewWriter(stdout), err: stderr}
	flags := flag.NewFlagSet("mdfile "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	switch args[0] {
	case "top", "inspect":
		flags.IntVar(&t.most, "n", 20, "how many to show")
	case "dump":
		flags.BoolVar(&t.payloads, "payloads", false, "show the bytes of payloads and registers")
	}
	if err := flags.Parse(args[1:]); err != nil || flags.NArg() != c.n {
		fmt.Fprintf(stderr, "usage: mdfile %s %s\n", args[0], c.args)
		return exitFailed
	}
	err := c.run(ctx, t, flags.Args())
	err = errors.Join(err, t.out.Flush())
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errDamage):
		return exitDamage
	}
	fmt.Fprintln(stderr, "mdfile:", err)
	return exitFailed
}

func usage(w io.Writer) int {
	fmt.Fprintln(w, "usage:")
	for _, name := range names {
		fmt.Fprintf(w, "  mdfile %s %s\n", name, commands[name].args)
	}
	return exitFailed
}

// with calls f with an open file.
func with(path string, f func(*boltstore.File) error) error {
	file, err := boltstore.OpenFile(path, nil)
	if err != nil {
		return err
	}
	return errors.Join(f(file), file.Close())
}

func info(ctx context.Context, t *tool, args []string) error {
	return with(args[0], func(f *boltstore.File) error {
		i, err := f.Info(ctx)
		if err != nil {
			return err
		}
		kind, log := "store", "closed: none is needed"
		if i.Backup {
			kind = "backup"
		} else if !i.Closed {
			log = fmt.Sprintf("not closed: %d bytes, %d rows that are not in the file", i.LogSize, i.LogRows)
		}
		fmt.Fprintf(t.out, "%s, schema %d, incarnation %d\n", kind, i.Schema, i.Incarnation)
		fmt.Fprintf(t.out, "size %d bytes, of which %d are free\nlog %s\n", i.Size, i.Free, log)
		for _, table := range i.Tables {
			fmt.Fprintf(t.out, "%-8s %10d rows %14d bytes\n", table.Name, table.Rows, table.Bytes)
		}
		return nil
	})
}

func verify(ctx context.Context, t *tool, args []string) error {
	findings := 0
	tell := func(f boltstore.Finding) {
		findings++
		fmt.Fprintln(t.out, f)
	}
	file, err := boltstore.OpenFile(args[0], tell)
	if err != nil {
		if findings > 0 {
			fmt.Fprintf(t.out, "%d findings; the rest was not looked at: save what is readable with mdfile salvage\n", findings)
			return errDamage
		}
		if errors.Is(err, boltstore.ErrCorrupt) {
			fmt.Fprintln(t.out, err)
			return errDamage
		}
		return err
	}
	done, err := file.Verify(ctx, tell)
	fmt.Fprintf(t.out, "%d pages, %d rows, %d accounts, %d messages: %d findings\n",
		done.Pages, done.Rows, done.Accounts, done.Messages, done.Findings)
	if err = errors.Join(err, file.Close()); err == nil && findings > 0 {
		return errDamage
	}
	return err
}

func inspect(ctx context.Context, t *tool, args []string) error {
	return with(args[0], func(f *boltstore.File) error {
		a, err := f.Account(ctx, event.Account(args[1]), t.most)
		if err != nil {
			return err
		}
		h := a.Head
		fmt.Fprintf(t.out, "account %q\nepoch %d, entries %d to %d, of which %d are left without a key, %d bytes\n",
			a.Account, h.Epoch, h.Trim+1, h.Seq, h.Entries, h.Bytes)
		fmt.Fprintf(t.out, "record: revision %d, %d bytes\n", a.Revision, a.Record)
		fmt.Fprintf(t.out, "%d conversations with counts, %d registers, %d idempotency records\n", a.Conversations, a.States, a.Attempts)
		for _, c := range a.Cursors {
			fmt.Fprintf(t.out, "device %d: at %d, sent %d\n", c.Incarnation, c.Seq, c.Sent)
		}
		for i := range a.Last {
			e := &a.Last[i]
			fmt.Fprintf(t.out, "entry %d: %s %s, message %s, conversation %q, from %q\n",
				e.Seq, e.Time.Format(time.RFC3339), e.Kind, e.ID, e.Conversation, e.From)
		}
		return nil
	})
}

func top(ctx context.Context, t *tool, args []string) error {
	return with(args[0], func(f *boltstore.File) error {
		byBytes, byEntries := largest{most: t.most}, largest{most: t.most}
		err := f.Accounts(ctx, func(a boltstore.AccountSize, err error) error {
			if err != nil {
				fmt.Fprintln(t.err, "mdfile:", err)
				return nil
			}
			byBytes.add(a, a.Bytes)
			byEntries.add(a, a.Entries)
			return nil
		})
		for _, l := range []struct {
			title string
			list  *largest
		}{{"by bytes", &byBytes}, {"by entries", &byEntries}} {
			fmt.Fprintln(t.out, l.title)
			for _, a := range l.list.accounts() {
				fmt.Fprintf(t.out, "%14d bytes %10d entries  %q\n", a.Bytes, a.Entries, a.Account)
			}
		}
		return err
	})
}

// largest keeps the largest accounts.
type largest struct {
	most int
	list []sized
}

type sized struct {
	boltstore.AccountSize
	by int64
}

func (l *largest) add(a boltstore.AccountSize, by int64) {
	l.list = append(l.list, sized{a, by})
	if len(l.list) > 2*max(l.most, 512) {
		l.accounts()
	}
}

// accounts returns them, the largest first.
func (l *largest) accounts() []sized {
	slices.SortStableFunc(l.list, func(a, b sized) int { return cmp.Compare(b.by, a.by) })
	l.list = l.list[:min(len(l.list), max(l.most, 0))]
	return l.list
}

func dump(ctx context.Context, t *tool, args []string) error {
	return with(args[0], func(f *boltstore.File) error {
		return f.Dump(ctx, t.out, boltstore.DumpOptions{Payloads: t.payloads})
	})
}

func compact(ctx context.Context, t *tool, args []string) error {
	return with(args[0], func(f *boltstore.File) error { return f.CopyTo(ctx, args[1]) })
}

func salvage(ctx context.Context, t *tool, args []string) error {
	done, err := boltstore.Salvage(ctx, args[0], args[1], func(f boltstore.Finding) { fmt.Fprintln(t.out, f) })
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%d accounts, %d entries, %d messages; %d findings, %d rows left out\n",
		done.Accounts, done.Entries, done.Messages, done.Findings, done.Dropped)
	return nil
}

func restore(ctx context.Context, _ *tool, args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	return boltstore.Restore(ctx, args[1], f)
}
