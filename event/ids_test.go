package event_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// hostile are texts that no identifier may be.
var hostile = []struct{ name, text string }{
	{"empty", ""},
	{"NUL", "a\x00b"},
	{"line end", "a\nb"},
	{"carriage return", "a\rb"},
	{"tab", "\t"},
	{"escape", "a\x1b[31mb"},
	{"delete", "a\x7f"},
	{"next line", "a\u0085b"},
	{"control of the upper half", "a\u009fb"},
	{"embedding from left", "\u202aa"},
	{"embedding from right", "\u202ba"},
	{"pop", "a\u202c"},
	{"override from left", "\u202da"},
	{"override from right", "gpj.\u202eexe"},
	{"isolate from left", "\u2066a"},
	{"isolate from right", "\u2067a"},
	{"isolate first strong", "\u2068a"},
	{"pop isolate", "a\u2069"},
	{"byte that is not UTF-8", "a\xff"},
	{"character cut short", "a\xe2\x80"},
	{"surrogate", "\xed\xa0\x80"},
	{"overlong", "\xc0\xaf"},
	{"dot", "."},
	{"two dots", ".."},
	{"dot behind a slash", "tenant/."},
	{"two dots before a slash", "../ban"},
	{"two dots between slashes", "a/../b"},
	{"too long", strings.Repeat("a", event.MaxIDBytes+1)},
	{"too long in bytes, not in characters", strings.Repeat("ä", event.MaxIDBytes/2+1)},
}

func TestIdentifiers_Validate(t *testing.T) {
	types := []struct {
		name  string
		field string
		check func(string) error
	}{
		{"account", "account", func(s string) error { return event.Account(s).Validate() }},
		{"device", "device", func(s string) error { return event.DeviceID(s).Validate() }},
		{"conversation", "conversation", func(s string) error { return event.ConversationID(s).Validate() }},
		{"client message ID", "client message ID", func(s string) error { return event.ClientMessageID(s).Validate() }},
		{"any", "cell", func(s string) error { return event.CheckID("cell", s) }},
	}
	good := []struct{ name, text string }{
		{"one character", "a"},
		{"with slashes", "tenant/ann/x"},
		{"a slash", "/"},
		{"slashes", "//"},
		{"three dots", "..."},
		{"dots in names", "a.b/..c/d../.e./x..y"},
		{"percent signs", "%2e%2e"},
		{"spaces", " ann b "},
		{"other script", "анна 你好 \U0001F44B"},
		{"plain direction marks", "a\u200e\u200f\u061c"},
		{"as long as may be", strings.Repeat("a", event.MaxIDBytes)},
		{"as long as may be, in bytes", strings.Repeat("ä", event.MaxIDBytes/2)},
	}
	for _, typ := range types {
		for _, tt := range good {
			t.Run(typ.name+"/"+tt.name, func(t *testing.T) { require.NoError(t, typ.check(tt.text)) })
		}
		for _, tt := range hostile {
			t.Run(typ.name+"/"+tt.name, func(t *testing.T) { requireInvalid(t, typ.check(tt.text), typ.field, tt.text) })
		}
	}
}

// requireInvalid checks the error's type and that it does not repeat the input.
func requireInvalid(t *testing.T, err error, field, input string) {
	invalid, ok := errors.AsType[*event.InvalidError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, field, invalid.Field)
	require.NotEmpty(t, invalid.Reason)
	require.Equal(t, "invalid "+field+": "+invalid.Reason, err.Error())
	if len(input) > 3 {
		require.NotContains(t, err.Error(), input)
	}
}

func TestCheckName(t *testing.T) {
	require.NoError(t, event.CheckName("name", ""))
	require.NoError(t, event.CheckName("name", strings.Repeat("\U0001F44B", event.MaxNameRunes)))
	requireInvalid(t, event.CheckName("name", strings.Repeat("x", event.MaxNameRunes+1)), "name", "xxxx")
	for _, tt := range hostile {
		if tt.text == "" || strings.HasPrefix(tt.name, "too long in") || strings.Contains(tt.name, "dot") {
			continue // names may be empty, are counted in characters, and stand in no path
		}
		t.Run(tt.name, func(t *testing.T) { requireInvalid(t, event.CheckName("name", tt.text), "name", tt.text) })
	}
}

func TestSecretsAndAddresses_Form(t *testing.T) {
	login := string(event.NewLoginID())
	token := event.NewResumeToken().Reveal()
	types := []struct {
		field string
		good  string
		check func(string) error
	}{
		{"login ID", login, func(s string) error { return event.LoginID(s).Validate() }},
		{"resume token", token, func(s string) error { return event.ResumeTokenOf(s).Validate() }},
	}
	for _, typ := range types {
		t.Run(typ.field, func(t *testing.T) {
			require.NoError(t, typ.check(typ.good))
			for _, bad := range []string{
				typ.good[1:], typ.good + "a", strings.ToUpper(typ.good), typ.good[1:] + "1", typ.good[1:] + "0", typ.good[1:] + "=",
				typ.good[1:] + " ", typ.good[1:] + "/", typ.good[2:] + "ä", typ.good[1:] + "\x00", typ.good[1:] + "8", typ.good[1:] + "{",
			} {
				requireInvalid(t, typ.check(bad), typ.field, bad)
			}
			for _, tt := range hostile {
				requireInvalid(t, typ.check(tt.text), typ.field, tt.text)
			}
		})
	}
}

// TestI24_FreshSecrets checks form and difference; that they carry 160 and 256 bits follows from their length.
func TestI24_FreshSecrets(t *testing.T) {
	const n = 2_000
	logins, tokens := map[event.LoginID]bool{}, map[event.ResumeToken]bool{}
	seen := map[byte]bool{}
	for range n {
		l, s := event.NewLoginID(), event.NewResumeToken()
		require.NoError(t, l.Validate())
		require.NoError(t, s.Validate())
		require.Len(t, string(l), 32)
		require.Len(t, s.Reveal(), 52)
		logins[l], tokens[s] = true, true
		for i := range len(l) {
			seen[l[i]] = true
		}
	}
	require.Len(t, logins, n)
	require.Len(t, tokens, n)
	require.Len(t, seen, 32, "all characters of the alphabet turn up")
}

// TestS14_ParsePlatform: unknown, empty and differently written platforms have one outcome each.
func TestS14_ParsePlatform(t *testing.T) {
	tests := []struct {
		name, in string
		want     event.Platform // "" for refused
	}{
		{"known", "ios", "ios"},
		{"capitals", "iOS", "ios"},
		{"all capitals", "ANDROID", "android"},
		{"all that is allowed", "aZ09._-", "az09._-"},
		{"unknown", "toaster-2", "toaster-2"},
		{"as long as may be", strings.Repeat("A", 32), event.Platform(strings.Repeat("a", 32))},
		{"empty", "", ""},
		{"too long", strings.Repeat("a", 33), ""},
		{"space", "ios ", ""},
		{"inner space", "i os", ""},
		{"slash", "ios/ipad", ""},
		{"Kelvin sign, which other lowerings take for a k", "\u212aios", ""},
		{"dotted capital I, which lowers to two characters", "\u0130os", ""},
		{"other script that looks alike", "і\u043es", ""},
		{"control", "ios\x00", ""},
		{"line end", "ios\n", ""},
		{"override", "\u202eios", ""},
		{"not UTF-8", "ios\xff", ""},
		{"dot", ".", ""},
		{"two dots", "..", ""},
		{"three dots", "...", "..."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := event.ParsePlatform(tt.in)
			require.Equal(t, tt.want, got)
			if tt.want == "" {
				requireInvalid(t, err, "platform", "")
				return
			}
			require.NoError(t, err)
			again, err := event.ParsePlatform(string(got))
			require.NoError(t, err)
			require.Equal(t, got, again)
		})
	}
}

// K12.4: a login of an account may be given by its ID or by its address.
func TestLoginID_Of(t *testing.T) {
	id := event.NewLoginID()
	for _, tt := range []struct {
		account event.Account
		given   event.LoginID
		reason  string // empty: it is meant
	}{
		{"ann", id, ""}, {"ann", "ann/" + id, ""}, {"acme/ann", "acme/ann/" + id, ""}, {"", id, ""},
		{"ann", "bob/" + id, "another account"}, {"ann", "acme/ann/" + id, "another account"}, {"acme/ann", "ann/" + id, "another account"},
		{"ann", "", "32 characters"}, {"ann", "ann", "32 characters"}, {"ann", "ann/", "32 characters"}, {"ann", "ann/" + id[1:], "32 characters"},
		{"", "/" + id, "32 characters"}, {"ann", "ann/" + id + "/", "32 characters"}, {"ann", "ann//" + id, "another account"},
	} {
		got, err := tt.given.Of(tt.account)
		if tt.reason == "" {
			require.NoError(t, err)
			require.Equal(t, id, got)
			continue
		}
		require.Empty(t, got)
		requireInvalid(t, err, "login ID", string(id))
		require.ErrorContains(t, err, tt.reason)
	}
}

func TestParseAddress(t *testing.T) {
	login := event.NewLoginID()
	tests := []struct {
		name, in string
		account  event.Account // "" for refused
		field    string
	}{
		{"plain", "ann/" + string(login), "ann", ""},
		{"slashes in the account", "tenant/a/ann/" + string(login), "tenant/a/ann", ""},
		{"account of a slash", "//" + string(login), "/", ""},
		{"account that looks like an address", "ann/" + string(login) + "/" + string(login), "", "account"},
		{"no slash", string(login), "", "address"},
		{"empty", "", "", "address"},
		{"no account", "/" + string(login), "", "account"},
		{"no login", "ann/", "", "login ID"},
		{"slash behind", "ann/" + string(login) + "/", "", "account"},
		{"bad account", "a\u202en/" + string(login), "", "account"},
		{"bad login", "ann/" + string(login[1:]), "", "login ID"},
		{"not UTF-8", "\xff/" + string(login), "", "account"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := event.ParseAddress(tt.in)
			if tt.account == "" {
				requireInvalid(t, err, tt.field, "")
				require.Zero(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, event.Address{Account: tt.account, Login: login}, got)
			require.Equal(t, tt.in, got.String())
		})
	}
}

// TestI24_TokensDoNotPrint goes through the ways in which a token could end up in a log.
func TestI24_TokensDoNotPrint(t *testing.T) {
	token := event.NewResumeToken()
	secret := token.Reveal()
	type outer struct {
		Token event.ResumeToken
		List  []event.ResumeToken
		Map   map[string]event.ResumeToken
		Keys  map[event.ResumeToken]int
		Any   any
		Frame event.Welcome
	}
	values := []any{
		token, &token, []event.ResumeToken{token}, map[event.ResumeToken]event.ResumeToken{token: token},
		struct{ T event.ResumeToken }{token}, &event.Welcome{Token: token}, event.Welcome{Token: token},
		outer{token, []event.ResumeToken{token}, map[string]event.ResumeToken{"a": token}, map[event.ResumeToken]int{token: 1},
			token, event.Welcome{Token: token}},
	}
	hexed := fmt.Sprintf("%x", secret)
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%60v", "%-5.90s", "%!", "%T"} {
			got := fmt.Sprintf(verb, v)
			require.NotContains(t, got, secret, verb)
			require.NotContains(t, strings.ToLower(got), hexed, verb)
		}
		require.NotContains(t, fmt.Sprint(v), secret)
		require.NotContains(t, fmt.Errorf("attach: %v", v).Error(), secret)
	}
	require.Equal(t, "[resume token]", token.String())
	require.Equal(t, "[resume token]", token.GoString())
	require.Equal(t, "[resume token]", token.LogValue().String())
	require.Equal(t, "[resume token] [resume token]", fmt.Sprintf("%s %d", token, token))
	require.NotContains(t, event.ResumeTokenOf(secret[1:]+"!").Validate().Error(), secret[1:])

	for _, handler := range []func(io.Writer) slog.Handler{
		func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("attach", "token", token, slog.Group("g", "t", token))
		require.NotContains(t, out.String(), secret)
		require.Equal(t, 2, strings.Count(out.String(), "[resume token]"))
	}
}
