//go:build race

package sim

import "time"

// The race detector makes a history eight times as long.
const (
	enough     = 8
	calmEnough = 5 * time.Minute
)
