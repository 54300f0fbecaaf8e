package manydevice_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/manydevice/manydevice"

// listed is a package as go list says it.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	Standard                bool
}

// packages returns the module's packages and all that they need, with what the compiler has made of them.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,Standard", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	all := make(map[string]listed)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all[p.ImportPath] = p
	}
}

// fragments is what the blocks of the documents leave out: each may use it.
const fragments = `
import (
	"bufio"; "cmp"; "context"; "encoding/json"; "errors"; "flag"; "fmt"; "io"; "log"; "log/slog"; "net"; "os"; "os/signal"; "sync"
	"syscall"; "time"

	"` + module + `"; "` + module + `/event"; "` + module + `/fanout"; "` + module + `/policy"; "` + module + `/session"
	"` + module + `/session/sessionhttp"; "` + module + `/store"; "` + module + `/store/boltstore"
)

var (
	ctx    context.Context
	engine *manydevice.Engine
	st     *boltstore.Store

	counter interface{ With(name, value string) interface{ Set(float64) } }
)

func knownToCrash(event.MessageID) bool
func wake(fanout.PushDevice) error

// Of examples/embed, which the README does not show in full.
func (c *conn) readLine() ([]byte, error)
func (c *conn) reply(context.Context, map[string]any) error
func accept(net.Listener, func(*net.TCPConn))
func authentic(event.Account, string) bool
func conversation(a, b event.Account) event.ConversationID
func must[T any](T, error) T

var errTooLong error
`

var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// All Go code in README and docs compiles against what the engine is today. Declarations of one document are one package;
// statements are a function each.
func TestDocuments_GoBlocksCompile(t *testing.T) {
	exports := packages(t)
	documents, err := filepath.Glob("*.md")
	require.NoError(t, err)
	more, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	blocks := 0
	for _, name := range append(documents, more...) {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		found := goBlock.FindAllSubmatch(text, -1)
		require.Equal(t, strings.Count(string(text), "```go"), len(found), "%s: a block without an end", name)
		if len(found) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			source := "package document\n" + fragments
			for i, b := range found {
				blocks++
				source += asDeclarations(t, i, string(b[1]))
			}
			if !strings.Contains(source, "type conn ") {
				source += "type conn struct{}\n"
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
			require.NoError(t, err)
			var wrong []error
			cfg := types.Config{
				Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path].Export) }),
				Error: func(err error) {
					if e, ok := errors.AsType[types.Error](err); !ok || !e.Soft && e.Msg != "missing function body" { // soft: not used
						wrong = append(wrong, err)
					}
				},
			}
			_, _ = cfg.Check("document", fset, []*ast.File{file}, nil)
			require.Empty(t, wrong)
		})
	}
	require.Greater(t, blocks, 5)
}

// asDeclarations makes declarations of a block, which may be an expression or statements.
func asDeclarations(t *testing.T, n int, block string) string {
	t.Helper()
	parses := func(text string) bool {
		_, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+text, 0)
		return err == nil
	}
	for _, text := range []string{
		fmt.Sprintf("var _ = %s\n", block), block, fmt.Sprintf("func block%d() {\n%s\n}\n", n, block),
	} {
		if parses(text) {
			return text
		}
	}
	t.Fatalf("no Go:\n%s", block)
	return ""
}

var link = regexp.MustCompile(`\[\*?[A-Za-z_][A-Za-z0-9_./]*\]`)

// Every link in a package comment, and in that of all that is exported, leads to something (K14.9).
func TestComments_LinksResolve(t *testing.T) {
	for path, p := range packages(t) {
		if path != module && !strings.HasPrefix(path, module+"/") {
			continue
		}
		fset := token.NewFileSet()
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			require.NoError(t, err)
			files = append(files, f)
		}
		d, err := doc.NewFromFiles(fset, files, path, doc.AllDecls)
		require.NoError(t, err)
		comments := map[string]string{"package": d.Doc}
		for _, f := range d.Funcs {
			comments[f.Name] = f.Doc
		}
		for _, v := range append(d.Consts, d.Vars...) {
			comments[v.Names[0]] = v.Doc
		}
		for _, typ := range d.Types {
			comments[typ.Name] = typ.Doc
			for _, f := range append(typ.Funcs, typ.Methods...) {
				comments[typ.Name+"."+f.Name] = f.Doc
			}
		}
		for name, text := range comments {
			if i := strings.LastIndexByte(name, '.'); name != "package" && !(token.IsExported(name) && token.IsExported(name[i+1:])) {
				continue
			}
			for _, dead := range deadLinks(d, text) {
				t.Errorf("%s: %s: %s leads nowhere", path, name, dead)
			}
		}
	}
}

// deadLinks returns what looks like a link in a comment, and is not one for go doc.
func deadLinks(d *doc.Package, text string) (dead []string) {
	walk := func(all []comment.Text) {
		for _, t := range all {
			switch t := t.(type) {
			case comment.Plain:
				dead = append(dead, link.FindAllString(string(t), -1)...)
			case comment.Italic:
				dead = append(dead, link.FindAllString(string(t), -1)...)
			}
		}
	}
	var blocks func([]comment.Block)
	blocks = func(all []comment.Block) {
		for _, b := range all {
			switch b := b.(type) {
			case *comment.Paragraph:
				walk(b.Text)
			case *comment.Heading:
				walk(b.Text)
			case *comment.List:
				for _, i := range b.Items {
					blocks(i.Content)
				}
			}
		}
	}
	blocks(d.Parser().Parse(text).Content)
	return dead
}
