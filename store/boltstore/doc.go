// Package boltstore is a [store.Store] in one file, for one process at a time.
//
// # Durability
//
// What a method answered is on disk: it survives the end of the process and of power. Callers that wait at the same time
// share one commit of the file, so that the rate of operations is not bound by that of the disk. There is no timer: a
// caller that is alone commits at once, in its own goroutine.
//
// # Failure
//
// After an error of a physical write the store fails for good: what was in that write gets an error that is both
// [store.ErrUnknownOutcome] and [store.ErrFailed], all that comes later [store.ErrFailed]. Close it and open it again. A
// row or page that cannot be read is reported as [ErrCorrupt]; met in the middle of a write, it fails the store as well.
//
// [Store.Stats] says how long commits take, what waits, how much room is left, and why the store has failed. Config.Logger gets
// a line when the store opens, when room runs out or comes back, at a failure, and at the end.
//
// # Layout
//
// A commit appends: payloads to one end of the file, all else to a journal, which is in memory too. A full window of the
// journal (64 MiB of memory, less for a small file) is folded in the background into a run of rows sorted by account, and
// runs are merged, in slices that leave most of the time to others. There are two windows at most: if the second is full as
// well, commits wait. After a crash Open reads what is left of the journal. Nothing is kept in memory of accounts that are in
// no window. [Store.Compact] does at once what is left to do.
//
// # Room
//
// Batches that append are refused with [store.ErrFull] before the file is full; what is kept back is for ends of logins,
// cursors and for making room. See [Config]. Room that Trim, Void or Delete gave back is used again without a restart.
// The file itself never shrinks.
//
// What was removed is reachable through no bucket any more. Its bytes may stay in free pages until these are used again.
//
// # Copies of the file
//
// [Store.Backup] copies the file while it is in use, and [Restore] puts a copy back. A copy made by other means, while the
// file was closed, must be opened with [Config.NewIncarnation]. Without that, sequence numbers would be used twice.
package boltstore
