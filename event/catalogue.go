package event

// Kinds of operations on contacts, groups, threads, conversations, history and settings. An operation done on one device
// is mirrored to the account's other devices under the same name, with From equal to the account.
const (
	KindContactRemove              Kind = "contact.remove"
	KindContactAccept              Kind = "contact.accept"
	KindContactDecline             Kind = "contact.decline"
	KindContactBlock               Kind = "contact.block"
	KindContactUnblock             Kind = "contact.unblock"
	KindGroupCreate                Kind = "group.create"
	KindGroupDestroy               Kind = "group.destroy"
	KindGroupJoin                  Kind = "group.join"
	KindGroupLeave                 Kind = "group.leave"
	KindGroupApply                 Kind = "group.apply"
	KindGroupApplyAccept           Kind = "group.applyAccept"
	KindGroupApplyDecline          Kind = "group.applyDecline"
	KindGroupInvite                Kind = "group.invite"
	KindGroupInviteAccept          Kind = "group.inviteAccept"
	KindGroupInviteDecline         Kind = "group.inviteDecline"
	KindGroupKick                  Kind = "group.kick"
	KindGroupBan                   Kind = "group.ban"
	KindGroupAllow                 Kind = "group.allow"
	KindGroupBlock                 Kind = "group.block"
	KindGroupUnblock               Kind = "group.unblock"
	KindGroupAssignOwner           Kind = "group.assignOwner"
	KindGroupAddAdmin              Kind = "group.addAdmin"
	KindGroupRemoveAdmin           Kind = "group.removeAdmin"
	KindGroupMute                  Kind = "group.mute"
	KindGroupUnmute                Kind = "group.unmute"
	KindGroupAllowListAdd          Kind = "group.allowListAdd"
	KindGroupAllowListRemove       Kind = "group.allowListRemove"
	KindGroupMuteAll               Kind = "group.muteAll"
	KindGroupUnmuteAll             Kind = "group.unmuteAll"
	KindGroupDisabled              Kind = "group.disabled"
	KindGroupEnabled               Kind = "group.enabled"
	KindGroupMemberAttributes      Kind = "group.memberAttributes"
	KindThreadCreate               Kind = "thread.create"
	KindThreadDestroy              Kind = "thread.destroy"
	KindThreadJoin                 Kind = "thread.join"
	KindThreadLeave                Kind = "thread.leave"
	KindThreadUpdate               Kind = "thread.update"
	KindThreadKick                 Kind = "thread.kick"
	KindConversationPin            Kind = "conversation.pin"
	KindConversationUnpin          Kind = "conversation.unpin"
	KindConversationDelete         Kind = "conversation.delete"
	KindConversationMark           Kind = "conversation.mark"
	KindConversationUnmark         Kind = "conversation.unmark"
	KindConversationMute           Kind = "conversation.mute"
	KindConversationUnmute         Kind = "conversation.unmute"
	KindConversationClearUnread    Kind = "conversation.clearUnread"
	KindConversationClearAllUnread Kind = "conversation.clearAllUnread"
	KindHistoryDelete              Kind = "history.delete"
	KindSettingsSilentMode         Kind = "settings.silentMode"
)

// builtin is the registry: one row a kind.
var builtin = []KindInfo{
	{Kind: KindMessage, Family: FamilyMessage, Durable: true, Mirrored: true, Unread: true},
	{Kind: KindRecall, Family: FamilyMessage, Durable: true, Mirrored: true, Change: ChangeRemove},
	{Kind: KindEdit, Family: FamilyMessage, Durable: true, Mirrored: true, Change: ChangeReplace},
	{Kind: KindReaction, Family: FamilyMessage, Durable: true, Mirrored: true, Change: ChangeAnnotate},
	{Kind: KindDeleteForMe, Family: FamilyMessage, Durable: true, Mirrored: true, Change: ChangeHide},
	{Kind: KindDelivered, Family: FamilyReceipt, Durable: true, Coalesce: "delivered"},
	{Kind: KindRead, Family: FamilyReceipt, Durable: true, Coalesce: "readBy"},
	{Kind: KindConversationRead, Family: FamilyConversation, Durable: true, Mirrored: true, Coalesce: "read"},
	{Kind: KindConversationUnread, Family: FamilyConversation, Durable: true, Mirrored: true, Coalesce: "unread", Register: StateUnread},
	{Kind: KindDeviceOnline, Family: FamilyDevice, Droppable: true, Coalesce: "presence"},
	{Kind: KindDeviceOffline, Family: FamilyDevice, Droppable: true, Coalesce: "presence"},
	{Kind: KindDeviceLogin, Family: FamilyDevice, Durable: true, Mirrored: true, Coalesce: "device"},
	{Kind: KindDeviceEnded, Family: FamilyDevice, Durable: true, Mirrored: true, Coalesce: "device"},
	{Kind: KindClaim, Family: FamilyClaim, Durable: true, Mirrored: true, Coalesce: "claim"},
	{Kind: KindTyping, Family: FamilyLive, Droppable: true, Coalesce: "typing"},
	{Kind: KindContactRemove, Family: FamilyContact, Code: 2, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindContactAccept, Family: FamilyContact, Code: 3, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindContactDecline, Family: FamilyContact, Code: 4, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindContactBlock, Family: FamilyContact, Code: 5, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindContactUnblock, Family: FamilyContact, Code: 6, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupCreate, Family: FamilyGroup, Code: 10, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupDestroy, Family: FamilyGroup, Code: 11, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupJoin, Family: FamilyGroup, Code: 12, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupLeave, Family: FamilyGroup, Code: 13, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupApply, Family: FamilyGroup, Code: 14, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupApplyAccept, Family: FamilyGroup, Code: 15, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupApplyDecline, Family: FamilyGroup, Code: 16, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupInvite, Family: FamilyGroup, Code: 17, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupInviteAccept, Family: FamilyGroup, Code: 18, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupInviteDecline, Family: FamilyGroup, Code: 19, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupKick, Family: FamilyGroup, Code: 20, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupBan, Family: FamilyGroup, Code: 21, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupAllow, Family: FamilyGroup, Code: 22, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupBlock, Family: FamilyGroup, Code: 23, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupUnblock, Family: FamilyGroup, Code: 24, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupAssignOwner, Family: FamilyGroup, Code: 25, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupAddAdmin, Family: FamilyGroup, Code: 26, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupRemoveAdmin, Family: FamilyGroup, Code: 27, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupMute, Family: FamilyGroup, Code: 28, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupUnmute, Family: FamilyGroup, Code: 29, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupAllowListAdd, Family: FamilyGroup, Code: 30, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupAllowListRemove, Family: FamilyGroup, Code: 31, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupMuteAll, Family: FamilyGroup, Code: 32, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupUnmuteAll, Family: FamilyGroup, Code: 33, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupDisabled, Family: FamilyGroup, Code: 34, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupEnabled, Family: FamilyGroup, Code: 35, Style: StyleSame, Durable: true, Mirrored: true},
	{Kind: KindGroupMemberAttributes, Family: FamilyGroup, Code: 52, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindThreadCreate, Family: FamilyThread, Code: 40, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindThreadDestroy, Family: FamilyThread, Code: 41, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindThreadJoin, Family: FamilyThread, Code: 42, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindThreadLeave, Family: FamilyThread, Code: 43, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindThreadUpdate, Family: FamilyThread, Code: 44, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindThreadKick, Family: FamilyThread, Code: 45, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindConversationPin, Family: FamilyConversation, Code: 60, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "pin", Register: "pinned"},
	{Kind: KindConversationUnpin, Family: FamilyConversation, Code: 61, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "pin", Register: "pinned", Off: true},
	{Kind: KindConversationDelete, Family: FamilyConversation, Code: 62, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "delete", Register: "deleted"},
	{Kind: KindConversationMark, Family: FamilyConversation, Code: 63, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "mark", Register: "mark"},
	{Kind: KindConversationUnmark, Family: FamilyConversation, Code: 63, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "mark", Register: "mark", Off: true},
	{Kind: KindConversationMute, Family: FamilyConversation, Code: 64, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "mute", Register: "muted"},
	{Kind: KindConversationUnmute, Family: FamilyConversation, Code: 64, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "mute", Register: "muted", Off: true},
	{Kind: KindConversationClearUnread, Family: FamilyConversation, Code: 65, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "clearUnread"},
	{Kind: KindConversationClearAllUnread, Family: FamilyConversation, Code: 66, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindHistoryDelete, Family: FamilyHistory, Style: StyleMulti, Durable: true, Mirrored: true},
	{Kind: KindSettingsSilentMode, Family: FamilySettings, Style: StyleMulti, Durable: true, Mirrored: true, Coalesce: "silentMode", Register: "silentMode"},
}
