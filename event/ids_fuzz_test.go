package event_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// FuzzAddress checks that what is read as an address prints as it was, and that a parsed platform parses to itself.
func FuzzAddress(f *testing.F) {
	login := "7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o"
	for _, s := range []string{"", "/", "ann/" + login, "a/b/" + login, "ann/" + strings.ToUpper(login), "\xff/" + login, "ann", "iOS", "x.y_z-1", "ı"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := event.ParseAddress(s); err == nil {
			require.Equal(t, s, a.String())
			require.NoError(t, a.Account.Validate())
			require.NoError(t, a.Login.Validate())
		}
		if p, err := event.ParsePlatform(s); err == nil {
			require.Equal(t, strings.ToLower(s), string(p))
			again, err := event.ParsePlatform(string(p))
			require.NoError(t, err)
			require.Equal(t, p, again)
		}
	})
}

// FuzzNames checks that what is accepted as an identifier or a name is within the bounds of docs/protocol.md.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", strings.Repeat("é", 64), strings.Repeat("👋", 128), "a\u0085", "\u202e", "\u200e", "\xff", "\U000E0001", ".", "..", "a/../b", "a/.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		bad := !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
			return r < 0x20 || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
		})
		dots := strings.Contains("/"+s+"/", "/./") || strings.Contains("/"+s+"/", "/../")
		require.Equal(t, !bad && !dots && s != "" && len(s) <= 128, event.CheckID("id", s) == nil)
		require.Equal(t, !bad && utf8.RuneCountInString(s) <= 128, event.CheckName("name", s) == nil)
		letters := !strings.ContainsFunc(s, func(r rune) bool {
			return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
		})
		require.Equal(t, letters && !dots && s != "" && len(s) <= 64, event.Kind(s).Validate() == nil)
	})
}

// FuzzKeys checks that the subject comes back out of a coalesce key, and that keys of different subjects differ.
func FuzzKeys(f *testing.F) {
	f.Add("room", "star", "room", "flag")
	f.Add("", "", "a", "b")
	f.Add("room", "uq2b7h3k5m6n4p2r7s3t5v6w4x", "room", "uq2b7h3k5m6n4p2r7s3t5v6w4x reaction")
	kinds, err := event.NewRegistry()
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, conversation, subject, conversation2, subject2 string) {
		for _, s := range []string{conversation, subject, conversation2, subject2} {
			if s != "" && event.CheckID("field", s) != nil {
				return // no such key is ever made
			}
		}
		info := kinds.Info(event.KindConversationMark)
		key := info.CoalesceKey(event.ConversationID(conversation), subject)
		same := conversation == conversation2 && subject == subject2
		require.Equal(t, same, key == info.CoalesceKey(event.ConversationID(conversation2), subject2))
		st, ok := info.State(&event.Entry{Key: key})
		require.True(t, ok)
		name := "mark"
		if subject != "" {
			name += ":" + subject
		}
		require.Equal(t, name, st.Name)
		require.Equal(t, event.MessageID(subject), event.ReplacedMessage(event.ReplacementKey(event.ConversationID(conversation), event.MessageID(subject))))
		require.Empty(t, event.ReplacedMessage(key))
	})
}

// FuzzStates checks that no payload or key makes the registers of an entry anything but registers with the entry's number.
func FuzzStates(f *testing.F) {
	for _, payload := range []string{
		`{"seq":"116","message":"m","ordinal":"3"}`, `{"seq":"120","private":true,"marks":[{"conversation":"c","ordinal":"4"}]}`,
		`{"seq":-1}`, `{"marks":[{}]}`, `[]`, ``, `{"login":"l","time":"9223372036854775807"}`,
	} {
		for i := range byte(5) {
			f.Add(i, payload, "mark\nstar\nc")
		}
	}
	kinds, err := event.NewRegistry()
	require.NoError(f, err)
	all := []event.Kind{
		event.KindConversationRead, event.KindConversationClearUnread, event.KindConversationClearAllUnread, event.KindConversationMark,
		event.KindMessage,
	}
	f.Fuzz(func(t *testing.T, kind byte, payload, key string) {
		e := &event.Entry{Kind: all[int(kind)%len(all)], Seq: 7, Conversation: "c", Key: key, Payload: []byte(payload)}
		for _, s := range kinds.States(e) {
			require.EqualValues(t, 7, s.Seq)
			if e.Kind == event.KindConversationMark {
				require.True(t, s.Name == "mark" || strings.HasPrefix(s.Name, "mark:"))
				continue
			}
			require.Contains(t, []string{event.StateRead, event.StateReadPrivate}, s.Name)
			require.Equal(t, string(event.OrdinalValue(s.Ordinal())), string(s.Value))
		}
		var d event.DeviceChange
		if json.Unmarshal([]byte(payload), &d) != nil {
			return
		}
		line, err := json.Marshal(d)
		require.NoError(t, err)
		var again event.DeviceChange
		require.NoError(t, json.Unmarshal(line, &again))
		require.Equal(t, d, again)
	})
}
