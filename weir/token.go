package weir

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Token is the right of a person or a program to call. The secret that its bearer shows is
// nowhere but with them: what is kept is its [SecretSum].
type Token struct {
	ID      ID        `json:"id"`
	Name    string    `json:"name"` // unique in a region
	Team    ID        `json:"team,omitempty"`
	User    string    `json:"user,omitempty"` // who has it
	Scopes  []Scope   `json:"scopes"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // never if zero
	Used    time.Time `json:"used,omitzero"`    // last, to within an hour
}

// NewSecret returns a secret that nobody has had before.
func NewSecret() string { return "weir_v1_" + rand.Text() + rand.Text() }

// SecretSum returns the SHA-256 of a secret, in hexadecimal, by which its token is found.
func SecretSum(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Expired reports whether t was good once, and is no longer.
func (t *Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Check returns why t cannot be made.
func (t *Token) Check(now time.Time) error {
	if err := CheckLabel(t.Name); err != nil {
		return err
	}
	if len(t.User) > 255 || strings.ContainsFunc(t.User, unicode.IsControl) {
		return Errorf(Invalid, "user is %.40q, want at most 255 characters in one line", t.User)
	}
	if _, err := TeamNamed(TeamName(t.Team)); err != nil {
		return err
	}
	if len(t.Scopes) == 0 {
		return Errorf(Invalid, "scopes is empty, want at least one of %s", scopeWords())
	}
	for _, s := range t.Scopes {
		if err := s.Check(); err != nil {
			return err
		}
	}
	if t.Expired(now) {
		return Errorf(Invalid, "token %q: it has expired already, at %s", t.Name, t.Expires.Format(time.RFC3339))
	}
	return nil
}

// firstTeam is the name of the team that every Weir has from the start.
const firstTeam = "default"

var teamName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// TeamNamed returns the ID of the team of that name; of the first one for "". A team is
// there as soon as somebody has a token of it.
func TeamNamed(name string) (ID, error) {
	if name == "" || name == firstTeam {
		return "", nil
	}
	if !teamName.MatchString(name) {
		return "", Errorf(Invalid, "team is %.70q, want 1 to 63 lower-case letters, digits and -, beginning and ending with a letter or digit", name)
	}
	return ID(name), nil
}

// TeamName returns the name of a team.
func TeamName(team ID) string {
	if team == "" {
		return firstTeam
	}
	return string(team)
}

// Scope is a right that a token gives: to read or to write all that its team has, the
// same for one kind of thing alone ("droplet:read"), or to do everything. Who may write may read.
type Scope string

// The scopes that are of no kind of thing.
const (
	ScopeRead  Scope = "read"
	ScopeWrite Scope = "write"
	ScopeAdmin Scope = "admin" // everything of the team, and what is for the one who operates the region
)

// scopeKinds are the kinds of things that a scope may be of, as DigitalOcean names them.
var scopeKinds = []string{"account", "actions", "block_storage", "certificate", "droplet", "firewall", "image", "load_balancer",
	"monitoring", "project", "regions", "reserved_ip", "sizes", "ssh_key", "tag", "vpc"}

func scopeWords() string {
	return "read, write, admin, or the same for one kind, such as droplet:read or load_balancer:write"
}

// ScopeOf returns the scope of a right to a kind of thing; to all kinds for "".
func ScopeOf(kind string, right Scope) Scope {
	if kind == "" {
		return right
	}
	return Scope(kind) + ":" + right
}

// Check returns why s cannot be a scope.
func (s Scope) Check() error {
	kind, right, ofKind := strings.Cut(string(s), ":")
	switch {
	case s == ScopeRead || s == ScopeWrite || s == ScopeAdmin:
		return nil
	case !ofKind:
		return Errorf(Invalid, "scope %.60q is not known, want %s", string(s), scopeWords())
	case !slices.Contains(scopeKinds, kind):
		return Errorf(Invalid, "scope %.60q is of no known kind, want one of %s", string(s), strings.Join(scopeKinds, ", "))
	case right != "read" && right != "write":
		return Errorf(Invalid, "scope %.60q, want %s:read or %s:write", string(s), kind, kind)
	}
	return nil
}

// Gives reports whether who has s may do what need is needed for.
func (s Scope) Gives(need Scope) bool {
	kind, right, ofKind := strings.Cut(string(need), ":")
	if !ofKind {
		kind, right = "", string(need)
	}
	read := right == string(ScopeRead)
	switch s {
	case need, ScopeAdmin:
		return true
	case ScopeWrite:
		return need != ScopeAdmin
	case ScopeRead:
		return read
	}
	return ofKind && read && s == ScopeOf(kind, ScopeWrite)
}
