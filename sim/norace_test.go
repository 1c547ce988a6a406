//go:build !race

package sim

import "time"

const (
	enough     = 60
	calmEnough = 20 * time.Minute
)
