// Package session owns the life of logins: it admits them, attaches connections to them, lists them and ends them.
//
// Three things are kept apart. A device is one installed client, known by an ID that it keeps; it owns the place in the
// inbox. A login is one admission of a device; it holds a slot of the policy's quota and is known by a fresh login ID. A
// connection is a [transport.Conn] bound to a login; it comes and goes.
//
// # Setting it up
//
// [New] makes a [Registry] over a store. Who may be there at once is [Config].Policy, made from policy.Rules: the example
// of [Registry.Login] (refused) sets up two phones, one tablet and browser tabs that share one login, and refuses the
// rest. Without a policy it is four logins on each platform, where the newest ends the earliest.
//
//	Login            admits a device and returns its login ID and resume token
//	LoginReplacing   the same, after a refusal: the user chose which logins go
//	Attach           binds a connection to a login; a device that was away comes back by it, with the token or by the
//	                 host's word
//	List, Get, Peers, Presence, Devices, Recent   what there is, and what was
//	Kick, Logout, RemoveDevice, Ban, DeleteAccount   what ends it
//	DryRun, SetPolicy, Enforce   what rules would do, and new ones, for the next login or for all at once
//	Subscribe        what happens, as it happens
//	Config.DecideLogin, DecidePolicy, DecideVictims, Revoke   where the host has a say
//	Inspect          all that is known of an account's logins and devices, as JSON
//	Drain, Close     before a deploy, and the end
//
// # States
//
// A login is online while a connection is attached, away while every connection says that its app is in background,
// lingering for the resume window after the connection is gone, and offline after that. It holds its slot until it goes
// offline. It ends by logout, kick, eviction, expiry, ban or removal of its device or account, and leaves a tombstone, so
// that the device learns the reason when it comes back. After a restart every login that held a slot lingers anew.
//
// # Tabs
//
// A login has one connection, and a newer one takes the place of the older, unless policy.Rules.Tabs allows more on its
// platform. Then connections that name different [AttachRequest].Tab values share the login: one slot, one place in the
// inbox, everything on each. The login is gone when the last of them is.
//
// # Resume tokens
//
// The token is the credential of a login; its ID is only an address. A token that was confirmed longer ago than
// Config.TokenRotation is replaced at an attach. The old one stays good until the device has shown that it has the new one,
// and each attach with it is handed the same new one. For 10 s after that the old one still gets a process in that has read
// it too early, and is handed the new one. If it is used later, two hold what one should: the login ends with reason
// token_reuse. The last 64 tokens of a login are known.
//
// A host that authenticates every connection, as MQTT servers do, needs no tokens: with [AttachRequest].Vouched it names the
// device, and attaches the login that the device has. That is an ordinary attach, not a login: nothing is written, and no
// other device hears of it.
//
// # Connections that take each other's place
//
// Of two connections of one login the newer one stays. The older one is closed with reason moved and the advice to come
// back after 2 s: an app whose notification extension has attached for a moment comes back. The delay doubles, up to 5 min,
// while two connections displace each other in turns, as those of two machines with a copied token do, and the host hears
// of it once ([ChangeContended]).
//
// # Steps
//
// Everything that changes an account is one step: read the record, decide, commit. Steps of one account queue; those of
// different accounts do not wait for each other. A step commits before anything is closed or told: if the store refuses,
// nothing has happened.
//
// The context of a call bounds all of that up to the commit: the wait for the turn, for the store's answer, for the host's
// and for another try. If it ends before, nothing was done. A commit that has begun is seen through.
//
// # Ends
//
// After a commit that ends a login, its connection is fenced: no Send begins any more, and the context of a running one is
// cancelled. Then the host's revoke hook runs, then the connection is closed, in its own time. When Kick returns, no Send
// can begin and the hook has run; it waits neither for a Send that runs nor for Conn.Close. Nor does an Attach or a Login
// that takes a connection's place. A connection on another node waits for the hook before it is closed, too.
//
// Ending a login is not forgetting its device: a device that was kicked goes on where it was when it logs in again.
// [Registry.RemoveDevice] forgets it, as Config.IdleDevice and Config.MaxDevices do by themselves. [Registry.Ban] keeps an
// account out, for a while or for good. [Registry.DeleteAccount] ends its logins and erases what is stored about it.
//
// # Storms
//
// Clients that are wrong or too many are turned away with a [*LimitedError] that says when to try again. The bounds are per
// account: logins (Config.LoginsPerMinute, for those that fail too), devices that evict each other in turns
// (Config.FlapLimit), attaches (Config.AttachesPerAccount). A client that uses up its part leaves the rest to its account's
// other clients, and an account that uses up its own takes nothing from other accounts. Only then comes the bound of the
// node, for crowds (Config.AttachesPerSecond). Where a node stops, [Registry.Drain] and Close tell each
// client when the next process, or another node, is there, as fast as that admits them all.
//
// # Watching
//
// [Registry.Subscribe] is the one way to watch: a bounded stream of changes, read by a goroutine of the host's. The engine
// never blocks on a slow subscriber, and a subscriber that falls behind is told how many changes it has lost. Changes of one
// account come in the order of its steps, each before the connections that it closes are waited for. Presence has room of its
// own, so that it never takes the place of an end, and of a client that goes to background and back all the time only a few
// changes are told. The account's own devices learn of each other's logins and ends by entries in their inbox, which are part
// of the step.
//
// # Hooks
//
// Where the host decides, it is asked outside the account's turn, for Config.HookTimeout at most. Its answer is used only if
// it still answers the question when the step commits, and if neither SetPolicy nor Enforce was called meanwhile. Otherwise it
// is asked again; an account that changes faster than the host answers is a [*ChangingError] in the end. If a hook does not
// answer, its [Fallback] says what happens: by default the call is refused with a [*HookError]. A hook that never returns for an
// account costs its time-out and a goroutine for each of 8 calls; from then on its fallback holds at once for that account, and
// [HookStats] counts that. All code of the host's is called in one way: a panic is an error, is logged with its stack, and is
// counted like one that fails or takes too long.
//
// # What is told
//
// [Registry.Stats] counts what was done, what was refused by which rule, and how logins and connections ended. What goes wrong is
// logged, with the account that it is about; so are the start and the end of the registry and of a drain, the failure of the
// store, and logins that others have ended. Lines of one text are folded when there are many. Each of these can be had
// without reading logs: see [Subscription] for changes of logins.
//
// # Several nodes
//
// With Config.Leases several registries serve the same accounts over one store, each under its own Config.Node. A login
// knows the node that it is attached on. A node that cannot renew its lease closes its connections before others count it
// as dead; the logins of a dead node linger and go offline as if they had lost their connections. Quotas, kicks and
// takeovers hold over all nodes, since each is a conditional write of the account's record. Rules are each node's own: new ones
// are set with SetPolicy on every node, and after that enforced with Enforce on every node, since a login that one node is
// about to commit is known to that node alone. Limits that are kept in memory, of attaches and failed logins, are per node.
// Config.Bus makes the other node act at once; without it, it finds out within a lease's life. Presence costs a write when a
// login comes or goes.
//
// # Time
//
// Connections, resume windows, leases and the limits that are kept in memory go by elapsed time, which nobody can set. Stored
// times, also those of the logins and evictions that limits count, are of the wall clock; one that is yet to come, because the
// clock was set back, makes nobody wait longer than one of now would. If the clock is set by more than a minute, or no engine
// used the store for more than an hour, nothing is ended or forgotten for its age until the registry has been up for
// Config.AgeGrace; [ChangeClockStepped] and [ChangeServerAway] tell.
// Absolute lifetimes and bans go by the wall clock. Among several nodes each takes over the grace of the others before it ends
// or forgets anything: it may be another node's clock that was set. While the store does not say whether they have one, nothing
// goes for its age; and a node whose clock was set tells the others before it changes an account by that clock.
//
// # Concurrency and errors
//
// A [Registry] and each [Connection] of it are safe for concurrent use. No host code (hooks, Send, Close) is called
// with a lock held or inside a step, so it may call back. The text of an error begins with the call that failed, such as
// "session: set primary: ". Input is checked first; a bad field is an [*event.InvalidError], which names it as the request
// or the parameter does, and nothing is written. A login that policy turns down is a [*RefusedError], one of a banned
// account a [*BannedError], one that comes too fast a [*LimitedError], one that a hook did not decide a [*HookError], one for
// which the account has no room a [*RecordFullError], and a resume of an ended login an [*EndedError].
// A resume with a wrong token or ID is [ErrUnknownLogin], whatever it is that is wrong. [event.ClosedOf] says of each error
// what to tell the client.
package session
