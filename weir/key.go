package weir

import (
	"strings"
	"time"
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

// CheckKeyName returns why a key cannot have that name.
func CheckKeyName(name string) error {
	if strings.TrimSpace(name) == "" || len(name) > 255 {
		return Errorf(Invalid, "name is %.40q, want 1 to 255 characters", name)
	}
	return nil
}
