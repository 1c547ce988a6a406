package api

import (
	"maps"
	"slices"
)

// Routes returns the patterns of all that is served, in order.
func Routes() []string {
	return append(slices.Sorted(maps.Keys((&api{}).routes())), "GET /{$}")
}
