// Package store is the contract between the engine and what keeps its state: account records, inboxes, cursors,
// conversation state and idempotency records. Implementations are packages beside it: memstore and boltstore here,
// others in modules of their own. Package storetest checks any of them.
//
// # Atomicity
//
// All that a [Batch] does to its own account (record, state, entries, idempotency record) happens at once or not at all.
// Whether that also holds for the entries in other accounts' inboxes is a declared capability, AtomicSend; a store
// without it completes them later, exactly once each, even if the node that began dies.
//
// # Outcomes
//
// Commit has three outcomes: done; refused with nothing changed (any of [ErrConflict], [ErrMismatch], [ErrWindowFull],
// [ErrFull], [ErrClosed]); and unknown ([ErrUnknownOutcome]): it may or may not happen. After an unknown outcome the
// caller reads again and looks for its own mark, or retries with an [Idempotency].
//
// # Sequence numbers
//
// For each account and epoch they strictly increase and are never used twice, also after everything was trimmed, after a
// restart and after a crash. They are dense (1, 2, 3, …) where the store declares Dense.
//
// # Engines
//
// An engine claims the store before it uses it, see [Store].Claim. One that has no leases has to be alone: it trusts what it has in
// memory. Embed [Claims] for it, and pass the call on in a wrapper.
//
// # End
//
// A store ends in one of two ways: a physical write fails, or Close is called. Either closes [Store].Failed at once. An engine that
// is still open then closes all connections with advice to come back, and says so in its log. Close the engine first.
//
// # Time
//
// A store has no clock. All times come from the caller.
//
// # Concurrency
//
// All methods are safe for concurrent use. What a store returns is the caller's: it shares no memory with the store.
// What a caller passes in is not changed by the store and not kept after the call. The exception to both are payloads,
// which a store in memory may keep and hand out as they are: nobody changes them after Commit.
package store
