package session_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// said are texts that clients say of themselves, and what others are shown.
var said = []struct{ name, in, want string }{
	{"user agent", strings.Repeat("Mozilla/5.0 (X11) ", 10) + "x", strings.TrimSpace(strings.Repeat("Mozilla/5.0 (X11) ", 10)[:128])},
	{"isolates around it", "\u2068Ann's\u2069", "Ann's"},
	{"line end behind", "Pixel 9\r\n", "Pixel 9"},
	{"Chinese", strings.Repeat("手", 128), strings.Repeat("手", 53)},
	{"not UTF-8", "a\xffb", "a\uFFFDb"},
	{"control and override", "a\x00\u202eb", "ab"},
}

func allOf(text string) session.Description {
	return session.Description{Name: text, Model: text, OS: text, AppVersion: text, IP: text}
}

// TestK12_NoCosmeticTextRefusesALogin (K12.6): whatever a client calls itself, in every text and in every call that takes
// one, it is let in, and what the host and its other devices are shown is the cleaned text.
func TestK12_NoCosmeticTextRefusesALogin(t *testing.T) {
	for _, tt := range said {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				want, ctx := allOf(tt.want), w.t.Context()
				shown := func(what string, s session.Session) {
					require.Equal(w.t, want, s.Description, what)
				}
				q := request("ann", "a1", "ios")
				q.Description = allOf(tt.in)
				_, err := w.reg.DryRun(ctx, q)
				require.NoError(w.t, err)
				g, err := w.tryLogin(q)
				require.NoError(w.t, err)
				shown("Login", g.res.Session)
				shown("List", w.list("ann")[0])

				q.Device = "a2"
				other, err := w.reg.LoginReplacing(ctx, q, g.id)
				require.NoError(w.t, err)
				shown("LoginReplacing", other.Session)
				shown("victim", other.Victims[0].Session)
				peers, err := w.reg.Peers(ctx, "ann", "")
				require.NoError(w.t, err)
				require.Equal(w.t, tt.want, peers[0].Name)
				recent, err := w.reg.Recent(ctx, "ann")
				require.NoError(w.t, err)
				require.Equal(w.t, tt.want, recent[0].Name)
				require.Equal(w.t, tt.want, recent[0].IP)

				mine := allOf("old")
				q.Device, q.Description = "a3", mine
				g, err = w.tryLogin(q)
				require.NoError(w.t, err)
				mine = allOf(tt.in)
				c, err := w.reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: g.id, Token: g.token, Description: &mine}, new(wire))
				require.NoError(w.t, err)
				require.Equal(w.t, allOf(tt.in), mine, "the caller's stays as it is")
				s, err := w.reg.Get(ctx, "ann", g.id)
				require.NoError(w.t, err)
				shown("Attach", s)
				c.Detach()
			})
		})
	}
}

// TestK12_TextsAndExtensionFit (K12.6): whether a description is taken depends on the host's extension alone. What an
// extension leaves is the texts', in order; five texts of any length fit beside one of 224 bytes.
func TestK12_TextsAndExtensionFit(t *testing.T) {
	long := strings.Repeat("手", 400)
	inBubble(t, setup{}, func(w *world) {
		for _, tt := range []struct{ extension, name, ip int }{
			{0, 159, 159}, {224, 159, 159}, {225, 159, 159}, {229, 159, 159}, {300, 159, 87}, {600, 159, 0}, {900, 123, 0}, {1_024, 0, 0},
		} {
			q := request("ann", "a1", "ios")
			q.Description = allOf(long)
			q.Description.Extension = make([]byte, tt.extension)
			g, err := w.tryLogin(q)
			require.NoError(w.t, err, tt.extension)
			d := g.res.Session.Description
			require.Len(w.t, d.Extension, tt.extension)
			require.Len(w.t, d.Name, tt.name)
			require.Len(w.t, d.IP, tt.ip)
			require.LessOrEqual(w.t, len(d.Name)+len(d.Model)+len(d.OS)+len(d.AppVersion)+len(d.IP)+len(d.Extension), 1_024)
			for _, text := range []string{d.Name, d.Model, d.OS, d.AppVersion, d.IP} {
				require.True(w.t, utf8.ValidString(text))
			}
		}
		q := request("ann", "a1", "ios")
		q.Description.Extension = make([]byte, 1_025)
		_, err := w.tryLogin(q)
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, &event.InvalidError{Field: "description.extension", Reason: "1025 bytes, at most 1024"}, invalid)
	})
}

// TestK12_ACleanedTextIsNoChange (K12.6): a client that says the same unclean text at each attach costs no commit.
func TestK12_ACleanedTextIsNoChange(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		q := request("ann", "a1", "ios")
		q.Description = allOf("\u2068Pixel\u2069 9\n")
		g, err := w.tryLogin(q)
		require.NoError(w.t, err)
		before := w.stored("ann")
		c, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Token: g.token, Description: &q.Description}, new(wire))
		require.NoError(w.t, err)
		require.Equal(w.t, before, w.stored("ann"))
		c.Detach()
	})
}

// TestK12_NotesAreCleaned (K12.6): no kick, removal, ban or deletion fails for its note, and what the device is told is one
// line of at most 512 bytes.
func TestK12_NotesAreCleaned(t *testing.T) {
	unclean := "bye,\r\n\u2068Ann\u2069 " + strings.Repeat("手", 300) + "\n"
	want := "bye, Ann " + strings.Repeat("手", 167)
	require.Len(t, want, 510)
	for name, act := range map[string]func(w *world) error{
		"kick": func(w *world) error {
			return given(w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true, Note: unclean}))
		},
		"remove device": func(w *world) error {
			return w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1", Note: unclean})
		},
		"ban": func(w *world) error {
			return given(w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann", Note: unclean}))
		},
		"delete": func(w *world) error {
			return given(w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann", Note: unclean, Refuse: true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				g := w.join("ann", "a1", "ios")
				require.NoError(w.t, act(w))
				require.Equal(w.t, want, g.wire.ends()[0].Note)
			})
		})
	}
}
