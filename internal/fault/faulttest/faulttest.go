// Package faulttest checks the texts of errors. Only tests import it.
package faulttest

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// Calls returns the exported functions and methods of the package in a directory whose last result is an error, such as
// "New" and "Registry.Login", sorted. The package is read as source, so that a new call is among them at once. Methods of
// errors and of types that are not exported are left out.
func Calls(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var all []string
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		f, err := parser.ParseFile(token.NewFileSet(), name, text, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			if d, ok := d.(*ast.FuncDecl); ok && d.Name.IsExported() && d.Name.Name != "Unwrap" && fails(d.Type) {
				all = append(all, receiver(d)+d.Name.Name)
			}
		}
	}
	all = slices.DeleteFunc(all, func(name string) bool { return !ast.IsExported(name) })
	slices.Sort(all)
	require.NotEmpty(t, all)
	return all
}

func fails(f *ast.FuncType) bool {
	if f.Results == nil || len(f.Results.List) == 0 {
		return false
	}
	id, ok := f.Results.List[len(f.Results.List)-1].Type.(*ast.Ident)
	return ok && id.Name == "error"
}

// receiver returns the type of a method with a dot behind it.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if p, ok := of.(*ast.StarExpr); ok {
		of = p.X
	}
	if g, ok := of.(*ast.IndexExpr); ok {
		of = g.X
	}
	if id, ok := of.(*ast.Ident); ok {
		return id.Name + "."
	}
	return "?."
}

// Begins requires an error whose text begins with package and call, each once.
func Begins(t testing.TB, err error, pkg, call, what string) {
	t.Helper()
	require.Error(t, err, "%s: %s", call, what)
	text := err.Error()
	head := pkg + ": " + call + ": "
	require.True(t, strings.HasPrefix(text, head), "%s: %s", what, text)
	require.Greater(t, len(text), len(head), what)
	require.Equal(t, 1, strings.Count(text, pkg+": "), "%s: the package is named once: %s", what, text)
	require.NotContains(t, strings.TrimPrefix(text, pkg+": "+call), " "+call+": ", "%s: the call is named once: %s", what, text)
}

// Names is Begins that also requires that a field is named, and the value, if it is long, is not.
func Names(t testing.TB, err error, pkg, call, field, value string) {
	t.Helper()
	Begins(t, err, pkg, call, field)
	bad, ok := errors.AsType[*event.InvalidError](err)
	require.True(t, ok, "%s: %v", field, err)
	require.Equal(t, field, bad.Field, "%v", err)
	require.Contains(t, err.Error(), "invalid "+field+": "+bad.Reason)
	if len(value) > 8 {
		require.NotContains(t, err.Error(), value)
	}
}

// IDs are no identifiers.
var IDs = []string{"", strings.Repeat("a", event.MaxIDBytes+1), "a\nb", "a\xffb", "a\u202eb", "..", "a/../b"}

// Accounts are none: no identifiers, and addresses of logins.
var Accounts = append(slices.Clone(IDs), "ann/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o", "acme/ann/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaz")

// Logins are neither login IDs nor addresses of logins of ann.
var Logins = append(slices.Clone(Secrets), "bob/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o", "ann/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6", "/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o")

// Secrets are neither login IDs nor resume tokens.
var Secrets = []string{"", "x", strings.Repeat("a", 31), strings.Repeat("a", 53), strings.Repeat("A", 32), strings.Repeat("A", 52), "a\nb"}

// Platforms are no platforms.
var Platforms = []string{"", strings.Repeat("a", event.MaxPlatformBytes+1), "i os", "iOS\n", "\xff", "a/b", "..", "ü"}

// Texts may not be shown to people.
var Texts = []string{"a\nb", "a\xffb", "a\u202eb"}
