//go:build race

package sim

// The race detector makes a history eight times as long.
const enough = 12
