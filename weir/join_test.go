package weir

import (
	"strings"
	"testing"
)

func TestTokenOfANodeSaysWhichAuthorityToTrust(t *testing.T) {
	sum := strings.Repeat("0f", 32)
	for token, want := range map[string]string{
		JoinToken("SECRET", sum):             sum,
		JoinToken("SECRET", sum[2:]):         "", // cut short as it was copied
		JoinToken("SECRET", sum) + "0f":      "",
		"weir_node_SECRET":                   "",
		"SECRET":                             "",
		"":                                   "",
		"SECRET_" + sum:                      "",
		"weir_node__" + sum:                  sum,
		"weir_node_SECRET_" + "zz" + sum[2:]: "",
	} {
		if got := PinOf(token); got != want {
			t.Errorf("the fingerprint in %q is %q, want %q", token, got, want)
		}
	}
}
