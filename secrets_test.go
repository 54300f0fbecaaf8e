package manydevice_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/client"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// A token and a key to look for.
var (
	markerText  = strings.Repeat("q7", 26)
	markerToken = event.ResumeTokenOf(markerText)
	markerBytes = [32]byte([]byte(strings.Repeat("Zk", 16)))
	markerKey   = event.IDKeyOf(markerBytes)
)

// secretive are the exported types that hold a token or a key, or may hold one in what they point to.
var secretive = []reflect.Type{
	reflect.TypeFor[manydevice.Engine](),
	reflect.TypeFor[event.ResumeToken](), reflect.TypeFor[event.IDKey](), reflect.TypeFor[event.Welcome](),
	reflect.TypeFor[session.AttachRequest](), reflect.TypeFor[session.LoginResult](), reflect.TypeFor[session.Connection](),
	reflect.TypeFor[session.Registry](),
	reflect.TypeFor[sessionhttp.Handler](),
	reflect.TypeFor[fanout.AttachRequest](), reflect.TypeFor[fanout.Attachment](), reflect.TypeFor[fanout.Router](),
	reflect.TypeFor[store.Info](), reflect.TypeFor[memstore.Store](), reflect.TypeFor[boltstore.Store](), reflect.TypeFor[boltstore.File](),
	reflect.TypeFor[client.State](), reflect.TypeFor[client.Machine](),
	reflect.TypeFor[storetest.Faulty](), reflect.TypeFor[transporttest.Conn](), reflect.TypeFor[transporttest.Connection](),
	reflect.TypeFor[transporttest.Pair](), reflect.TypeFor[transporttest.Stream](), reflect.TypeFor[transporttest.AttachRequest](), reflect.TypeFor[transporttest.Device](),
	reflect.TypeFor[transporttest.DeviceConfig](), reflect.TypeFor[transporttest.Saved](),
}

// TestI24_NothingPrintsAToken (K10.5, K18.3, K18.8): each exported type that can reach a token or the ID key is filled
// with one wherever it has room, also in unexported fields, and shown by every verb, handler and encoder, alone and in
// what hosts put around it. A type that is not in the list fails the test.
func TestI24_NothingPrintsAToken(t *testing.T) {
	require.ElementsMatch(t, names(secretive), reachingSecrets(t), "the list is complete")
	for _, typ := range secretive {
		t.Run(typ.String(), func(t *testing.T) {
			v := reflect.New(typ)
			require.True(t, fill(v.Elem(), nil), "there is room for a secret, or the test proves nothing")
			for _, x := range []any{v.Interface(), v.Elem().Interface()} {
				requireHidden(t, x)
			}
		})
	}
	frames := []event.Frame{&event.Welcome{Token: markerToken}, event.Frame(&event.Welcome{Token: markerToken})}
	requireHidden(t, frames)
}

// TestI24_HostsOwnTypesPrintNoToken (K10.5): a host that keeps a token in a type of its own, whatever the field, has
// nothing to think of.
func TestI24_HostsOwnTypesPrintNoToken(t *testing.T) {
	type inner struct {
		token event.ResumeToken
		list  []event.ResumeToken
		keys  map[event.ResumeToken]event.ResumeToken
		any   any
		at    *event.ResumeToken
	}
	in := inner{markerToken, []event.ResumeToken{markerToken}, map[event.ResumeToken]event.ResumeToken{markerToken: markerToken}, markerToken, &markerToken}
	requireHidden(t, struct {
		inner
		Token event.ResumeToken
		Keys  map[event.ResumeToken]event.ResumeToken
		Any   any
		At    **event.ResumeToken
	}{in, markerToken, in.keys, in, new(&markerToken)})
}

// requireHidden looks for the markers in all that prints or logs a value.
func requireHidden(t *testing.T, v any) {
	t.Helper()
	type carrier struct {
		V any `json:"v"`
		p any
	}
	wrapped := []any{
		v, &v, []any{v}, [1]any{v}, map[string]any{"k": v}, carrier{v, v}, &carrier{v, v}, fmt.Errorf("x: %w", carried{v}),
		errors.Join(carried{v}), slog.GroupValue(slog.Any("g", v)), slog.AnyValue(v),
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%#q", "%x", "%X", "% x", "%d", "%c", "%U", "%b", "%o", "%t", "%e", "%p", "%T", "%80v", "%.90s", "%!"}
	for i, x := range wrapped {
		if i == 2 {
			verbs = verbs[:5] // what holds it makes no difference to the others
		}
		var out bytes.Buffer
		for _, verb := range verbs {
			fmt.Fprintf(&out, verb+"\n", x)
		}
		fmt.Fprintln(&out, x, fmt.Errorf("attach: %v", x))
		for _, h := range []slog.Handler{
			slog.NewTextHandler(&out, &slog.HandlerOptions{AddSource: true}), slog.NewJSONHandler(&out, nil),
			slog.NewTextHandler(&out, nil).WithGroup("a").WithAttrs([]slog.Attr{slog.Any("with", x)}),
			slog.NewJSONHandler(&out, nil).WithGroup("a").WithAttrs([]slog.Attr{slog.Any("with", x)}),
		} {
			slog.New(h).Info("m", "x", x, slog.Group("g", "in", x, slog.Group("h", "in", x)))
			slog.New(h).With("x", x).WithGroup("w").Info("m", "list", []any{x, map[string]any{"k": x}})
		}
		// Encoders fail for some of these. What counts is what they have written.
		if b, err := json.Marshal(x); err == nil {
			out.Write(b)
		}
		if b, err := json.MarshalIndent(x, "", " "); err == nil {
			out.Write(b)
		}
		fmt.Fprintln(&out, json.NewEncoder(&out).Encode(x), xml.NewEncoder(&out).Encode(x), encodeGob(&out, x))
		requireNone(t, out.String(), fmt.Sprintf("%T %d", v, i))
	}
}

// encodeGob is gob's Encode, which panics for some values that it cannot encode.
func encodeGob(w io.Writer, v any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return gob.NewEncoder(w).Encode(v)
}

// carried is an error of a host that says what it is about.
type carried struct{ about any }

func (c carried) Error() string { return fmt.Sprintf("about %+v", c.about) }

func requireNone(t *testing.T, text, how string) {
	t.Helper()
	for _, form := range secretForms() {
		if i := strings.Index(text, form); i >= 0 { // require.NotContains would print megabytes
			t.Fatalf("%s shows a secret:\n%s", how, text[max(i-200, 0):min(i+200, len(text))])
		}
	}
}

// secretForms are the markers as text, hexadecimal, base64 and lists of bytes.
var secretForms = sync.OnceValue(func() (all []string) {
	for _, secret := range [][]byte{[]byte(markerText), markerBytes[:]} {
		list := strings.Trim(fmt.Sprint(secret), "[]")
		all = append(all, string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), fmt.Sprintf("% x", secret),
			list, strings.ReplaceAll(list, " ", ","), base64.StdEncoding.EncodeToString(secret)[:40], fmt.Sprintf("%#v", secret)[7:90])
	}
	return all
})

// fill puts the markers wherever v has room for them, and reports whether it has.
func fill(v reflect.Value, outer []reflect.Type) (found bool) {
	if !v.CanSet() {
		v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
	}
	typ := v.Type()
	switch typ {
	case reflect.TypeFor[event.ResumeToken]():
		v.Set(reflect.ValueOf(markerToken))
		return true
	case reflect.TypeFor[event.IDKey]():
		v.Set(reflect.ValueOf(markerKey))
		return true
	case reflect.TypeFor[event.Frame]():
		v.Set(reflect.ValueOf(&event.Welcome{Token: markerToken}))
		return true
	case reflect.TypeFor[store.Store]():
		m := memstore.New(memstore.Config{})
		v.Set(reflect.ValueOf(m))
		return fill(reflect.ValueOf(m).Elem(), append(outer, typ))
	}
	if slices.Contains(outer, typ) || !reaches(typ) {
		return false
	}
	outer = append(slices.Clip(outer), typ)
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			found = fill(field, outer) || found
		}
	case reflect.Array:
		for i := range v.Len() {
			found = fill(v.Index(i), outer) || found
		}
	case reflect.Pointer:
		p := reflect.New(typ.Elem())
		if found = fill(p.Elem(), outer); found {
			v.Set(p)
		}
	case reflect.Slice:
		s := reflect.MakeSlice(typ, 1, 1)
		if found = fill(s.Index(0), outer); found {
			v.Set(s)
		}
	case reflect.Map:
		key, value := reflect.New(typ.Key()).Elem(), reflect.New(typ.Elem()).Elem()
		if found = fill(key, outer); fill(value, outer) || found {
			found = true
			v.Set(reflect.MakeMap(typ))
			v.SetMapIndex(key, value)
		}
	}
	return found
}

// reaches reports whether a type may lead to one that fill has a value for.
func reaches(typ reflect.Type) bool {
	if known, ok := reaching.Load(typ); ok {
		return known.(bool)
	}
	seen := map[reflect.Type]bool{}
	var look func(t reflect.Type) bool
	look = func(t reflect.Type) bool {
		switch t {
		case reflect.TypeFor[event.ResumeToken](), reflect.TypeFor[event.IDKey](), reflect.TypeFor[event.Frame](), reflect.TypeFor[store.Store]():
			return true
		}
		if seen[t] || t.PkgPath() != "" && !strings.HasPrefix(t.PkgPath(), "github.com/manydevice/") {
			return false
		}
		seen[t] = true
		switch t.Kind() {
		case reflect.Struct:
			return slices.ContainsFunc(slices.Collect(t.Fields()), func(f reflect.StructField) bool { return look(f.Type) })
		case reflect.Array, reflect.Pointer, reflect.Slice:
			return look(t.Elem())
		case reflect.Map:
			return look(t.Key()) || look(t.Elem())
		}
		return false
	}
	found := look(typ)
	reaching.Store(typ, found)
	return found
}

var reaching sync.Map // reflect.Type → bool

func names(all []reflect.Type) (out []string) {
	for _, t := range all {
		out = append(out, t.PkgPath()+"."+t.Name())
	}
	return out
}

// reachingSecrets returns the exported types of the module that can reach a secret through fields, elements, pointers and
// the store interface.
func reachingSecrets(t *testing.T) (all []string) {
	t.Helper()
	for _, p := range modulePackages(t) {
		for _, name := range p.Scope().Names() {
			o, ok := p.Scope().Lookup(name).(*types.TypeName)
			if !ok || !o.Exported() || o.IsAlias() || types.IsInterface(o.Type()) {
				continue
			}
			if n, ok := o.Type().(*types.Named); ok && n.TypeParams().Len() > 0 {
				continue // holds what it is made for, which counts where it is made
			}
			if r := (&reach{map[types.Type]bool{}}); r.can(o.Type()) {
				all = append(all, p.Path()+"."+name)
			}
		}
	}
	return all
}

// reach finds out whether a type can reach a secret. Each type is looked at once.
type reach struct{ seen map[types.Type]bool }

func (r *reach) can(t types.Type) bool {
	if r.seen[t] {
		return false
	}
	r.seen[t] = true
	return r.look(t)
}

func (r *reach) look(t types.Type) bool {
	switch t := t.(type) {
	case *types.Named:
		o := t.Obj()
		if o.Pkg() == nil {
			return false
		}
		switch o.Pkg().Path() + "." + o.Name() {
		case "github.com/manydevice/manydevice/event.ResumeToken", "github.com/manydevice/manydevice/event.IDKey",
			"github.com/manydevice/manydevice/event.Frame", "github.com/manydevice/manydevice/store.Store":
			return true
		}
		for a := range t.TypeArgs().Types() {
			if r.can(a) {
				return true
			}
		}
		return strings.HasPrefix(o.Pkg().Path(), "github.com/manydevice/") && !types.IsInterface(t) && r.can(t.Underlying())
	case *types.Alias:
		return r.can(types.Unalias(t))
	case *types.Struct:
		for f := range t.Fields() {
			if r.can(f.Type()) {
				return true
			}
		}
	case *types.Map:
		return r.can(t.Key()) || r.can(t.Elem())
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		return r.can(t.Elem())
	}
	return false
}

// modulePackages type-checks the packages of the module that hosts can import, from what the compiler has left of them.
func modulePackages(t *testing.T) (all []*types.Package) {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	require.NoError(t, err)
	files := map[string]string{}
	var ours []string
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		path, file, _ := strings.Cut(lines.Text(), "\t")
		files[path] = file
		if strings.HasPrefix(path, "github.com/manydevice/") && !strings.Contains(path, "/internal/") && !strings.Contains(path, "/examples/") {
			ours = append(ours, path)
		}
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(files[path]) })
	for _, path := range ours {
		p, err := imp.Import(path)
		require.NoError(t, err)
		all = append(all, p)
	}
	return all
}

// TestI24_NoIssuerPrintsItsKey (K18.8): neither the key nor what AES makes of it, whose first words are the key, is shown by
// what seals IDs.
func TestI24_NoIssuerPrintsItsKey(t *testing.T) {
	issuer := event.NewIssuer(markerKey)
	for _, v := range []any{issuer, &issuer, []*event.Issuer{issuer}, struct{ i *event.Issuer }{issuer}} {
		requireHidden(t, v)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
			for _, word := range []uint32{binary.BigEndian.Uint32(markerBytes[:]), binary.LittleEndian.Uint32(markerBytes[:])} {
				text := fmt.Sprintf(verb, v)
				require.NotContains(t, text, fmt.Sprint(word), verb)
				require.NotContains(t, text, fmt.Sprintf("%x", word), verb)
			}
		}
	}
}
