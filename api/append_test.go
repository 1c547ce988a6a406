package api

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"weir/weir"
)

func TestDropletInJSONIsWhatEncodingJSONMakesOfIt(t *testing.T) {
	a := &api{Options: Options{Public: netip.MustParsePrefix("198.51.100.0/24"), Private: netip.MustParsePrefix("10.0.0.0/16")}, catalog: newCatalog([]string{"lab1"})}
	plain := weir.Machine{ID: "100001", Name: "web-1", Created: time.Unix(1_700_000_000, 0),
		Template: weir.Template{Region: "lab1", Size: weir.DefaultNodeSize, Image: weir.DefaultImage, Tags: []string{"web", "a:b_c-d"}},
		Status: weir.MachineStatus{Phase: weir.MachineActive, Public: netip.MustParseAddr("198.51.100.7"), Private: netip.MustParseAddr("10.0.0.7"),
			Boot: weir.Boot{State: weir.BootDone}}}
	both := plain
	both.Template.IPv6, both.Status.Public6 = true, netip.MustParseAddr("2001:db8::7")
	other := plain
	other.Name, other.Size, other.Image, other.Tags, other.Monitoring = "", "none", "debian-11-x64", nil, true
	other.Pool, other.Deleting, other.Status = "web", time.Unix(1_700_000_001, 0), weir.MachineStatus{Phase: weir.MachineOff, Private: netip.MustParseAddr("10.0.0.8"),
		Boot: weir.Boot{State: weir.BootFailed}, Err: "it says \"no\" & <why>, \\ über \x7f\x01\xff\u2028"}
	for what, m := range map[string]weir.Machine{"a droplet": plain, "one of IPv6": both, "an odd one": other, "an empty one": {}} {
		d := a.dropletWords(m)
		want, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.appendTo(nil); string(got) != string(want) {
			t.Errorf("%s:\n%s, want\n%s", what, got, want)
		}
	}
}
