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
// # Room
//
// Batches that append are refused with [store.ErrFull] before the file is full; what is kept back is for ends of logins,
// cursors and for making room. See [Config]. Room that Trim, Void or Delete gave back is used again without a restart.
// The file itself never shrinks.
//
// # Copies of the file
//
// A copy that is put back later must be opened with [Config.NewIncarnation]. Without that, sequence numbers would be used
// twice.
package boltstore
