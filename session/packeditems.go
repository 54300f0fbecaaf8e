package session

import (
	"encoding/binary"

	"github.com/manydevice/manydevice/event"
)

// Flags of the items that stay packed: tombstones and entries of the log.
const (
	tombstoneNoted = 1 << iota
	tombstoneCaused
	tombstoneServed // served, at
	tombstoneDevice // its name is not the login's ID
	tombstoneFlags  = 1<<iota - 1
)

const (
	recentNamed = 1 << iota // name, IP
	recentEnded             // reason
	recentFlags = 1<<iota - 1
)

// append writes what is looked at first before the rest.
func (t *tombstone) append(b []byte) []byte {
	c := t.Closed.Cause
	b = binary.AppendVarint(b, t.Until)
	b = appendString(b, t.Login)
	named := string(t.Device) != string(t.Login)
	b = append(b, bit(t.Closed.Note != "", tombstoneNoted)|bit(c != nil, tombstoneCaused)|bit(named, tombstoneDevice)|
		bit(len(t.Served) > 0, tombstoneServed))
	if named {
		b = appendString(b, t.Device)
	}
	b = appendString(b, t.Tokens)
	b = appendString(b, t.Closed.Reason)
	b = appendString(b, t.Closed.Retry)
	b = appendString(b, t.Node)
	if t.Closed.Note != "" {
		b = appendString(b, t.Closed.Note)
	}
	if c != nil {
		b = appendString(b, c.Login)
		b = appendString(b, c.Device)
		b = appendString(b, c.Platform)
		b = appendString(b, c.Name)
	}
	if len(t.Served) > 0 {
		b = appendStrings(b, t.Served)
		b = binary.AppendVarint(b, t.At)
	}
	return b
}

func (d *decoder) tombstone() tombstone {
	t := tombstone{Until: d.varint(), Login: event.LoginID(d.string())}
	flags := d.flags(tombstoneFlags)
	t.Device = event.DeviceID(t.Login)
	if flags&tombstoneDevice != 0 {
		t.Device = event.DeviceID(d.string())
	}
	t.Tokens, t.Closed.Reason, t.Closed.Retry = d.marks(), event.Reason(d.string()), event.Retry(d.string())
	t.Node = event.NodeID(d.string())
	if flags&tombstoneNoted != 0 {
		t.Closed.Note = d.string()
	}
	if flags&tombstoneCaused != 0 {
		t.Closed.Cause = &event.Cause{
			Login: event.LoginID(d.string()), Device: event.DeviceID(d.string()), Platform: event.Platform(d.string()),
			Name: d.string(),
		}
	}
	if flags&tombstoneServed != 0 {
		t.Served, t.At = d.nodes(), d.varint()
	}
	return t
}

func (l *recent) append(b []byte) []byte {
	named := l.Name != "" || l.IP != ""
	b = append(b, bit(named, recentNamed)|bit(l.Reason != "", recentEnded))
	b = binary.AppendVarint(b, l.At)
	b = appendString(b, l.Login)
	b = appendString(b, l.Device)
	b = appendString(b, l.Platform)
	if named {
		b = appendString(b, l.Name)
		b = appendString(b, l.IP)
	}
	if l.Reason != "" {
		b = appendString(b, l.Reason)
	}
	return b
}

func (d *decoder) recent() recent {
	flags := d.flags(recentFlags)
	l := recent{
		At: d.varint(), Login: event.LoginID(d.string()), Device: event.DeviceID(d.string()),
		Platform: event.Platform(d.string()),
	}
	if flags&recentNamed != 0 {
		l.Name, l.IP = d.string(), d.string()
	}
	if flags&recentEnded != 0 {
		l.Reason = event.Reason(d.string())
	}
	return l
}

// tombstoneUntil and tombstoneIs look at the first parts of a packed tombstone.
func tombstoneUntil(item []byte) int64 {
	until, _ := binary.Varint(item)
	return until
}

func tombstoneIs(item []byte, id event.LoginID) bool {
	_, n := binary.Varint(item)
	size, m := binary.Uvarint(item[n:])
	at := n + m
	return string(item[at:at+int(size)]) == string(id)
}

// unpack returns the items of a packed list.
func unpack[T any](p *packed, read func(*decoder) T) []T {
	all := make([]T, 0, p.count)
	for item := range p.all() {
		d := decoder{rest: string(item)}
		all = append(all, read(&d))
	}
	return all
}
