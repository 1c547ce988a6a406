package weir

import (
	"encoding/hex"
	"strings"
	"time"
)

// joinPrefix begins the token with which a machine of one's own joins, so that it is
// known for what it is wherever it is found.
const joinPrefix = "weir_node_"

// JoinToken returns the token with which a machine of one's own joins: a secret, and the
// fingerprint (SHA-256, hexadecimal) of the authority by which it knows the control plane.
func JoinToken(secret, fingerprint string) string {
	return joinPrefix + secret + "_" + fingerprint
}

// PinOf returns the fingerprint in a token of [JoinToken], or "" if it has none.
func PinOf(token string) string {
	rest, ours := strings.CutPrefix(token, joinPrefix)
	_, fingerprint, _ := strings.Cut(rest, "_")
	if sum, err := hex.DecodeString(fingerprint); !ours || err != nil || len(sum) != 32 {
		return ""
	}
	return fingerprint
}

// NodeOverview is a machine of one's own at a glance.
type NodeOverview struct {
	MachineOverview
	Joined  bool       `json:"joined"`            // it has used its token
	Active  bool       `json:"active,omitempty"`  // it is the active instance of its load balancer
	Created time.Time  `json:"created"`           // its token was made
	Host    HostStatus `json:"host"`              // as it last said
	Agent   string     `json:"agent,omitempty"`   // the version of weir on it
	HAProxy string     `json:"haproxy,omitempty"` // and of HAProxy
	Seen    time.Time  `json:"seen,omitzero"`     // when it last reported, to this member of the control plane
}

// ProgramPath is where the control plane has its own program for nodes, at their URL of it: for machines that are to be nodes and have
// none. Whoever trusts its authority may have it.
const ProgramPath = "/node/v1/weir"
