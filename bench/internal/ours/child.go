package ours

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/bench/internal/lab"
)

// childEnv tells a process that it is one that will be killed: accounts, messages and path of the file.
const childEnv = "MANYDEVICE_BENCH_CHILD"

const ready = "ready"

// Child does the work of a child process and reports whether this process is one. Every main function calls it first.
func Child() bool {
	order := os.Getenv(childEnv)
	if order == "" {
		return false
	}
	if err := child(order); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func child(order string) error {
	var accounts, messages int
	var path string
	if _, err := fmt.Sscanf(order, "%d %d %s", &accounts, &messages, &path); err != nil {
		return err
	}
	cfg, err := Config()
	if err != nil {
		return err
	}
	st, err := OpenStore(path, 0)
	if err != nil {
		return err
	}
	engine, err := manydevice.Open(st, cfg)
	if err != nil {
		return err
	}
	e := &Engine{Engine: engine, Store: st}
	t := NewTraffic(accounts, Payload(64))
	send := func(n int) error {
		group, ctx := errgroup.WithContext(context.Background())
		for range 64 {
			group.Go(func() error {
				for t.Sent() < n {
					if err := t.Send(ctx, e); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return group.Wait()
	}
	if err := send(messages); err != nil {
		return err
	}
	fmt.Println(ready)
	return send(1 << 62) // until it is killed
}

// Killed has a child process send messages to a file's accounts and kills it in the middle of more.
func Killed(s *lab.Scene, path string, accounts, messages int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(s.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+strconv.Itoa(accounts)+" "+strconv.Itoa(messages)+" "+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line != ready+"\n" {
		err = fmt.Errorf("child says %q", line)
	}
	if err == io.EOF {
		err = errors.New("child ended early")
	}
	killed := cmd.Process.Kill()
	if waited := cmd.Wait(); waited == nil {
		err = errors.Join(err, errors.New("child was not killed"))
	}
	return errors.Join(err, killed)
}
