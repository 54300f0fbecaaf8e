package manydevice_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

var (
	source  = os.DirFS(".")
	evicted = event.Closed{Reason: event.EvictedQuota, Note: "n", Cause: &event.Cause{Device: "d"}, Retry: event.RetryNo}
	moved   = event.Moved.Closed(0)
)

// answers say for each exported error of these packages what ClosedOf makes of it. An error that stands for many is
// there once for each that makes a difference.
var answers = map[string][]struct {
	err  error
	want event.Closed // After 0 with RetryAfter: by chance
}{
	"event.InvalidError": {{&event.InvalidError{Field: "f", Reason: "r"}, event.ProtocolError.Closed(0)}},
	"event.FrameError":   {{&event.FrameError{}, event.ProtocolError.Closed(0)}},

	"session.ErrNotFound":      {{session.ErrNotFound, event.Unknown.Closed(0)}},
	"session.ErrUnknownLogin":  {{session.ErrUnknownLogin, event.Unknown.Closed(0)}},
	"session.ErrEnded":         {{session.ErrEnded, event.Unknown.Closed(0)}},
	"session.ErrRefused":       {{session.ErrRefused, event.RefusedQuota.Closed(0)}},
	"session.ErrProtected":     {{session.ErrProtected, event.RefusedQuota.Closed(0)}},
	"session.ErrLimited":       {{session.ErrLimited, event.RateLimited.Closed(0)}},
	"session.ErrBanned":        {{session.ErrBanned, event.Banned.Closed(0)}},
	"session.ErrFenced":        {{session.ErrFenced, event.Lost.Closed(0)}},
	"session.ErrNoLease":       {{session.ErrNoLease, event.LeaseLost.Closed(0)}},
	"session.ErrDraining":      {{session.ErrDraining, event.Shutdown.Closed(0)}},
	"session.StoppingError":    {{&session.StoppingError{RetryAfter: time.Minute, Err: session.ErrDraining}, event.Shutdown.Closed(time.Minute)}},
	"session.ErrClosed":        {{session.ErrClosed, event.Shutdown.Closed(0)}},
	"session.ErrListening":     {{session.ErrListening, event.Unavailable.Closed(0)}},     // of a host's own call
	"session.ErrTooManyParked": {{session.ErrTooManyParked, event.Unavailable.Closed(0)}}, // of a host's own call
	"session.RefusedError": {
		{&session.RefusedError{Rule: policy.RulePlatform}, event.RefusedQuota.Closed(0)},
		{&session.RefusedError{Rule: session.RuleReplace, RetryAfter: time.Hour}, event.RefusedQuota.Closed(0)},
	},
	"session.ProtectedError": {{&session.ProtectedError{Cause: policy.CausePrimary}, event.RefusedQuota.Closed(0)}},
	"session.LimitedError": {
		{&session.LimitedError{Reason: event.RateLimited, RetryAfter: time.Minute}, event.RateLimited.Closed(time.Minute)},
		{&session.LimitedError{Reason: event.Flapping, RetryAfter: time.Second}, event.Flapping.Closed(time.Second)},
	},
	"session.BannedError": {{
		&session.BannedError{Ban: session.Ban{Reason: event.AccountDeleted, Note: "bye"}},
		event.Closed{Reason: event.AccountDeleted, Note: "bye", Retry: event.RetryNo},
	}},
	"session.ErrHookFailed":   {{session.ErrHookFailed, event.Unavailable.Closed(0)}},
	"session.ErrChanging":     {{session.ErrChanging, event.Unavailable.Closed(0)}},
	"session.ErrRecordFull":   {{session.ErrRecordFull, event.RefusedQuota.Closed(0)}},
	"session.HookError":       {{&session.HookError{Hook: "DecideLogin", Err: store.ErrClosed, RetryAfter: time.Minute}, event.Unavailable.Closed(time.Minute)}},
	"session.ChangingError":   {{&session.ChangingError{RetryAfter: time.Minute}, event.Unavailable.Closed(time.Minute)}},
	"session.RecordFullError": {{&session.RecordFullError{Limit: 1}, event.RefusedQuota.Closed(0)}},
	"session.EndedError":      {{&session.EndedError{Why: evicted}, evicted}},
	"session.FencedError":     {{&session.FencedError{Why: moved}, moved}},

	"fanout.ErrClosed":         {{fanout.ErrClosed, event.Shutdown.Closed(0)}},
	"fanout.ErrDetached":       {{fanout.ErrDetached, event.Lost.Closed(0)}},
	"fanout.ErrUnknownMessage": {{fanout.ErrUnknownMessage, event.ProtocolError.Closed(0)}},
	"fanout.ErrUnknownTarget":  {{fanout.ErrUnknownTarget, event.ProtocolError.Closed(0)}},
	"fanout.ErrUnknownOrigin":  {{fanout.ErrUnknownOrigin, event.Unknown.Closed(0)}},
	"fanout.ProtocolError":     {{&fanout.ProtocolError{}, event.ProtocolError.Closed(0)}},
	"fanout.DetachedError":     {{&fanout.DetachedError{Why: evicted}, evicted}},

	"store.ErrNotFound":       {{store.ErrNotFound, event.Unavailable.Closed(0)}},
	"store.ErrConflict":       {{store.ErrConflict, event.Unavailable.Closed(0)}},
	"store.ErrUnknownOutcome": {{store.ErrUnknownOutcome, event.Unavailable.Closed(0)}},
	"store.ErrMismatch":       {{store.ErrMismatch, event.Unavailable.Closed(0)}},
	"store.ErrWindowFull":     {{store.ErrWindowFull, event.Unavailable.Closed(0)}},
	"store.ErrFull":           {{store.ErrFull, event.Unavailable.Closed(0)}},
	"store.ErrClosed":         {{store.ErrClosed, event.Unavailable.Closed(0)}},
	"store.ErrInUse":          {{store.ErrInUse, event.Unavailable.Closed(0)}},
	"store.ErrFailed":         {{store.ErrFailed, event.Unavailable.Closed(0)}},
	"store.ErrSchema":         {{store.ErrSchema, event.Unavailable.Closed(0)}},
	"store.ErrLeaseHeld":      {{store.ErrLeaseHeld, event.Unavailable.Closed(0)}},
	"store.ErrLeaseLost":      {{store.ErrLeaseLost, event.Unavailable.Closed(0)}},

	"transport.ErrGone":    {{transport.ErrGone, event.Unavailable.Closed(0)}},
	"transport.ErrUnknown": {{transport.ErrUnknown, event.Unavailable.Closed(0)}},
	"transport.ErrTaken":   {{transport.ErrTaken, event.Unavailable.Closed(0)}},
	"transport.ErrFull":    {{transport.ErrFull, event.Unavailable.Closed(0)}},
	"transport.SkipError":  {{&transport.SkipError{Seq: 1}, event.Unavailable.Closed(0)}},
	"transport.ErrClosed":  {{transport.ErrClosed, event.Unavailable.Closed(0)}},
}

// TestClosedOf_EveryErrorHasAnAnswer (K9.3): there is a stated answer for each exported sentinel and error type, alone,
// wrapped and joined, and none of them advises to wait without saying how long.
func TestClosedOf_EveryErrorHasAnAnswer(t *testing.T) {
	var found []string
	for _, pkg := range []string{"event", "session", "fanout", "store", "transport"} {
		found = append(found, exportedErrors(t, pkg)...)
	}
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, answers[name], "an answer is stated for it")
			for _, tt := range answers[name] {
				for _, err := range []error{
					tt.err, fmt.Errorf("x: attach: %w", tt.err), errors.Join(errors.New("y"), tt.err),
					fmt.Errorf("%w, then %w", errors.New("z"), tt.err),
				} {
					got := event.ClosedOf(err)
					if got.Retry == event.RetryAfter && tt.want.After == 0 {
						require.GreaterOrEqual(t, got.After, time.Second)
						require.LessOrEqual(t, got.After, 3*time.Second)
						got.After = 0
					}
					require.Equal(t, tt.want, got)
				}
			}
		})
	}
	require.Len(t, answers, len(found), "each is there")
}

// TestClosedOf_TheRest: nil tells nothing, and an error of unknown origin is no fault of the client's.
func TestClosedOf_TheRest(t *testing.T) {
	require.Zero(t, event.ClosedOf(nil))
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, errors.New("?"), fmt.Errorf("x: %w", context.Canceled)} {
		c := event.ClosedOf(err)
		require.Equal(t, event.Unavailable, c.Reason)
		require.Equal(t, event.RetryAfter, c.Retry)
		require.Positive(t, c.After)
	}
	require.Equal(t, event.Banned, event.ClosedOf(errors.Join(session.ErrBanned, session.ErrClosed)).Reason, "the first one counts")
	require.Equal(t, event.Banned, event.ClosedOf(fmt.Errorf("host: %w", hostError{})).Reason, "a host's own error says it, too")
	seen := map[time.Duration]bool{}
	for range 20 {
		seen[event.ClosedOf(session.ErrDraining).After] = true
	}
	require.Greater(t, len(seen), 10, "they do not all come back at once")
}

type hostError struct{}

func (hostError) Error() string        { return "banned by the host" }
func (hostError) Closed() event.Closed { return event.Banned.Closed(0) }

// exportedErrors returns the package's exported variables that begin with Err and types with an Error method.
func exportedErrors(t *testing.T, pkg string) []string {
	t.Helper()
	files := token.NewFileSet()
	var names []string
	entries, err := fs.Glob(source, pkg+"/*.go")
	require.NoError(t, err)
	for _, name := range entries {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(source, name)
		require.NoError(t, err)
		f, err := parser.ParseFile(files, name, text, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR {
						for _, id := range v.Names {
							if strings.HasPrefix(id.Name, "Err") {
								names = append(names, pkg+"."+id.Name)
							}
						}
					}
				}
			case *ast.FuncDecl:
				if d.Recv == nil || d.Name.Name != "Error" {
					continue
				}
				of := d.Recv.List[0].Type
				if p, ok := of.(*ast.StarExpr); ok {
					of = p.X
				}
				if id, ok := of.(*ast.Ident); ok && id.IsExported() {
					names = append(names, pkg+"."+id.Name)
				}
			}
		}
	}
	require.NotEmpty(t, names)
	return names
}
