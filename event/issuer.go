package event

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"sync/atomic"
)

// base32Lower is RFC 4648 base32 in lowercase without padding.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewLoginID returns a fresh login ID of 160 bits from crypto/rand.
func NewLoginID() LoginID {
	var b [20]byte
	rand.Read(b[:])
	return LoginID(base32Lower.EncodeToString(b[:]))
}

// NewResumeToken returns a fresh secret of 256 bits from crypto/rand.
func NewResumeToken() ResumeToken {
	var b [32]byte
	rand.Read(b[:])
	return ResumeToken(base32Lower.EncodeToString(b[:]))
}

// Issuer makes message IDs and recognises those that belong to its store. An ID is one AES block over a random number of
// the issuer, a counter and 32 zero bits, under the store's secret: it tells neither rate nor order, and an ID made
// without the secret passes [Issuer.Issued] with a chance of 2^-32. It is safe for concurrent use.
type Issuer struct {
	block   cipher.Block
	node    uint32
	counter atomic.Uint64
}

// NewIssuer returns an issuer for the store with the given secret. Issuers of one store do not repeat each other's IDs:
// each begins at a random place among 2^96.
func NewIssuer(secret [32]byte) *Issuer {
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		panic(err) // a key of 32 bytes is always accepted
	}
	var b [12]byte
	rand.Read(b[:])
	i := &Issuer{block: block, node: binary.BigEndian.Uint32(b[:])}
	i.counter.Store(binary.BigEndian.Uint64(b[4:]))
	return i
}

// Issue returns a fresh message ID.
func (i *Issuer) Issue() MessageID {
	var plain, sealed [16]byte
	binary.BigEndian.PutUint32(plain[:], i.node)
	binary.BigEndian.PutUint64(plain[4:], i.counter.Add(1))
	i.block.Encrypt(sealed[:], plain[:])
	return MessageID(base32Lower.EncodeToString(sealed[:]))
}

// Issued reports whether id was issued for this store.
func (i *Issuer) Issued(id MessageID) bool {
	if !isBase32(string(id), messageIDBytes) {
		return false
	}
	sealed, err := base32Lower.DecodeString(string(id))
	if err != nil || base32Lower.EncodeToString(sealed) != string(id) {
		return false // the last character of an ID carries two unused bits, which must be zero
	}
	var plain [16]byte
	i.block.Decrypt(plain[:], sealed)
	return binary.BigEndian.Uint32(plain[12:]) == 0
}
