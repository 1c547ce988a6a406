package cloud_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"weir/cloud"
	"weir/weir"
)

var _ cloud.Cloud = cloud.None{}

func TestWithoutACloudNothingCanBeMadeAndNothingIsThere(t *testing.T) {
	ctx := context.Background()
	none := cloud.None{}
	_, created := none.CreateMachine(ctx, cloud.Spec{ID: "1"})
	_, reserved := none.Reserve(ctx, "1", weir.IPv4)
	for what, err := range map[string]error{"create": created, "room": none.Room(ctx, weir.Template{}, 1), "reserve": reserved} {
		if !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "this Weir has no cloud: it cannot") {
			t.Errorf("%s: %v, want a weir.Invalid that says why", what, err)
		}
	}
	for what, err := range map[string]error{"power on": none.PowerOn(ctx, "1"), "power off": none.PowerOff(ctx, "1"),
		"assign": none.Assign(ctx, netip.MustParseAddr("192.0.2.7"), "1"), "set firewall": none.SetFirewall(ctx, "1", nil)} {
		if !errors.Is(err, weir.NotFound) {
			t.Errorf("%s: %v, want a weir.NotFound", what, err)
		}
	}
	for what, err := range map[string]error{"delete": none.DeleteMachine(ctx, "1"), "release": none.Release(ctx, netip.MustParseAddr("192.0.2.7"))} {
		if err != nil {
			t.Errorf("%s: %v, want nothing to happen", what, err)
		}
	}
}
