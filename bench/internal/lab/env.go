package lab

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
)

// Environment describes what a run's numbers depend on, a line for each fact. dir is where its files are.
func Environment(dir string, modules ...string) []string {
	lines := []string{
		fmt.Sprintf("cpu: %s, %d cores", cpuModel(), runtime.NumCPU()),
		fmt.Sprintf("go: %s %s/%s, GOMAXPROCS %d", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0)),
		"files: " + fileSystem(dir),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		var found []string
		for _, d := range info.Deps {
			for _, want := range modules {
				if d.Path == want {
					found = append(found, strings.TrimPrefix(d.Path, "github.com/")+" "+d.Version)
				}
			}
		}
		lines = append(lines, "modules: "+strings.Join(found, ", "))
	}
	return lines
}

func cpuModel() string {
	name := "unknown"
	eachLine("/proc/cpuinfo", func(line string) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			name = strings.TrimSpace(value)
		}
	})
	return name
}

// fileSystem names the type of the file system of a folder: that of the longest mount point above it.
func fileSystem(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "unknown"
	}
	longest, kind := "", "unknown"
	eachLine("/proc/mounts", func(line string) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < len(longest) {
			return
		}
		if f[1] == "/" || dir == f[1] || strings.HasPrefix(dir, f[1]+"/") {
			longest, kind = f[1], f[2]
		}
	})
	return kind
}

func eachLine(path string, fn func(string)) {
	f, err := os.Open(path)
	if err != nil {
		return // not there on this system
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fn(lines.Text())
	}
}
