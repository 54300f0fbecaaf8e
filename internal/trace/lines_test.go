package trace_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// logged are the packages that write log lines, by their place in the tree.
var logged = []string{".", "session", "session/sessionhttp", "fanout", "store/boltstore", "store/boltstore/internal/kv", "store/memstore"}

// speaksFor are packages whose lines begin with the name of another one, which hosts know.
var speaksFor = map[string]string{"kv": "boltstore"}

// keys are what log lines may name. A new one needs a reason: hosts search and draw by them, so that one thing has one name.
var keys = []string{
	"account", "login", "device", "node", "platform", // whom it concerns
	"by",                               // the login that caused it
	"reason", "why", "cause", "detail", // why: event.Reason, session.Refusal, fanout.Cause, what fan-out says of a protocol error
	"hook", "took", "limit", "over", "tries", // of calls
	"connections", "count", "failed", "bytes", // how many
	"grace", "shared", "draining", "after", "repeated", "back", "spread",
	"epoch", "seq", "attempts", "message", "conversation",
	"method", "action", "outcome", "role", "name", // of requests over HTTP
	"file", "max_size", "reserve", "room", "disk_room", "refused", "memory", "incarnation", "commits", "rows", "pages", "damaged", "mended", "mode", // of the file
}

// methods are those of a logger that write a line, with the place of the text among their arguments.
var methods = map[string]int{
	"Debug": 0, "Info": 0, "Warn": 0, "Error": 0, "DebugContext": 1, "InfoContext": 1, "WarnContext": 1, "ErrorContext": 1,
	"Log": 2, "LogAttrs": 2,
}

// source is a package as it is written.
type source struct {
	prefix string // what its lines begin with
	files  []*ast.File
	set    *token.FileSet
	// wrappers are functions that take the text of a line as a parameter of the name text, with its place.
	wrappers map[string]int
	faults   []string
}

// parse reads the files of a package, without tests.
func parse(t *testing.T, dir string) *source {
	t.Helper()
	s := &source{set: token.NewFileSet(), wrappers: map[string]int{}}
	names, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(s.set, name, nil, 0)
		require.NoError(t, err)
		s.files, s.prefix = append(s.files, f), cmp.Or(speaksFor[f.Name.Name], f.Name.Name)+": "
	}
	for before := -1; before < len(s.wrappers); { // one may hand the text to another
		before = len(s.wrappers)
		for _, f := range s.files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && parameter(fn, "text") >= 0 && s.writesText(fn) {
					s.wrappers[fn.Name.Name] = parameter(fn, "text")
				}
			}
		}
	}
	return s
}

// writesText reports whether a function writes its parameter text to the log, or makes it a part of what is written.
func (s *source) writesText(fn *ast.FuncDecl) (yes bool) {
	isText := func(e ast.Expr) bool {
		id, ok := e.(*ast.Ident)
		return ok && id.Name == "text"
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			yes = yes || isText(n.Key) && isText(n.Value)
		case *ast.CallExpr:
			at, ok := -1, false
			switch f := n.Fun.(type) {
			case *ast.SelectorExpr:
				if at, ok = methods[f.Sel.Name]; !ok || !isLogger(f.X) {
					at, ok = s.wrappers[f.Sel.Name]
				}
			case *ast.Ident:
				at, ok = s.wrappers[f.Name]
			}
			yes = yes || ok && at < len(n.Args) && isText(n.Args[at])
		}
		return true
	})
	return yes
}

// writes reports whether the package writes log lines at all.
func (s *source) writes() (yes bool) {
	for _, f := range s.files {
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok {
				if fn, ok := c.Fun.(*ast.SelectorExpr); ok {
					_, write := methods[fn.Sel.Name]
					yes = yes || write && isLogger(fn.X)
				}
			}
			return true
		})
	}
	return yes
}

// parameter returns the place of a parameter of a function, or -1.
func parameter(fn *ast.FuncDecl, name string) int {
	i := 0
	for _, field := range fn.Type.Params.List {
		for _, n := range field.Names {
			if n.Name == name {
				return i
			}
			i++
		}
	}
	return -1
}

// isLogger reports whether an expression is a logger, by its name: log, s.log, c.log(), cfg.Logger.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "log" || e.Name == "logger" || e.Name == "slog"
	case *ast.SelectorExpr:
		return e.Sel.Name == "log" || e.Sel.Name == "Logger"
	case *ast.CallExpr:
		switch fn := e.Fun.(type) {
		case *ast.SelectorExpr:
			return fn.Sel.Name == "log" || fn.Sel.Name == "With" && isLogger(fn.X)
		case *ast.Ident:
			return fn.Name == "log"
		}
	}
	return false
}

func (s *source) fault(n ast.Node, format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf("%s: ", s.set.Position(n.Pos()))+fmt.Sprintf(format, args...))
}

// text checks the text of a line.
func (s *source) text(e ast.Expr, in *ast.FuncDecl) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil || !strings.HasPrefix(text, s.prefix) || strings.TrimSpace(text) != text || len(text) <= len(s.prefix) {
			s.fault(e, "the text %s does not begin with %q", e.Value, s.prefix)
		}
		return
	case *ast.Ident:
		if in != nil && (e.Name == "text" && parameter(in, "text") >= 0 || s.literals(in, e.Name)) {
			return
		}
	case *ast.SelectorExpr:
		if e.Sel.Name == "text" { // of a struct literal, which is checked where it is made
			return
		}
	}
	s.fault(e, "the text of a log line is not constant")
}

// literals reports whether a variable of a function is only ever given constant texts, which it checks.
func (s *source) literals(in *ast.FuncDecl, name string) bool {
	found, all := false, true
	ast.Inspect(in, func(n ast.Node) bool {
		a, ok := n.(*ast.AssignStmt)
		if !ok {
			return true
		}
		for i, l := range a.Lhs {
			if id, ok := l.(*ast.Ident); ok && id.Name == name && len(a.Rhs) == len(a.Lhs) {
				found = true
				if _, ok := a.Rhs[i].(*ast.BasicLit); ok {
					s.text(a.Rhs[i], nil)
				} else {
					all = false
				}
			}
		}
		return true
	})
	return found && all
}

// pairs checks the attributes of a line. Those that a function or a variable brings are checked where they are made.
func (s *source) pairs(args []ast.Expr) {
	for i := 0; i < len(args); i++ {
		switch e := args[i].(type) {
		case *ast.BasicLit:
			s.key(e)
			i++ // its value
		case *ast.CallExpr, *ast.Ident, *ast.SelectorExpr: // an attribute, or a list of them
		default:
			s.fault(e, "neither a key nor an attribute")
		}
	}
}

func (s *source) key(e *ast.BasicLit) {
	key, err := strconv.Unquote(e.Value)
	switch {
	case err != nil:
		s.fault(e, "the key %s is no text", e.Value)
	case key == "err" || key == "error" || key == "stack":
		s.fault(e, "errors are shown by trace.Err, not as %q", key)
	case !slices.Contains(keys, key):
		s.fault(e, "the key %q is not among those that there are", key)
	}
}

// check looks at everything in a function, or outside of one, that writes or makes a part of a line.
func (s *source) check(n ast.Node, in *ast.FuncDecl) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			s.call(n, in)
		case *ast.KeyValueExpr:
			if k, ok := n.Key.(*ast.Ident); ok && k.Name == "text" {
				s.text(n.Value, in)
			}
		case *ast.CompositeLit: // a list of attributes: []any{"account", …}
			if a, ok := n.Type.(*ast.ArrayType); ok && len(n.Elts) > 0 {
				if id, ok := a.Elt.(*ast.Ident); ok && id.Name == "any" {
					s.pairs(n.Elts)
				}
			}
		}
		return true
	})
}

func (s *source) call(c *ast.CallExpr, in *ast.FuncDecl) {
	name := ""
	switch fn := c.Fun.(type) {
	case *ast.Ident:
		name = fn.Name
	case *ast.SelectorExpr:
		name = fn.Sel.Name
		if at, ok := methods[name]; ok && isLogger(fn.X) && len(c.Args) > at {
			s.text(c.Args[at], in)
			s.pairs(c.Args[at+1:])
			return
		}
		if id, ok := fn.X.(*ast.Ident); name == "With" && isLogger(fn.X) {
			s.pairs(c.Args)
			return
		} else if ok && id.Name == "slog" && len(c.Args) > 0 && (len(c.Args) == 2 || name == "Group") { // slog.String, slog.Group
			if key, ok := c.Args[0].(*ast.BasicLit); ok && key.Value != `""` {
				s.key(key)
			}
			if name == "Group" {
				s.pairs(c.Args[1:])
			}
			return
		}
	}
	if at, ok := s.wrappers[name]; ok && len(c.Args) > at {
		if lit, ok := c.Args[at].(*ast.BasicLit); ok {
			s.text(lit, in)
			if last := len(c.Args) - 1; last > at && !slices.Contains([]string{"hostCall"}, name) {
				s.rest(c.Args[at+1:])
			}
			return
		}
		s.text(c.Args[at], in)
	}
}

// rest checks what follows the text in a call of a wrapper: from the first key on.
func (s *source) rest(args []ast.Expr) {
	for i, a := range args {
		if lit, ok := a.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s.pairs(args[i:])
			return
		}
	}
}

// faultsIn returns what is wrong with the log lines of a package.
func faultsIn(s *source) []string {
	for _, f := range s.files {
		for _, d := range f.Decls {
			fn, _ := d.(*ast.FuncDecl)
			s.check(d, fn)
		}
	}
	return s.faults
}

// K20.4: the text of every log line is constant and begins with its package, so that it can be searched for and folded; a key
// has one spelling, and errors are shown in one way.
func TestLines_InTheSource(t *testing.T) {
	for _, dir := range logged {
		t.Run(dir, func(t *testing.T) { require.Empty(t, strings.Join(faultsIn(parse(t, dir)), "\n")) })
	}
}

// The test above finds what it is for.
func TestLines_FindsFaults(t *testing.T) {
	for line, want := range map[string]string{
		`log.Info("p: fine", "account", a, trace.Err(err))`: "",
		`r.log.Info("fine")`:                           `does not begin with "p: "`,
		`r.log.Info("p: fine "+what)`:                  "not constant",
		`r.log.Info(what)`:                             "not constant",
		`r.log.Warn("p: x", "acount", a)`:              `"acount" is not among those`,
		`r.log.Warn("p: x", "error", err)`:             "trace.Err",
		`c.log().Error("p: x", "err", err)`:            "trace.Err",
		`r.log.With("acount", a).Info("p: x")`:         `"acount"`,
		`cfg.Logger.Log(ctx, level, "x")`:              "does not begin",
		`slog.String("acount", a)`:                     `"acount"`,
		`warn("x", err)`:                               "does not begin",
		`warn("p: x", err, "acount", a)`:               `"acount"`,
		`_ = hostCall{text: "x"}`:                      "does not begin",
		`about = append(about, []any{"acount", a}...)`: `"acount"`,
	} {
		s := &source{set: token.NewFileSet(), prefix: "p: ", wrappers: map[string]int{"warn": 0}}
		f, err := parser.ParseFile(s.set, "p.go", "package p\nfunc f() {\n"+line+"\n}", 0)
		require.NoError(t, err)
		s.files = []*ast.File{f}
		got := strings.Join(faultsIn(s), "\n")
		if want == "" {
			require.Empty(t, got)
			continue
		}
		require.Contains(t, got, want, line)
	}
}

// No package of the engine writes lines and is left out above.
func TestLines_NoPackageIsLeftOut(t *testing.T) {
	root := filepath.Join("..", "..")
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		require.NoError(t, err)
		switch first, _, _ := strings.Cut(filepath.ToSlash(rel), "/"); first {
		case "bench", "examples", "internal", "docs", ".git", ".ci", ".github":
			return filepath.SkipDir
		}
		if slices.Contains(logged, filepath.ToSlash(rel)) {
			return nil
		}
		names, err := filepath.Glob(filepath.Join(path, "*.go"))
		require.NoError(t, err)
		if len(names) > 0 {
			require.False(t, parse(t, rel).writes(), "%s writes log lines", rel)
		}
		return nil
	}))
}
