package weir

// Link names the network interfaces of a machine.
type Link string

// The links of a machine. An empty Link is both.
const (
	BothLinks   Link = "both"
	PublicLink  Link = "public"  // eth0: public and anchor address, reserved IPs, the way out
	PrivateLink Link = "private" // eth1: private address
)

// Direction is a direction of traffic as a machine sees it.
type Direction string

// The directions of traffic. An empty Direction is both.
const (
	BothWays Direction = "both"
	Inward   Direction = "in"  // what is sent to the machine
	Outward  Direction = "out" // what the machine sends
)

// Cut is what is broken of a machine's network. The zero Cut loses everything, silently.
type Cut struct {
	Link      Link
	Direction Direction

	// Down takes the link down, so that the machine sees its carrier lost. A link that is
	// not down loses packets silently: neither end is told.
	Down bool
}

// Check returns why there is no such cut.
func (c Cut) Check() error {
	switch c.Link {
	case "", BothLinks, PublicLink, PrivateLink:
	default:
		return Errorf(Invalid, "link is %.40q, want public, private or both", c.Link)
	}
	switch c.Direction {
	case "", BothWays:
	case Inward, Outward:
		if c.Down {
			return Errorf(Invalid, "direction is %q, want both: a link that is down carries nothing either way", c.Direction)
		}
	default:
		return Errorf(Invalid, "direction is %.40q, want in, out or both", c.Direction)
	}
	return nil
}

// Of reports whether c is of link, which is one of the two.
func (c Cut) Of(link Link) bool { return c.Link == link || c.Link == BothLinks || c.Link == "" }

// Loses reports whether what goes in direction, in or out, is lost.
func (c Cut) Loses(direction Direction) bool {
	return c.Direction == direction || c.Direction == BothWays || c.Direction == ""
}
