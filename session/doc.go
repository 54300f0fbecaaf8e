// Package session owns the life of logins: it admits them, attaches connections to them, lists them and ends them.
//
// Three things are kept apart. A device is one installed client, known by an ID that it keeps; it owns the place in the
// inbox. A login is one admission of a device; it holds a slot of the policy's quota and is known by a fresh login ID. A
// connection is a [transport.Conn] bound to a login; it comes and goes.
//
// # States
//
// A login is online while a connection is attached, away while that connection says that the app is in background,
// lingering for the resume window after the connection is gone, and offline after that. It holds its slot until it goes
// offline. It ends by logout, kick, eviction, expiry or removal of its device, and leaves a tombstone, so that the device
// learns the reason when it comes back. After a restart every login that held a slot lingers anew.
//
// # Steps
//
// Everything that changes an account is one step: read the record, decide, commit. Steps of one account queue; those of
// different accounts do not wait for each other. A step commits before anything is closed or told: if the store refuses,
// nothing has happened.
//
// # Ends
//
// After a commit that ends a login, its connection is fenced: no Send begins any more, and a running one is waited for,
// a second at most. Then the host's revoke hook runs, then the connection is closed. When Kick returns, all this is done.
//
// # Concurrency and errors
//
// A [Registry] and its [Connection]s are safe for concurrent use. No host code (hooks, watchers, Send, Close) is called
// with a lock held or inside a step, so it may call back. Input is checked first; a bad field is an
// [*event.InvalidError] and nothing is written. A login that policy turns down is a [*RefusedError], a resume of an ended
// login an [*EndedError].
package session
