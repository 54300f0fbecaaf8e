// Package bounds checks the durations, counts and sizes of configs and requests. Every one of them has a floor and a ceiling: a
// duration without its unit, which Go takes for nanoseconds, must not pass for a bound that removes everything, and no sum of two
// values may overflow.
package bounds

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
)

const (
	// Day and Year are what the words in messages mean.
	Day  = 24 * time.Hour
	Year = 365 * Day
	// Longest is the ceiling of durations that have no lower one of their own. The sum of two still is a time.Duration.
	Longest = 100 * Year
)

// Also says which values outside of the range mean something of their own.
type Also uint8

const (
	// Zero: zero does.
	Zero Also = 1 << iota
	// Negative: all negative values do.
	Negative
)

// Duration returns an [*event.InvalidError] unless the duration is between floor and ceiling.
func Duration(field string, d, floor, ceiling time.Duration, also Also) error {
	if within(d, floor, ceiling, also) {
		return nil
	}
	hint := ""
	if d > 0 && d < time.Millisecond {
		hint = fmt.Sprintf("; a number without a unit counts nanoseconds, %d seconds are %d*time.Second", d, d)
	}
	return invalid(field, "%s, want %s to %s%s%s", text(d), text(floor), text(ceiling), also.text(), hint)
}

// Count returns an [*event.InvalidError] unless the number is between floor and ceiling.
func Count(field string, n, floor, ceiling int64, also Also) error {
	if within(n, floor, ceiling, also) {
		return nil
	}
	return invalid(field, "%d, want %d to %d%s", n, floor, ceiling, also.text())
}

// Bytes returns an [*event.InvalidError] unless the size is between floor and ceiling.
func Bytes(field string, n, floor, ceiling int64, also Also) error {
	if within(n, floor, ceiling, also) {
		return nil
	}
	hint := ""
	if n > 0 && n < 1<<10 {
		hint = fmt.Sprintf("; %d MiB are %d<<20", n, n)
	}
	return invalid(field, "%s, want %s to %s%s%s", size(n), size(floor), size(ceiling), also.text(), hint)
}

func invalid(field, format string, args ...any) error {
	return &event.InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// Check collects the faults of one config or request. The zero value is ready.
type Check struct{ errs []error }

// Duration is the function [Duration].
func (c *Check) Duration(field string, d, floor, ceiling time.Duration, also Also) {
	c.Add(Duration(field, d, floor, ceiling, also))
}

// Count is the function [Count].
func (c *Check) Count(field string, n, floor, ceiling int64, also Also) {
	c.Add(Count(field, n, floor, ceiling, also))
}

// Bytes is the function [Bytes].
func (c *Check) Bytes(field string, n, floor, ceiling int64, also Also) {
	c.Add(Bytes(field, n, floor, ceiling, also))
}

// Add notes an error, if there is one.
func (c *Check) Add(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// Err returns all faults, or nil.
func (c *Check) Err() error { return errors.Join(c.errs...) }

func within[N ~int64](n, floor, ceiling N, also Also) bool {
	switch {
	case n == 0 && also&Zero != 0, n < 0 && also&Negative != 0:
		return true
	}
	return n >= floor && n <= ceiling
}

func (a Also) text() string {
	switch a {
	case Zero:
		return ", or 0"
	case Negative:
		return ", or negative"
	case Zero | Negative:
		return ", or 0, or negative"
	}
	return ""
}

// text writes a duration as people do: 30ns, 1m, 30d, 100y.
func text(d time.Duration) string {
	switch {
	case d >= Year && d%Year == 0:
		return fmt.Sprintf("%dy", d/Year)
	case d >= 2*Day && d%Day == 0:
		return fmt.Sprintf("%dd", d/Day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// size writes a number of bytes in the largest unit that divides it.
func size(n int64) string {
	units := [...]string{"TiB", "GiB", "MiB", "KiB"}
	for i, u := range units {
		if one := int64(1) << (10 * (len(units) - i)); n >= one && n%one == 0 {
			return fmt.Sprintf("%d %s", n/one, u)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
