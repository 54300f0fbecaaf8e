package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"strings"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/fault"
)

// A login's resume token is replaced once a day. What the record keeps of its tokens lets a client lose any message, and two
// processes of one app come at the same moment, without logging anybody out, and still tells a copied token.
//
// The obvious way is to draw a random token at each attach that is due. Tokens are not stored, so that one which got lost
// on its way could not be handed out again: each attach of a client that never confirms would cost a commit, and of two
// attaches side by side one would be left with a token that is void. So a new token is computed from the one that the
// client presents and a random nonce ([event.ResumeToken.Successor]). The record keeps the nonce and digests. It takes an
// old token to get the next one out of it.
//
//  1. At an attach with the confirmed token, when that is due, a nonce is drawn: the successor is issued. This is the only
//     commit until the client confirms.
//  2. Each attach with the confirmed token is handed the same successor, on whichever node, and after a restart, too.
//  3. The successor is confirmed by TokenStored or by its first use, whichever comes first. Then the token before is
//     replaced. It may be used for 10 s more (tokenReuse), and is handed the successor once more: a process that read the
//     old one before the other process stored the new one ends up with the same token as that one.
//  4. After that, whoever uses it holds a copy: the login ends, since nobody knows which of the two holders is the owner.
//     This holds for the last maxReplaced tokens.
//  5. Only one token is within its interval at a time, because none is issued before the interval of the one before is over.
//  6. A token that was issued before the store was restored from a backup is due at once: the record may know less than the
//     holders. A successor that was issued before is still taken, but not handed out again.

// tokenReuse is how long a token that was replaced may still be used. Others allow some seconds, too: Auth0 and Supabase 10 s
// by default.
const tokenReuse = 10 * time.Second

// digest is the SHA-256 of a resume token. Raw tokens are never stored.
type digest [sha256.Size]byte

// nonce leads from one token to the next.
type nonce [32]byte

func digestOf(t event.ResumeToken) digest { return sha256.Sum256([]byte(t)) }

// is reports whether it is the digest of the token.
func (d *digest) is(t event.ResumeToken) bool {
	o := digestOf(t)
	return subtle.ConstantTimeCompare(d[:], o[:]) == 1
}

// marks are the first bytes of digests, oldest first. They tell that a token was replaced, or that its holder may learn how
// a login ended, and let nobody in. Who has the 2^64 tries that a false match takes could end one login by it.
type marks string

const markBytes = 8

func (d *digest) mark() marks { return marks(d[:markBytes]) }

func (m marks) count() int { return len(m) / markBytes }

// last returns the newest n marks.
func (m marks) last(n int) marks { return m[max(len(m)-n*markBytes, 0):] }

// has compares with all of them, so that the time that it takes tells nothing.
func (m marks) has(t event.ResumeToken) bool {
	d := digestOf(t)
	found := 0
	for ; m != ""; m = m[markBytes:] {
		found |= subtle.ConstantTimeCompare(d[:markBytes], []byte(m[:markBytes]))
	}
	return found == 1
}

// marks returns those of the tokens whose holders may learn how the login ended.
func (l *login) marks() marks {
	m := l.Replaced.last(1) + l.Token.mark()
	if l.Issued != nil {
		m += l.Issued.Token.mark()
	}
	return m
}

// replacements remember which tokens were replaced here not long ago, by elapsed time: the wall clock may be set meanwhile.
// They are as many as logins are handed new tokens within twice replacedKept. Safe for concurrent use.
type replacements struct {
	mu          sync.Mutex
	since       time.Duration // of which now holds what has happened
	now, before map[replacement]time.Duration
}

// replacement is one token that took the place of another.
type replacement struct {
	login event.LoginID
	token [markBytes]byte // the login's since then: its mark
}

const replacedKept = 10 * time.Minute

func (r *replacements) add(l *login, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil || now-r.since >= replacedKept {
		r.since, r.now, r.before = now, map[replacement]time.Duration{}, r.now
	}
	key := replacement{login: event.LoginID(strings.Clone(string(l.ID)))}
	copy(key.token[:], l.Token[:])
	r.now[key] = now
}

// at returns when the login's token took the place of the one before, if that was here and is not long ago.
func (r *replacements) at(l *login) (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := replacement{login: l.ID}
	copy(key.token[:], l.Token[:])
	at, ok := r.now[key]
	if !ok {
		at, ok = r.before[key]
	}
	return at, ok
}

// proof is what a connection has shown to be let in.
type proof uint8

const (
	proofToken    proof = iota // the login's token
	proofReplaced              // the one before, within its interval
	proofVouched               // the host's word
)

// authenticate compares the token with those of the login.
func (s *step) authenticate(l *login, t event.ResumeToken, in *arrival) error {
	issued, confirmed, replaced := l.issued(t), l.Token.is(t), l.Replaced.has(t)
	switch {
	case issued:
		l.confirm(s.now)
		in.confirmed, s.dirty = true, true
		return nil
	case confirmed:
		return nil
	case replaced && l.follows(t) && s.justReplaced(l):
		in.proof = proofReplaced
		return nil
	case replaced:
		why := event.TokenReuse.Closed(0)
		s.end(l.ID, why, "")
		return &EndedError{Why: why}
	}
	return ErrUnknownLogin
}

// issued reports whether the token was issued and not yet confirmed.
func (l *login) issued(t event.ResumeToken) bool { return l.Issued != nil && l.Issued.Token.is(t) }

// confirm makes the issued token the confirmed one.
func (l *login) confirm(now time.Time) {
	i := l.Issued
	l.Replaced = (l.Replaced + l.Token.mark()).last(maxReplaced)
	l.Token, l.TokenAt, l.TokenStore, l.Nonce, l.Issued = i.Token, now.UnixMilli(), i.Store, &i.Nonce, nil
}

// follows reports whether the login's token is the successor of t. That is a proof by all bits of t, which its mark is not.
func (l *login) follows(t event.ResumeToken) bool {
	return l.Nonce != nil && l.Token.is(t.Successor(*l.Nonce))
}

// justReplaced reports whether the interval of the token before the login's is not over.
func (s *step) justReplaced(l *login) bool {
	ago, _ := s.replacedFor(l)
	return ago < tokenReuse
}

// replacedFor returns how long the token before the login's has been replaced, at least. The wall clock is asked only if that
// happened on another node, or right before the start, and once: what counts from then on is elapsed time, so that a clock
// which is behind, or set back, does not begin the interval again. exact: it was not asked.
func (s *step) replacedFor(l *login) (ago time.Duration, exact bool) {
	now := s.r.elapsed()
	if at, ok := s.r.replaced.at(l); ok {
		return now - at, true
	}
	if s.r.nodes == nil && now >= tokenReuse { // it was before the start, or so long ago that it is forgotten
		return now, true
	}
	if ago = s.since(l.TokenAt); ago < tokenReuse {
		s.r.replaced.add(l, now-ago)
	}
	return ago, false
}

// hand returns the token that the connection is to store in place of the one that it has shown; empty: it keeps that one.
// shared: others of the login's connections stay, which may have stored the token they came with.
func (s *step) hand(l *login, shown event.ResumeToken, by proof, shared bool) event.ResumeToken {
	every, in := s.r.cfg.TokenRotation, s.r.st.Info().Incarnation
	switch {
	case by == proofVouched:
		return ""
	case by == proofReplaced:
		return shown.Successor(*l.Nonce)
	case l.Issued != nil && l.Issued.Store == in:
		return shown.Successor(l.Issued.Nonce)
	case every < 0, shared, l.TokenStore == in && (s.since(l.TokenAt) <= every || l.Nonce != nil && s.justReplaced(l)):
		return ""
	}
	i := &issued{Store: in}
	rand.Read(i.Nonce[:])
	next := shown.Successor(i.Nonce)
	i.Token = digestOf(next)
	l.Issued, s.dirty = i, true
	return next
}

// ConfirmToken says that the device has stored the token of [Connection.Token]. The one before may be used for 10 s more, and
// ends the login after that. If there is no new token, or it was confirmed before, ConfirmToken does nothing. If the login
// has ended it returns an [*EndedError], or [ErrNotFound] if it is not known any more why.
func (r *Registry) ConfirmToken(ctx context.Context, c *Connection) (err error) {
	defer fault.In("session", "confirm token", &err)
	if c == nil {
		return &event.InvalidError{Field: "connection", Reason: "nil"}
	}
	token := c.Token()
	if token == "" {
		return nil
	}
	var confirmed *login
	_, err = r.run(ctx, c.Account(), func(s *step) error {
		confirmed = nil
		l := s.rec.login(c.Login())
		if l == nil {
			if t := s.rec.tombstone(c.Login()); t != nil {
				return &EndedError{Why: t.Closed.closed()}
			}
			return ErrNotFound
		}
		if l.issued(token) {
			l.confirm(s.now)
			confirmed, s.dirty = l, true
		}
		return nil
	}, func(*step) {
		if confirmed != nil {
			r.replaced.add(confirmed, r.elapsed())
		}
	})
	return err
}

// forgetNonce drops a nonce that is of no use any more: with it, an old token and a copy of the store give away the next
// token. The next commit writes that it is gone.
func (s *step) forgetNonce(l *login) {
	if l.Nonce == nil {
		return
	}
	ago, exact := s.replacedFor(l)
	if !exact {
		ago -= clock.MaxDrift // the node on which it was replaced may have a clock that is behind, and knows better
	}
	if ago >= tokenReuse {
		l.Nonce = nil
	}
}
