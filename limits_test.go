package manydevice_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

const (
	day     = 24 * time.Hour
	longest = 100 * 365 * day
)

// limit is what a field may be.
type limit struct {
	floor, ceiling int64
	zero, negative bool   // these mean something of their own
	free           string // why there is no rule; the rest is not set then
}

func span(floor, ceiling time.Duration) limit {
	return limit{floor: int64(floor), ceiling: int64(ceiling)}
}
func num(floor, ceiling int64) limit { return limit{floor: floor, ceiling: ceiling} }
func free(why string) limit          { return limit{free: why} }

// zeroed and off are for fields where zero, which means the default or nothing, and negative values are valid.
func (l limit) zeroed() limit { l.zero = true; return l }
func (l limit) off() limit    { l.negative = true; return l }

var anything = num(math.MinInt64, math.MaxInt64)

// limited is a config or request with the limits of its fields.
type limited struct {
	value  any // of its type, with what it needs beside the field
	prefix string
	fields map[string]limit
	try    func(t *testing.T, s *limitScene, v any) error // nil: all its fields are free
}

// limitScene is an engine that requests are made of.
type limitScene struct {
	st     *memstore.Store
	engine *manydevice.Engine
	login  *session.LoginResult

	alone      *session.Registry // without fan-out
	aloneLogin *session.LoginResult
}

// TestLimits_EveryDurationAndSize: each duration and each number of each exported config and request is held to a floor and a
// ceiling, and the error names the field, the value with its unit, and the range (K20.7). A new field or type fails here until it
// has a row.
func TestLimits_EveryDurationAndSize(t *testing.T) {
	types := limitedTypes()
	require.ElementsMatch(t, exportedConfigs(t), slices.Collect(maps.Keys(types)), "each has a row")
	for name, c := range types {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openLimitScene(t)
			typ, seen := reflect.TypeOf(c.value), 0
			require.True(t, strings.HasSuffix(typ.String(), name[strings.IndexByte(name, '.')+1:]))
			for f := range typ.Fields() {
				if !f.IsExported() || !isAmount(f.Type) {
					continue
				}
				seen++
				l, ok := c.fields[f.Name]
				require.True(t, ok, "%s has no rule", f.Name)
				if l.free != "" {
					continue
				}
				for _, n := range l.values() {
					c.check(t, s, f, l, n)
				}
			}
			require.Len(t, c.fields, seen, "each rule has a field")
		})
	}
}

func openLimitScene(t *testing.T) *limitScene {
	t.Helper()
	s := &limitScene{st: memstore.New(memstore.Config{})}
	var err error
	s.engine, err = manydevice.Open(s.st, manydevice.Config{Session: session.Config{AttachesPerAccount: -1, AttachesPerSecond: -1}})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.engine.Close(context.Background()))
		require.NoError(t, s.st.Close(context.Background()))
	})
	s.login, err = s.engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
	require.NoError(t, err)

	st := memstore.New(memstore.Config{})
	s.alone, err = session.New(st, session.Config{AttachesPerAccount: -1, AttachesPerSecond: -1})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.alone.Close(context.Background()))
		require.NoError(t, st.Close(context.Background()))
	})
	s.aloneLogin, err = s.alone.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
	require.NoError(t, err)
	return s
}

// isAmount reports whether a field's type is that of a duration or a number. Other named types are enumerations.
func isAmount(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[int](), reflect.TypeFor[int64](), reflect.TypeFor[int32](),
		reflect.TypeFor[uint](), reflect.TypeFor[uint64](), reflect.TypeFor[uint32](), reflect.TypeFor[float64]():
		return true
	}
	return false
}

// values are those worth a try: a number without its unit, and what is next to the bounds.
func (l limit) values() []int64 {
	all := []int64{0, 1, 30, -1, -30, l.floor, l.ceiling, math.MaxInt64, math.MinInt64}
	if l.floor > math.MinInt64 {
		all = append(all, l.floor-1)
	}
	if l.ceiling < math.MaxInt64 {
		all = append(all, l.ceiling+1)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (l limit) takes(n int64) bool {
	return n >= l.floor && n <= l.ceiling || n == 0 && l.zero || n < 0 && l.negative
}

var rangeText = regexp.MustCompile(`^-?\d[^,]*, want \d.* to \d|^want `)

func (c *limited) check(t *testing.T, s *limitScene, f reflect.StructField, l limit, n int64) {
	t.Helper()
	v := reflect.New(reflect.TypeOf(c.value)).Elem()
	v.Set(reflect.ValueOf(c.value))
	v.FieldByIndex(f.Index).SetInt(n)
	err := c.try(t, s, v.Interface())
	what := fmt.Sprintf("%s %d", f.Name, n)
	if l.takes(n) {
		require.NoError(t, err, what)
		return
	}
	invalid, ok := errors.AsType[*event.InvalidError](err)
	require.True(t, ok, "%s: %v", what, err)
	require.True(t, strings.EqualFold(c.prefix+f.Name, invalid.Field), "%s: %s", what, invalid.Field)
	require.Regexp(t, rangeText, invalid.Reason, what)
	if f.Type == reflect.TypeFor[time.Duration]() && n > 0 && n < 1_000 {
		require.Contains(t, invalid.Reason, fmt.Sprintf("%dns, want ", n), what)
		require.Contains(t, invalid.Reason, fmt.Sprintf("%d*time.Second", n), what)
	}
}

// exportedConfigs returns the names of all exported struct types of ours that tune something or ask for something.
func exportedConfigs(t *testing.T) []string {
	t.Helper()
	var names []string
	wanted := regexp.MustCompile(`(Config|Request|Rules|Options|Harness)$|^(KindInfo|Group)$`)
	require.NoError(t, fs.WalkDir(source, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "internal" || slices.Contains([]string{"bench", "examples", "docs", ".git"}, path)):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(source, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, spec := range g.Specs {
				s := spec.(*ast.TypeSpec)
				if _, is := s.Type.(*ast.StructType); is && s.Name.IsExported() && wanted.MatchString(s.Name.Name) {
					names = append(names, file.Name.Name+"."+s.Name.Name)
				}
			}
		}
		return nil
	}))
	require.NotEmpty(t, names)
	return names
}
