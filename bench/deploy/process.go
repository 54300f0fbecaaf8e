package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// roleEnv holds what a process of ours is for.
const roleEnv = "MANYDEVICE_BENCH_DEPLOY"

// role is what a child process does: one of both.
type role struct {
	Server  *serverConfig  `json:",omitempty"`
	Clients *clientsConfig `json:",omitempty"`
}

// child does the work of a child process and reports whether this process is one.
func child() bool {
	order := os.Getenv(roleEnv)
	if order == "" {
		return false
	}
	var r role
	err := json.Unmarshal([]byte(order), &r)
	switch {
	case err != nil:
	case r.Server != nil:
		err = r.Server.serve()
	case r.Clients != nil:
		err = r.Clients.live()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
	return true
}

// process is a child process that answers questions, a line each.
type process struct {
	cmd   *exec.Cmd
	in    *json.Encoder
	out   *bufio.Scanner
	ended bool
}

// start starts a child and waits until it is ready.
func start(ctx context.Context, r role) (*process, error) {
	order, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self)}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), roleEnv+"="+string(order)), os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = json.NewEncoder(in), bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := p.answer(nil); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// ask asks a question and adds the answer to what into points at.
func (p *process) ask(question string, into any) error {
	if err := p.in.Encode(question); err != nil {
		return err
	}
	return p.answer(into)
}

func (p *process) answer(into any) error {
	if !p.out.Scan() {
		return errors.Join(errors.New("the child says nothing"), p.out.Err())
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(p.out.Bytes(), into)
}

// end sends a signal and waits until the process is gone.
func (p *process) end(s os.Signal) error {
	p.ended = true
	if err := p.cmd.Process.Signal(s); err != nil {
		return err
	}
	err := p.cmd.Wait()
	if s == syscall.SIGKILL {
		return nil
	}
	return err
}

func (p *process) kill() {
	if !p.ended {
		_ = p.end(syscall.SIGKILL)
	}
}

// answers is the child's side: it says that it is ready, then answers until its input ends.
func answers(answer func(question string) any) {
	out := json.NewEncoder(os.Stdout)
	if out.Encode("ready") != nil {
		return
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var q string
		if in.Decode(&q) != nil || out.Encode(answer(q)) != nil {
			return
		}
	}
}

// freeAddress returns an address on the loopback that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// listen waits for an address that the process before has just left.
func listen(addr string) (net.Listener, error) {
	var l net.Listener
	var err error
	for range 100 {
		if l, err = net.Listen("tcp", addr); err == nil {
			return l, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, err
}

// pause waits, or returns why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}
