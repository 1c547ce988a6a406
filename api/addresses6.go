package api

import "net/http"

// Weir has no IPv6 addresses to reserve: there are none, and none can be had.

func (a *api) listIPv6(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "reserved_ipv6s", nil, func(none struct{}) struct{} { return none })
}

func (a *api) reserveIPv6(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Region string `json:"region_slug"`
	}
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if q.Region != a.Control.Region() {
		return invalid("region_slug is %.40q: this Weir runs region %q", q.Region, a.Control.Region())
	}
	return invalid("region_slug is %q: its droplets have no IPv6 yet, reserve an IPv4 address at /v2/reserved_ips", q.Region)
}

func (a *api) noIPv6(http.ResponseWriter, *http.Request) error { return errNotFound }
