package bounds_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
)

func TestCheck(t *testing.T) {
	tests := []struct {
		name  string
		check func(c *bounds.Check)
		want  string // empty: no fault
	}{
		{"within", func(c *bounds.Check) { c.Duration("F", time.Minute, time.Minute, time.Hour, 0) }, ""},
		{"no unit", func(c *bounds.Check) { c.Duration("IdleDevice", 30, time.Minute, bounds.Longest, bounds.Negative) },
			"invalid IdleDevice: 30ns, want 1m to 100y, or negative; a number without a unit counts nanoseconds, 30 seconds are 30*time.Second"},
		{"too short", func(c *bounds.Check) { c.Duration("F", 59*time.Second, time.Minute, 2*bounds.Day, 0) }, "invalid F: 59s, want 1m to 2d"},
		{"too long", func(c *bounds.Check) { c.Duration("F", math.MaxInt64, time.Hour, 36*time.Hour, bounds.Zero) },
			"invalid F: 2562047h47m16.854775807s, want 1h to 36h, or 0"},
		{"negative", func(c *bounds.Check) { c.Duration("F", -1, time.Hour, bounds.Year, bounds.Zero) }, "invalid F: -1ns, want 1h to 1y, or 0"},
		{"negative means something", func(c *bounds.Check) { c.Duration("F", math.MinInt64, 1, 2, bounds.Negative) }, ""},
		{"zero means something", func(c *bounds.Check) { c.Count("F", 0, 1, 2, bounds.Zero) }, ""},
		{"zero does not", func(c *bounds.Check) { c.Count("F", 0, 1, 2, bounds.Negative) }, "invalid F: 0, want 1 to 2, or negative"},
		{"count", func(c *bounds.Check) { c.Count("F", 65, 1, 64, 0) }, "invalid F: 65, want 1 to 64"},
		{"bytes", func(c *bounds.Check) { c.Bytes("MaxBytes", 16, 64<<10, 1<<40, 0) }, "invalid MaxBytes: 16 bytes, want 64 KiB to 1 TiB; 16 MiB are 16<<20"},
		{"many bytes", func(c *bounds.Check) { c.Bytes("F", 5<<20, 1<<10, 4<<20, bounds.Zero|bounds.Negative) }, "invalid F: 5 MiB, want 1 KiB to 4 MiB, or 0, or negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c bounds.Check
			tt.check(&c)
			c.Add(nil)
			if tt.want == "" {
				require.NoError(t, c.Err())
				return
			}
			require.EqualError(t, c.Err(), tt.want)
			_, ok := errors.AsType[*event.InvalidError](c.Err())
			require.True(t, ok)
		})
	}
}
