package event

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"sync/atomic"
)

// base32Lower is RFC 4648 base32 in lowercase without padding.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewLoginID returns a fresh login ID of 160 bits from crypto/rand.
func NewLoginID() LoginID {
	for {
		var b [20]byte
		rand.Read(b[:])
		if s := base32Lower.EncodeToString(b[:]); !isHex(s) { // once in 10^13; see Account
			return LoginID(s)
		}
	}
}

// Successor returns the token that follows t under a nonce: HMAC-SHA256 of the nonce with t's text as the key. It is the same
// each time; the nonce alone says nothing about it. The nonce must come from crypto/rand.
func (t ResumeToken) Successor(nonce [32]byte) ResumeToken {
	h := hmac.New(sha256.New, []byte(t.Reveal()))
	h.Write(nonce[:])
	return ResumeTokenOf(base32Lower.EncodeToString(h.Sum(nil)))
}

// Issuer makes message IDs and recognises those that belong to its store. An ID is one AES block over a random number of
// the issuer, a counter and 32 zero bits, under the store's key: it tells neither rate nor order, and an ID made
// without the key passes [Issuer.Issued] with a chance of 2^-32. It is safe for concurrent use.
type Issuer struct {
	seal, open func(dst, src []byte) // of the cipher. As functions, since fmt follows a pointer to its round keys
	node       uint32
	counter    atomic.Uint64
}

// NewIssuer returns an issuer for the store with the given key. Issuers of one store do not repeat each other's IDs:
// each begins at a random place among 2^96.
func NewIssuer(key IDKey) *Issuer {
	secret := key.Reveal()
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		panic(err) // a key of 32 bytes is always accepted
	}
	var b [12]byte
	rand.Read(b[:])
	i := &Issuer{seal: block.Encrypt, open: block.Decrypt, node: binary.BigEndian.Uint32(b[:])}
	i.counter.Store(binary.BigEndian.Uint64(b[4:]))
	return i
}

// Issue returns a fresh message ID.
func (i *Issuer) Issue() MessageID {
	var number [12]byte
	binary.BigEndian.PutUint32(number[:], i.node)
	binary.BigEndian.PutUint64(number[4:], i.counter.Add(1))
	return i.Seal(number)
}

// Seal returns the message ID that Open returns a number for. Stores use it to name a message of which they have the number only.
func (i *Issuer) Seal(number [12]byte) MessageID {
	b := make([]byte, aes.BlockSize)
	copy(b, number[:])
	i.seal(b, b)
	var text [messageIDBytes]byte
	base32Lower.Encode(text[:], b)
	return MessageID(text[:])
}

// Issued reports whether id was issued for this store.
func (i *Issuer) Issued(id MessageID) bool {
	_, ok := i.Open(id)
	return ok
}

// Open returns what is sealed in an ID that was issued for this store, and false for any other: four bytes that are the
// issuer's random number, and eight that are its counter, both big-endian. The counter rises by one with each ID, and begins
// anew after its highest value. Stores use it to keep messages in the order in which they were issued.
func (i *Issuer) Open(id MessageID) (number [12]byte, ok bool) {
	if !isBase32(string(id), messageIDBytes) {
		return number, false
	}
	b := make([]byte, aes.BlockSize)
	if !decodeBase32(b, string(id)) {
		return number, false // the last character of an ID carries two unused bits, which must be zero
	}
	i.open(b, b)
	copy(number[:], b)
	return number, binary.BigEndian.Uint32(b[12:]) == 0
}

// decodeBase32 decodes lowercase base32 that [isBase32] has looked at, and reports whether the unused bits are zero.
func decodeBase32(to []byte, s string) bool {
	bits, n := uint64(0), 0
	for i := range len(s) {
		c := s[i] - 'a'
		if s[i] < 'a' {
			c = s[i] - '2' + 26
		}
		if bits, n = bits<<5|uint64(c), n+5; n >= 8 {
			n -= 8
			to[0] = byte(bits >> n)
			to = to[1:]
		}
	}
	return bits&(1<<n-1) == 0
}
