// Package boltstore is a [store.Store] in one file, for one process at a time.
//
// # Durability
//
// What a method answered is on disk: it survives the end of the process and of power. Callers that wait at the same time
// share one record of a write-ahead log and one sync (group commit), so that the rate of operations is not bound by that of the
// disk. There is no timer: a lone caller's operation is committed at once.
//
// # Files
//
// The store is a bbolt file and, while it is open, two files of the log next to it, with -wal and -wal2 after its name. What was
// committed is in the log and in memory, in a memtable. A full memtable is flushed to its place in the file in the background,
// in slices, while commits go on into another one. If that is full as well, commits wait. [Config.Memory] bounds both. Close
// flushes the rest and removes the log. After a crash Open reads the log. [Store.Compact] flushes at once.
//
// Never copy, move or remove one of the three files alone. Open notices that a file is without its log ([ErrNoLog]), has another
// one's ([ErrOtherLog]), or that a log is without its file ([ErrNoFile]).
//
// # Failure
//
// After an I/O error of a write or a sync, of the log or of a flush, the store fails for good: what was in that write of the log
// gets an error that is both [store.ErrUnknownOutcome] and [store.ErrFailed], all that comes later [store.ErrFailed]. Close it
// and open it again. A full disk fails nothing. Work in the background that finds no room, or damage, is tried again: a flush,
// and the removal of deleted accounts' rows.
//
// # Damage
//
// Each row has a checksum. A row that cannot be read is [ErrCorrupt] for the methods that need it, and for no others: the error
// names the account, the entry or the message. The batch that met it has changed nothing. What copies of a message share may
// be damaged without holding up the removal of its entries. Delete removes damaged rows of an account unread, as long as its
// head can be read.
//
// # Room
//
// Batches that append are refused with [store.ErrFull] before the file is full; what is kept back is for ends of logins,
// cursors and for making room. See [Config]. Room that Trim, Void or Delete gave back is used again without a restart.
// The file itself never shrinks.
//
// What was removed is reachable through no bucket once it is flushed. Its bytes may stay in free pages, and in the log, until these
// are used again.
//
// # Watching
//
// [Store.Stats] says how long commits take, what waits, how much room is left, and why the store has failed. Config.Logger gets
// a line when the store opens, when room runs out or comes back, for each row that cannot be read, at a failure, and at the end.
//
// # Copies
//
// [Store.Backup] copies the store while it is in use, and [Restore] puts a copy back. A copy made by other means, while the
// store was closed, must be opened with [Config.NewIncarnation]. Without that, sequence numbers would be used twice.
package boltstore
