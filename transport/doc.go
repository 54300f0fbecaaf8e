// Package transport is the contract between the engine and the host's network: [Conn], one live connection to a device,
// and [Bus], messages between nodes of one deployment. Package transporttest has an in-memory connection for tests and a
// suite that checks a host's own; package membus is a bus within one process; package client is the device's side of the
// protocol as a pure state machine.
package transport
