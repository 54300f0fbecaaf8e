package event_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// catalogue lists what clients of the field know by name and code. It is kept apart from the
// registry, so that neither changes unnoticed.
var catalogue = []struct {
	name  event.Kind
	code  int
	style event.Style
}{
	{"contact.remove", 2, "same"},
	{"contact.accept", 3, "same"},
	{"contact.decline", 4, "same"},
	{"contact.block", 5, "same"},
	{"contact.unblock", 6, "same"},
	{"group.create", 10, "same"},
	{"group.destroy", 11, "same"},
	{"group.join", 12, "same"},
	{"group.leave", 13, "same"},
	{"group.apply", 14, "same"},
	{"group.applyAccept", 15, "same"},
	{"group.applyDecline", 16, "same"},
	{"group.invite", 17, "same"},
	{"group.inviteAccept", 18, "same"},
	{"group.inviteDecline", 19, "same"},
	{"group.kick", 20, "same"},
	{"group.ban", 21, "same"},
	{"group.allow", 22, "same"},
	{"group.block", 23, "same"},
	{"group.unblock", 24, "same"},
	{"group.assignOwner", 25, "same"},
	{"group.addAdmin", 26, "same"},
	{"group.removeAdmin", 27, "same"},
	{"group.mute", 28, "same"},
	{"group.unmute", 29, "same"},
	{"group.allowListAdd", 30, "same"},
	{"group.allowListRemove", 31, "same"},
	{"group.muteAll", 32, "same"},
	{"group.unmuteAll", 33, "same"},
	{"group.disabled", 34, "same"},
	{"group.enabled", 35, "same"},
	{"group.memberAttributes", 52, "multi"},
	{"thread.create", 40, "multi"},
	{"thread.destroy", 41, "multi"},
	{"thread.join", 42, "multi"},
	{"thread.leave", 43, "multi"},
	{"thread.update", 44, "multi"},
	{"thread.kick", 45, "multi"},
	{"conversation.pin", 60, "multi"},
	{"conversation.unpin", 61, "multi"},
	{"conversation.delete", 62, "multi"},
	{"conversation.mark", 63, "multi"},
	{"conversation.unmark", 63, "multi"},
	{"conversation.mute", 64, "multi"},
	{"conversation.unmute", 64, "multi"},
	{"conversation.clearUnread", 65, "multi"},
	{"conversation.clearAllUnread", 66, "multi"},
	{"history.delete", 0, "multi"},
	{"settings.silentMode", 0, "multi"},
}

// own are the engine's own kinds, kept apart for the same reason: what each of them must be for delivery to work.
var own = []struct {
	name            event.Kind
	family          event.Family
	durable, mirror bool
	unread, drop    bool
}{
	{"message", event.FamilyMessage, true, true, true, false},
	{"message.recall", event.FamilyMessage, true, true, false, false},
	{"message.edit", event.FamilyMessage, true, true, false, false},
	{"message.reaction", event.FamilyMessage, true, true, false, false},
	{"message.deleteForMe", event.FamilyMessage, true, true, false, false},
	{"receipt.delivered", event.FamilyReceipt, true, false, false, false},
	{"receipt.read", event.FamilyReceipt, true, false, false, false},
	{"conversation.read", event.FamilyConversation, true, true, false, false},
	{"conversation.unread", event.FamilyConversation, true, true, false, false},
	{"device.online", event.FamilyDevice, false, false, false, true},
	{"device.offline", event.FamilyDevice, false, false, false, true},
	{"device.login", event.FamilyDevice, true, true, false, false},
	{"device.ended", event.FamilyDevice, true, true, false, false},
	{"claim", event.FamilyClaim, true, true, false, false},
	{"typing", event.FamilyLive, false, false, false, true},
}

func newRegistry(t *testing.T, rows ...event.KindInfo) *event.Registry {
	r, err := event.NewRegistry(rows...)
	require.NoError(t, err)
	return r
}

func TestRegistry_HoldsTheCatalogue(t *testing.T) {
	r := newRegistry(t)
	for _, want := range catalogue {
		t.Run(string(want.name), func(t *testing.T) {
			require.True(t, r.Known(want.name))
			row := r.Info(want.name)
			require.Equal(t, want.name, row.Kind)
			require.Equal(t, want.code, row.Code)
			require.Equal(t, want.style, row.Style)
			require.Equal(t, strings.Split(string(want.name), ".")[0], string(row.Family))
			require.True(t, row.Durable && row.Mirrored && !row.Unread && !row.Droppable)
		})
	}
	for _, want := range own {
		t.Run(string(want.name), func(t *testing.T) {
			require.True(t, r.Known(want.name))
			row := r.Info(want.name)
			require.Equal(t, want.family, row.Family)
			require.Zero(t, row.Code)
			require.Equal(t, want.durable, row.Durable)
			require.Equal(t, want.mirror, row.Mirrored)
			require.Equal(t, want.unread, row.Unread)
			require.Equal(t, want.drop, row.Droppable)
		})
	}
	require.Len(t, r.Kinds(), len(catalogue)+len(own))
}

func TestRegistry_SharedCodesShareAGroup(t *testing.T) {
	r := newRegistry(t)
	byCode := map[int]event.KindInfo{}
	for _, k := range r.Kinds() {
		row := r.Info(k)
		if first, ok := byCode[row.Code]; ok && row.Code != 0 {
			require.NotEmpty(t, row.Coalesce, k)
			require.Equal(t, first.Coalesce, row.Coalesce, "%s undoes %s", k, first.Kind)
		}
		byCode[row.Code] = row
	}
}

func TestRegistry_OwnKinds(t *testing.T) {
	r := newRegistry(t,
		event.KindInfo{Kind: "acme.poll", Durable: true, Unread: true},
		event.KindInfo{Kind: "acme.cursor", Family: event.FamilyLive, Droppable: true, Coalesce: "cursor"})
	require.Equal(t, event.KindInfo{Kind: "acme.poll", Family: event.FamilyHost, Durable: true, Unread: true}, r.Info("acme.poll"))
	require.Equal(t, event.FamilyLive, r.Info("acme.cursor").Family)
	kinds := r.Kinds()
	require.Equal(t, []event.Kind{"acme.poll", "acme.cursor"}, kinds[len(kinds)-2:])

	kinds[0] = "changed"
	require.Equal(t, event.KindMessage, r.Kinds()[0], "Kinds returns a copy")
}

func TestRegistry_UnknownKind(t *testing.T) {
	r := newRegistry(t)
	require.False(t, r.Known("acme.poll"))
	require.Equal(t, event.KindInfo{Kind: "acme.poll", Family: event.FamilyHost, Durable: true, Mirrored: true}, r.Info("acme.poll"))
}

func TestRegistry_AllFaultsAtOnce(t *testing.T) {
	r, err := event.NewRegistry(
		event.KindInfo{Kind: "message"},
		event.KindInfo{Kind: ""},
		event.KindInfo{Kind: "a b"},
		event.KindInfo{Kind: "acme.both", Durable: true, Droppable: true},
		event.KindInfo{Kind: "acme.group", Coalesce: "a\nb"},
		event.KindInfo{Kind: "acme.good"},
		event.KindInfo{Kind: "acme.good"},
		event.KindInfo{Kind: "acme.live", Register: "x", Coalesce: "x"},
		event.KindInfo{Kind: "acme.alone", Register: "x", Durable: true},
		event.KindInfo{Kind: "acme.own", Register: "read", Durable: true, Coalesce: "x"},
		event.KindInfo{Kind: "acme.colon", Register: "a:b", Durable: true, Coalesce: "x"},
		event.KindInfo{Kind: "acme.name", Register: "a\nb", Durable: true, Coalesce: "x"},
		event.KindInfo{Kind: "acme.change", Change: "twist", Durable: true},
		event.KindInfo{Kind: "acme.edit", Change: event.ChangeReplace, Durable: true, Coalesce: "mine"},
		event.KindInfo{Kind: "acme.unread", Change: event.ChangeReplace, Durable: true, Unread: true},
	)
	require.Nil(t, r)
	require.ErrorContains(t, err, "event: registry: ")
	for _, part := range []string{`"message": registered twice`, `"": invalid kind`, `"a b": invalid kind`, `"acme.both": a durable`,
		`"acme.group": invalid coalesce group`, `"acme.good": registered twice`, `"acme.live": invalid register`,
		`"acme.alone": invalid register`, `"acme.own": invalid register`, `"acme.colon": invalid register`,
		`"acme.name": invalid register`, `"acme.change": invalid change`, `"acme.edit": invalid coalesce group: want edit`,
		`"acme.unread": invalid change`} {
		require.ErrorContains(t, err, part)
	}
	require.Equal(t, 13, strings.Count(err.Error(), "\n"))
}

func TestKind_Validate(t *testing.T) {
	good := []event.Kind{"a", "message", "A.b_c-9", event.Kind(strings.Repeat("k", event.MaxKindBytes))}
	for _, k := range good {
		require.NoError(t, k.Validate(), k)
	}
	bad := []event.Kind{"", "a b", "a/b", "ä", "a\n", "a\x00", "\u202ea", "\xff", "a:b", "a{", "a@", "a[", "a`", event.Kind(strings.Repeat("k", event.MaxKindBytes+1))}
	for _, k := range bad {
		requireInvalid(t, k.Validate(), "kind", "")
	}
}

func TestKindInfo_CoalesceKey(t *testing.T) {
	r := newRegistry(t)
	require.Empty(t, r.Info(event.KindMessage).CoalesceKey("room", "x"))

	keys := map[string]bool{}
	for _, k := range []event.Kind{event.KindConversationRead, event.KindConversationMark, event.KindConversationPin} {
		for _, conversation := range []event.ConversationID{"", "room", "room2", "star"} {
			for _, subject := range []string{"", "room", "star"} {
				keys[r.Info(k).CoalesceKey(conversation, subject)] = true
			}
		}
	}
	require.Len(t, keys, 3*4*3, "nothing supersedes what it must not")
	require.Equal(t, r.Info(event.KindConversationMark).CoalesceKey("room", "star"),
		r.Info(event.KindConversationUnmark).CoalesceKey("room", "star"), "what undoes an operation supersedes it")
	require.NotEqual(t, event.DeviceKey("a"), event.DeviceKey("b"))
}

func TestC22_Registers(t *testing.T) {
	r := newRegistry(t, event.KindInfo{Kind: "acme.draft", Durable: true, Coalesce: "draft", Register: "draft"})
	entry := func(k event.Kind, subject string, payload string) *event.Entry {
		return &event.Entry{Seq: 7, Kind: k, Conversation: "room", Key: r.Info(k).CoalesceKey("room", subject), Payload: []byte(payload)}
	}
	one := func(name string, number uint64, value string) []event.State {
		return []event.State{{Conversation: "room", Name: name, Number: number, Value: []byte(value), Seq: 7}}
	}
	require.Equal(t, one("pinned", 1, "{}"), r.States(entry(event.KindConversationPin, "", "{}")))
	require.Equal(t, one("pinned", 0, "{}"), r.States(entry(event.KindConversationUnpin, "", "{}")))
	require.Equal(t, one("mark:star", 1, ""), r.States(entry(event.KindConversationMark, "star", "")))
	require.Equal(t, one("draft", 1, "hel"), r.States(entry("acme.draft", "", "hel")))
	require.Empty(t, r.States(entry(event.KindMessage, "", "")))
	require.Empty(t, r.States(entry(event.KindConversationRead, "", "{")))
	require.Equal(t, one(event.StateReadPrivate, 5, "3"), r.States(entry(event.KindConversationClearUnread, "", `{"seq":"5","private":true,"ordinal":"3"}`)))
	all := r.States(entry(event.KindConversationClearAllUnread, "", `{"seq":"5","private":true,"marks":[{"conversation":"a","ordinal":"3"},{"conversation":"b","ordinal":"1"}]}`))
	require.Len(t, all, 2)
	require.Equal(t, event.State{Conversation: "b", Name: event.StateReadPrivate, Number: 5, Value: []byte("1"), Seq: 7}, all[1])
	require.EqualValues(t, 1, all[1].Ordinal())
	require.Zero(t, new(event.State).Ordinal())
}

// kindRows returns the registry as a table.
func kindRows(t *testing.T) [][]string {
	r := newRegistry(t)
	var rows [][]string
	for _, k := range r.Kinds() {
		i := r.Info(k)
		code := ""
		if i.Code != 0 {
			code = strconv.Itoa(i.Code)
		}
		rows = append(rows, []string{string(i.Kind), code, string(i.Family), string(i.Style), yes(i.Durable), yes(i.Mirrored), yes(i.Unread), yes(i.Droppable), i.Coalesce, register(i), string(i.Change)})
	}
	return rows
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func register(i event.KindInfo) string {
	switch {
	case i.Register == "":
		return ""
	case i.Off:
		return i.Register + " = 0"
	}
	return i.Register + " = 1"
}

var kindColumns = []string{"name", "code", "family", "style", "durable", "mirrored", "unread", "droppable", "coalesces", "register", "change"}

func TestKinds_Table(t *testing.T) {
	var out strings.Builder
	out.WriteString(strings.Join(kindColumns, "\t") + "\n")
	for _, row := range kindRows(t) {
		out.WriteString(strings.Join(row, "\t") + "\n")
	}
	requireFile(t, filepath.Join("testdata", "kinds.tsv"), out.String())
}

func TestKinds_Docs(t *testing.T) {
	var out strings.Builder
	out.WriteString(kindsIntro)
	fmt.Fprintf(&out, "| %s |\n|%s\n", strings.Join(kindColumns, " | "), strings.Repeat(" --- |", len(kindColumns)))
	for _, row := range kindRows(t) {
		row[0] = "`" + row[0] + "`"
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
	}
	requireFile(t, filepath.Join("..", "docs", "kinds.md"), out.String())
}

// requireFile compares a generated file with what it should be; -update writes it.
func requireFile(t *testing.T, path, want string) {
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "stale; run the tests of package event with -update")
}

const kindsIntro = `# Kinds of events

Written by the tests of package ` + "`event`" + ` from its registry (` + "`go test ./event -run Kinds -update`" + `); do not edit. A host adds
its own rows with ` + "`event.NewRegistry`" + `. A kind that is in no row passes through untouched, as durable and mirrored.

- *name*: what entries carry in the field ` + "`kind`" + `. Names never change.
- *code*: the number that EaseMob and Agora Chat clients use for it. Kinds that share a code are told apart by their name, and by
  ` + "`on`" + ` in the payload.
- *style*: how clients of that field present it. ` + "`same`" + `: under the ordinary event's name, told apart only by the sender being the own
  account. ` + "`multi`" + `: as a multi-device event with an operation name.
- *durable*: kept in the inbox; otherwise live-only.
- *mirrored*: goes to the other devices of the account that did it.
- *unread*: counts as unread for those who receive it.
- *droppable*: may be dropped under pressure.
- *coalesces*: name of the group within which a newer entry about the same subject supersedes the older one.
- *register*: the register of conversation state that it sets for the account that did it, and to what number; with a subject,
  a colon and the subject follow the name. The payload is its value.
- *change*: what it does to the message that it is about. ` + "`replace`" + `: takes its place. ` + "`remove`" + `: takes it away from everybody.
  ` + "`hide`" + `: from the account that did it only. ` + "`annotate`" + `: adds something to it.

`
