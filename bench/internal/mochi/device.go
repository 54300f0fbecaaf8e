package mochi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// Packets of MQTT 3.1.1, by their first byte.
const (
	connect   = 0x10
	connack   = 0x20
	publish   = 0x30 // the low half has flags
	puback    = 0x40
	subscribe = 0x82
	suback    = 0x90
)

// Device is a client with a persistent session, over a pipe within the process. It acknowledges each message.
type Device struct {
	conn net.Conn
	wg   sync.WaitGroup
	err  error // of the reader; to be read after wg
}

// Connect connects a device of an account and subscribes it. arrived is told of each message.
func (b *Broker) Connect(account, device int, arrived *lab.Pending) (*Device, error) {
	here, there := net.Pipe()
	d := &Device{conn: here}
	d.wg.Go(func() {
		_ = b.server.EstablishConnection("pipe", there) // ends with an error, however the client leaves
		there.Close()
	})
	in := bufio.NewReader(here)
	name := strconv.Itoa(account) + "-" + strconv.Itoa(device)
	hello := text(append(text(nil, "MQTT"), 4, 0, 0, 0), name) // version 4, a session that is kept, no keep-alive
	if err := d.ask(in, connect, hello, connack); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	filter := append(text([]byte{0, 1}, topic(account)), atLeastOnce)
	if err := d.ask(in, subscribe, filter, suback); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.wg.Go(func() { d.err = d.read(in, arrived) })
	return d, nil
}

// text appends a string as MQTT has it.
func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func (d *Device) ask(in *bufio.Reader, kind byte, body []byte, want byte) error {
	if len(body) > 127 {
		return errors.New("packet is too long for one byte of length")
	}
	if _, err := d.conn.Write(append([]byte{kind, byte(len(body))}, body...)); err != nil {
		return err
	}
	got, answer, err := packet(in)
	if err != nil {
		return err
	}
	if got != want || answer[len(answer)-1] > atLeastOnce {
		return fmt.Errorf("answer to %#x is %#x % x", kind, got, answer)
	}
	return nil
}

// packet reads one packet.
func packet(in *bufio.Reader) (kind byte, body []byte, err error) {
	if kind, err = in.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(in) // MQTT's lengths are written alike
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(in, body)
	return kind, body, err
}

func (d *Device) read(in *bufio.Reader, arrived *lab.Pending) error {
	for {
		kind, body, err := packet(in)
		if err != nil {
			return nil // the pipe was closed
		}
		if kind&0xf0 != publish || kind&0x06 != atLeastOnce<<1 {
			return fmt.Errorf("unexpected packet %#x", kind)
		}
		id := body[2+binary.BigEndian.Uint16(body):][:2]
		if _, err := d.conn.Write([]byte{puback, 2, id[0], id[1]}); err != nil {
			return nil
		}
		arrived.Arrive(1)
	}
}

// Close disconnects the device. Its session stays.
func (d *Device) Close() error {
	err := d.conn.Close()
	d.wg.Wait()
	return errors.Join(err, d.err)
}
