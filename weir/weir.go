// Package weir is the domain: what a machine, a pool, a load balancer and a node
// are, and what makes one valid.
//
// It holds plain data and pure functions, and imports the standard library alone,
// so that every other package can speak of the same things. Desired and observed
// are separate: what a user asked for are the fields of a type itself, what was
// seen of it is its Status. Words on DigitalOcean's API are DigitalOcean's; package
// api translates them.
package weir

import (
	"errors"
	"fmt"
	"time"
)

// Version is the release of this build; the linker sets it (-X weir/weir.Version=…).
var Version = "dev"

// ID names one thing for its whole life. Machines and actions have decimal IDs, as
// DigitalOcean's clients need; everything else has a UUID.
type ID string

// Kind says what can be done about an error. It is itself an error, so that
// errors.Is(err, weir.NotFound) asks for it.
type Kind string

// The kinds of error. The API turns each into a status in one place.
const (
	NotFound    Kind = "not found"   // there is no such thing
	Invalid     Kind = "invalid"     // the request can never succeed as it is
	Conflict    Kind = "conflict"    // what is there does not allow it
	Exhausted   Kind = "exhausted"   // a limit is reached: addresses, memory, disk, quota
	Unavailable Kind = "unavailable" // it may succeed later
	Denied      Kind = "denied"      // the caller may not
)

func (k Kind) Error() string { return string(k) }

// Errorf is fmt.Errorf with a kind: the message stays as written, and errors.Is
// finds both the kind and whatever %w wraps.
func Errorf(kind Kind, format string, args ...any) error {
	return &kindError{kind, fmt.Errorf(format, args...)}
}

type kindError struct {
	kind Kind
	err  error
}

func (e *kindError) Error() string        { return e.err.Error() }
func (e *kindError) Unwrap() error        { return e.err }
func (e *kindError) Is(target error) bool { return target == error(e.kind) }

// Later is Errorf of kind Unavailable, for whoever asks too much: it is of no use to ask again before wait is over.
func Later(wait time.Duration, format string, args ...any) error {
	return &laterError{Errorf(Unavailable, format, args...), wait}
}

type laterError struct {
	error
	wait time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

// WaitOf returns how long to wait until what failed is asked for again, 0 if err does not say.
func WaitOf(err error) time.Duration {
	if later := (*laterError)(nil); errors.As(err, &later) {
		return later.wait
	}
	return 0
}

// KindOf returns the kind of err, or "" if it has none.
func KindOf(err error) Kind {
	for _, k := range []Kind{NotFound, Invalid, Conflict, Exhausted, Unavailable, Denied} {
		if errors.Is(err, k) {
			return k
		}
	}
	return ""
}
