//go:build !race

package sim

const enough = 60
