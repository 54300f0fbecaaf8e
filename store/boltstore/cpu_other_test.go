//go:build !unix

package boltstore_test

import "time"

func cpuTime() time.Duration { return 0 }
