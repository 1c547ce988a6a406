package weir

import (
	"errors"
	"testing"
)

func TestACutIsOfWhatItSays(t *testing.T) {
	for _, c := range []struct {
		cut                      Cut
		public, private, in, out bool
	}{
		{Cut{}, true, true, true, true},
		{Cut{Link: BothLinks, Direction: BothWays, Down: true}, true, true, true, true},
		{Cut{Link: PublicLink, Direction: Inward}, true, false, true, false},
		{Cut{Link: PrivateLink, Direction: Outward}, false, true, false, true},
	} {
		if err := c.cut.Check(); err != nil {
			t.Errorf("%+v: %v", c.cut, err)
		}
		if got := [4]bool{c.cut.Of(PublicLink), c.cut.Of(PrivateLink), c.cut.Loses(Inward), c.cut.Loses(Outward)}; got != [4]bool{c.public, c.private, c.in, c.out} {
			t.Errorf("%+v is of public, private, in, out: %v", c.cut, got)
		}
	}
	for want, cut := range map[string]Cut{
		`link is "eth0", want public, private or both`:                                 {Link: "eth0"},
		`direction is "up", want in, out or both`:                                      {Direction: "up"},
		`direction is "in", want both: a link that is down carries nothing either way`: {Direction: Inward, Down: true},
	} {
		if err := cut.Check(); !errors.Is(err, Invalid) || err.Error() != want {
			t.Errorf("%+v: %v, want %s", cut, err, want)
		}
	}
}
