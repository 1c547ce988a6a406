package weir

import (
	"strings"
	"time"
	"unicode"
)

// SSHKey is a public key that a user keeps, to be put on machines by its ID or fingerprint.
type SSHKey struct {
	ID          ID        `json:"id"` // decimal
	Team        ID        `json:"team,omitempty"`
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"` // MD5 in hexadecimal with colons, as DigitalOcean has it
	PublicKey   string    `json:"public_key"`  // a line as in authorized_keys
	Created     time.Time `json:"created"`
}

// CheckLabel returns why name cannot be that of a token, a key or a certificate: what tells it from others where
// they are listed, a line each.
func CheckLabel(name string) error {
	if strings.TrimSpace(name) == "" || len(name) > 255 || strings.ContainsFunc(name, unicode.IsControl) {
		return Errorf(Invalid, "name is %.40q, want 1 to 255 characters in one line", name)
	}
	return nil
}
