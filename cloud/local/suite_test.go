package local

import (
	"net/netip"
	"testing"

	"weir/cloud"
	"weir/cloud/cloudtest"
)

func TestKeepsThePromisesOfACloud(t *testing.T) {
	cloudtest.Run(t, func(t *testing.T) cloud.Cloud {
		return open(t, Config{Reserved: netip.MustParsePrefix("198.51.100.0/28")})
	})
}
