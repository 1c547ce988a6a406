package local

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"weir/weir"
)

func TestRuncThatCannotBeUsedIsNamed(t *testing.T) {
	for _, test := range []struct {
		name, script, says string
	}{
		{"not there", "", "install it (apt-get install runc)"},
		{"too old", "#!/bin/sh\necho runc version 1.0.3\n", "runc is version 1.0.3, want 1.1 or newer"},
		{"not runc", "#!/bin/sh\necho hello\n", "want 1.1 or newer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.script != "" {
				if err := os.WriteFile(filepath.Join(dir, "runc"), []byte(test.script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir+":/bin")
			if test.script == "" {
				t.Setenv("PATH", dir)
			}
			if err := checkRunc(t.Context()); !errors.Is(err, weir.Unavailable) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want one that is unavailable and says %q", err, test.says)
			}
		})
	}
}

func TestRangesAreChecked(t *testing.T) {
	p := netip.MustParsePrefix
	for _, test := range []struct {
		c    Config
		says string
	}{
		{Config{}, ""},
		{Config{Public: p("192.0.2.0/30"), Private: p("10.0.0.5/16")}, ""},
		{Config{Public: p("192.0.2.0/31")}, "range of public addresses 192.0.2.0/31: want IPv4 with 8 to 30 bits"},
		{Config{Private: p("fd00::/64")}, "range of private addresses fd00::/64: want IPv4 with 8 to 30 bits"},
		{Config{Anchor: p("127.0.0.0/8")}, "machines cannot have such addresses"},
		{Config{Anchor: p("169.254.0.0/16")}, "machines cannot have such addresses"},
		{Config{Reserved: p("203.0.113.128/25")}, "range of reserved addresses 203.0.113.128/25 overlaps the public ones, 203.0.113.0/24"},
		{Config{Public6: p("2001:db8:7::/48"), Anchor6: p("fd00:1::/96")}, ""},
		{Config{Public6: p("2001:db8::/97")}, "range of public IPv6 addresses 2001:db8::/97: want IPv6 with 16 to 96 bits"},
		{Config{Reserved6: p("192.0.2.0/24")}, "range of reserved IPv6 addresses 192.0.2.0/24: want IPv6 with 16 to 96 bits"},
		{Config{Reserved6: p("fe80::/64")}, "machines cannot have such addresses"},
		{Config{Anchor6: p("2001:db8::/32")}, "range of anchor IPv6 addresses 2001:db8::/32 overlaps the public IPv6 ones, 2001:db8:0:1::/64"},
	} {
		_, err := test.c.addresses()
		if test.says == "" && err != nil {
			t.Errorf("%+v: %v, want no error", test.c, err)
		}
		if test.says != "" && (!errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%+v: error %v, want one that is invalid and says %q", test.c, err, test.says)
		}
	}
}

func TestAddressesAreGivenLowestFirst(t *testing.T) {
	p := netip.MustParsePrefix("192.0.2.8/29")
	taken := map[netip.Addr]bool{}
	var got []string
	for {
		addr, err := vacant(p, 1, func(a netip.Addr) bool { return taken[a] })
		if err != nil {
			if !errors.Is(err, weir.Exhausted) || !strings.Contains(err.Error(), "5 addresses in 192.0.2.8/29") {
				t.Errorf("error %v, want that 5 addresses are exhausted", err)
			}
			break
		}
		taken[addr] = true
		got = append(got, addr.String())
	}
	if want := "192.0.2.10 192.0.2.11 192.0.2.12 192.0.2.13 192.0.2.14"; strings.Join(got, " ") != want {
		t.Errorf("addresses %v, want %s", got, want)
	}
}

// What is in its boot directory, a machine's root may make what it likes.
func TestBootIsReadWithoutTrust(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("failed because hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, status, log string) error
		want weir.Boot
	}{
		{"nothing", func(*testing.T, string, string) error { return nil }, weir.Boot{State: weir.BootRunning}},
		{"running", func(_ *testing.T, status, _ string) error { return os.WriteFile(status, []byte("running\n"), 0o644) },
			weir.Boot{State: weir.BootRunning}},
		{"done", func(_ *testing.T, status, _ string) error { return os.WriteFile(status, []byte("done\n"), 0o644) },
			weir.Boot{State: weir.BootDone}},
		{"failed", func(_ *testing.T, status, log string) error {
			return errors.Join(os.WriteFile(status, []byte("failed user-data exited with 3\nmore"), 0o644),
				os.WriteFile(log, []byte(strings.Repeat("line\n", 5000)+"the \x1b[31mend\n\n"), 0o644))
		}, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3", End: strings.Repeat("line\n", endLines-1) + "the [31mend"}},
		{"a link out", func(_ *testing.T, status, _ string) error { return os.Symlink(secret, status) },
			weir.Boot{State: weir.BootFailed, Why: "its status cannot be read"}},
		{"a pipe that nobody writes", func(_ *testing.T, status, _ string) error { return unix.Mkfifo(status, 0o644) },
			weir.Boot{State: weir.BootFailed, Why: "its status cannot be read"}},
		{"nonsense, and a log that is a link out", func(_ *testing.T, status, log string) error {
			return errors.Join(os.WriteFile(status, []byte("\x00\xff"), 0o644), os.Symlink(secret, log))
		}, weir.Boot{State: weir.BootFailed, Why: "its status is not one"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.want.Log = filepath.Join(dir, "log")
			if err := test.make(t, filepath.Join(dir, "status"), test.want.Log); err != nil {
				t.Fatal(err)
			}
			if got := readBoot(dir); got != test.want {
				t.Errorf("boot is %+v, want %+v", got, test.want)
			}
		})
	}
}
