package boltstore_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests in flips_test.go, kill_test.go and fulldisk_linux_test.go attack a store from outside: through its exported methods
// and the bytes of its files alone. What may end the process runs in a child, which is this test binary again.

// childEnv makes the test binary a child: the name of what it does, and its arguments, separated by newlines.
const childEnv = "BOLTSTORE_CHILD"

// children are what a child process can do. A function returns only if something fails, or when it is done.
var children = map[string]func(args []string) error{"flips": flipsChild, "kill": killChild, "memory": memoryChild}

func TestMain(m *testing.M) {
	if v := os.Getenv(childEnv); v != "" {
		args := strings.Split(v, "\n")
		if err := children[args[0]](args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child returns a command that runs this test binary as a child. It is killed when ctx ends.
func child(ctx context.Context, name string, args ...any) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	var v strings.Builder
	v.WriteString(name)
	for _, a := range args {
		v.WriteString("\n" + fmt.Sprint(a))
	}
	cmd.Env = append(os.Environ(), childEnv+"="+v.String())
	return cmd
}

// memoryDir returns a folder that is removed after the test: in memory if the system has such a place, so that a sync costs
// nothing. The end of a process is no different there.
func memoryDir(tb testing.TB) string {
	tb.Helper()
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "boltstore-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(dir)) })
	return dir
}

// storeFiles returns the names of a store's files: those that begin with its path.
func storeFiles(path string) ([]string, error) { return filepath.Glob(path + "*") }

// filesSize is how long a store's files are together.
func filesSize(path string) (total int64, err error) {
	names, err := storeFiles(path)
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		total += st.Size()
	}
	return total, err
}

// tried runs f, whose requirements end f alone, and returns what failed first.
func tried(f func(t require.TestingT)) error {
	r := &recorder{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		defer func() {
			if v := recover(); v != nil && v != any(r) {
				r.err = fmt.Errorf("panic: %v", v)
			}
		}()
		f(r)
	}()
	<-r.done
	return r.err
}

// recorder is a require.TestingT that keeps the first failure.
type recorder struct {
	err  error
	done chan struct{}
}

func (r *recorder) Errorf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *recorder) FailNow() { panic(r) }
