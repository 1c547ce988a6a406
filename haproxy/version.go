package haproxy

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"weir/weir"
)

// Version is the release of a HAProxy binary.
type Version struct {
	Major, Minor int
	Full         string // as the binary prints it: 2.6.12-1+deb12u4
}

// String returns the whole version.
func (v Version) String() string { return v.Full }

// AtLeast reports whether v is that release or a newer one.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

var versionLine = regexp.MustCompile(`^HA-?Proxy version ((\d+)\.(\d+)\S*)`)

// Detect returns the version of a HAProxy binary. One that is not there, or is older than
// 2.6, the first release whose servers can be added with health checks and whose old
// workers close their idle connections gently, is weir.Invalid.
func Detect(ctx context.Context, binary string) (Version, error) {
	out, err := exec.CommandContext(ctx, binary, "-v").Output()
	if err != nil {
		if ctx.Err() != nil {
			return Version{}, fmt.Errorf("version of haproxy: %w", ctx.Err())
		}
		return Version{}, weir.Errorf(weir.Invalid, "haproxy cannot be run: %w", err)
	}
	return parseVersion(string(out))
}

func parseVersion(out string) (Version, error) {
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return Version{}, weir.Errorf(weir.Invalid, "%.60q is no version of haproxy", out)
	}
	major, _ := strconv.Atoi(m[2])
	minor, _ := strconv.Atoi(m[3])
	v := Version{Major: major, Minor: minor, Full: m[1]}
	if !v.AtLeast(2, 6) {
		return v, weir.Errorf(weir.Invalid, "haproxy %s is too old, want 2.6 or newer: it cannot add checked servers while it runs", v)
	}
	return v, nil
}
