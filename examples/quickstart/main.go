// Quickstart is a small chat server over the engine, and its clients: TCP, one JSON object a line.
//
// Without flags it tells a story: it starts the server over a file in a temporary folder, drives it with clients over
// real connections, prints who got what, and checks itself. Any miss ends it with exit status 1.
//
//	go run ./examples/quickstart
//
// With -serve it runs as a server to talk to with netcat, or with its own client:
//
//	go run ./examples/quickstart -serve -addr 127.0.0.1:7400 -db chat.db
//	go run ./examples/quickstart -client -addr 127.0.0.1:7400 -account ann
//
// docs/protocol.md specifies what goes over the wire.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	storyTime    = 15 * time.Second // more means that something hangs
	shutdownTime = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run is main without the process around it.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(log)
	serving := flags.Bool("serve", false, "run the server; its address is the first line of the output")
	talking := flags.Bool("client", false, "run a client that is driven by lines of its input")
	addr := flags.String("addr", "127.0.0.1:0", "address to listen on, or to connect to; port 0 picks a free one")
	db := flags.String("db", "", "file of the server; empty: one in a temporary folder that is removed at the end")
	account := flags.String("account", "ann", "account of the client")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *serving && *talking {
		return errors.New("-serve and -client exclude each other")
	}
	if *talking {
		return talk(ctx, *addr, *account, in, out)
	}
	path, remove, err := fileFor(*db)
	if err != nil {
		return err
	}
	if *serving {
		err = serve(ctx, *addr, path, out, log)
	} else {
		err = tellStory(ctx, *addr, path, out)
	}
	return errors.Join(err, remove())
}

// fileFor returns the path to use, and what removes it again if nobody asked for it by name.
func fileFor(db string) (path string, remove func() error, err error) {
	if db != "" {
		return db, func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "quickstart-*")
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(dir, "chat.db"), func() error { return os.RemoveAll(dir) }, nil
}

// serve runs the server until ctx ends or its store fails.
func serve(ctx context.Context, addr, db string, out, log io.Writer) error {
	s, err := startServer(addr, db, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, s.addr())
	if err == nil {
		select {
		case <-ctx.Done():
		case <-s.engine.Failed():
			err = errors.New("the store can no longer be used: see the log, and start again")
		}
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	return errors.Join(err, s.close(closing))
}
