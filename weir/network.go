package weir

import (
	"crypto/sha1"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"
)

// Network is what a team says about the region's private network, which is one for all. DigitalOcean calls it a
// VPC.
type Network struct {
	Team        ID        `json:"team,omitempty"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`
}

// NetworkID returns the ID of the private network of a region: the same for ever and everywhere.
func NetworkID(region string) ID {
	h := sha1.Sum([]byte("weir:network:" + region))
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80 // a UUID made from a name
	return ID(fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

var networkName = regexp.MustCompile(`^[a-zA-Z0-9.-]{1,255}$`)

// Check returns why n cannot be said of a network.
func (n *Network) Check() error {
	switch {
	case !networkName.MatchString(n.Name):
		return Errorf(Invalid, "name is %.40q, want 1 to 255 letters, digits, dots and dashes", n.Name)
	case utf8.RuneCountInString(n.Description) > 255:
		return Errorf(Invalid, "description has %d characters, at most 255 are allowed", utf8.RuneCountInString(n.Description))
	}
	return nil
}
