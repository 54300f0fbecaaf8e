// Package event holds what all parts of the engine share: identifiers, kinds of events, inbox entries, the frames that
// travel between a device and the engine, and their reference encoding.
//
// # Identifiers
//
// Every identifier has its own type. Those that come from a host or a client are checked at the boundary: [Account],
// [DeviceID], [LoginID], [ConversationID] and [ClientMessageID] with their Validate method, a [Platform] with
// [ParsePlatform], an [Address] with [ParseAddress], a [MessageID] with [Issuer.Issued]. The error is an [*InvalidError]
// that names the field. Identifiers are never changed. Texts for people are never refused: [CleanName] makes any text fit.
//
// # Secrets
//
// A [ResumeToken] and an [IDKey] print and encode as placeholders, whatever holds them. Reveal returns what they hold.
//
// # Entries and frames
//
// An [Entry] is one element of an account's inbox. Once read it never changes, so one decoded entry and one encoding of
// it ([Sealed]) serve every device of the account. A [Frame] is what the engine sends to a device, a [ClientFrame] what a
// device sends to the engine. Client frames have no field for origin, sender, sequence number of an entry, message ID or
// time: a client cannot claim them.
//
// # Encoding
//
// [AppendFrame], [DecodeFrame], [AppendClientFrame] and [DecodeClientFrame] are the JSON encoding that docs/protocol.md
// specifies. Hosts may use their own.
//
// # Concurrency
//
// Values are plain data: safe to share as long as nobody writes to them. [Issuer], [Sealed] and [Registry] are safe for
// concurrent use.
package event
