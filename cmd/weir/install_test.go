package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// installed runs weir install below a root of its own, and returns that.
func installed(t *testing.T, args ...string) (root, stdout string) {
	t.Helper()
	root = t.TempDir()
	stdout, stderr, status := runWeir(t.Context(), t, "", append([]string{"install", args[0], "--root", root}, args[1:]...)...)
	if status != 0 {
		t.Fatalf("weir install %s: exit status %d: %s", strings.Join(args, " "), status, stderr)
	}
	return root, strings.ReplaceAll(stdout, root, "ROOT")
}

var installs = map[string][]string{
	"serve":         {"serve"},
	"serve-cluster": {"serve", "--cluster", "192.0.2.11,192.0.2.12,192.0.2.13", "--listen", "192.0.2.11:443", "--data", "/srv/weir 50% data"},
	"node":          {"node", "--join", "https://192.0.2.11:7071,https://192.0.2.12:7071", "--token", "/etc/weir/node.token"},
}

func TestInstalledUnitsAreThese(t *testing.T) {
	for name, args := range installs {
		t.Run(name, func(t *testing.T) {
			root, stdout := installed(t, args...)
			unit, err := os.ReadFile(filepath.Join(root, unitDir, "weir-"+args[0]+".service"))
			if err != nil {
				t.Fatal(err)
			}
			got := stdout + "---\n" + string(unit)
			golden := filepath.Join("testdata", "install", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("it writes\n%s\nwant\n%s\n(go test ./cmd/weir -run Installed -update)", got, want)
			}
		})
	}
}

func TestInstalledProgramIsThisOne(t *testing.T) {
	root, _ := installed(t, "serve")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, installedAs))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, want the %d of this program", len(got), err, len(want))
	}
	info, err := os.Stat(filepath.Join(root, installedAs))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v, want 0755", info.Mode(), err)
	}
}

func TestUnitThatSomebodyHasChangedStays(t *testing.T) {
	root, _ := installed(t, "serve")
	file := filepath.Join(root, unitDir, "weir-serve.service")
	if _, stderr, status := runWeir(t.Context(), t, "", "install", "serve", "--root", root); status != 0 {
		t.Errorf("the same again: exit status %d: %s, want success", status, stderr)
	}
	if err := os.WriteFile(file, []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr, status := runWeir(t.Context(), t, "", "install", "serve", "--root", root)
	if want := "is there and is another"; status != 1 || !strings.Contains(stderr, want) {
		t.Errorf("over another: exit status %d: %s, want 1 and %q", status, stderr, want)
	}
	if stdout, stderr, status := runWeir(t.Context(), t, "", "install", "serve", "--root", root, "--print"); status != 0 || !strings.Contains(stdout, "ExecStart=/usr/local/bin/weir serve\n") {
		t.Errorf("--print: exit status %d, %s%s, want the unit", status, stdout, stderr)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "/bin/true") {
		t.Errorf("it is %q, %v, want it as somebody left it", text, err)
	}
	if _, stderr, status := runWeir(t.Context(), t, "", "install", "serve", "--root", root, "--force"); status != 0 {
		t.Errorf("--force: exit status %d: %s", status, stderr)
	}
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), "/bin/true") {
		t.Errorf("with --force it is %q, %v, want ours", text, err)
	}
}

// systemd itself judges the units: that it understands them, and how exposed they are, from
// 0 to 10. Lower is better; a service without any of this has 9.6.
func TestSystemdAcceptsTheUnitsAndFindsThemSafe(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	exposure := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for name, most := range map[string]float64{"serve": 1.6, "serve-cluster": 1.8, "node": 3.2} {
		t.Run(name, func(t *testing.T) {
			root, _ := installed(t, installs[name]...)
			unit := "weir-" + installs[name][0] + ".service"
			text, err := os.ReadFile(filepath.Join(root, unitDir, unit))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), unit)
			there := strings.ReplaceAll(string(text), installedAs, filepath.Join(root, installedAs)) // verify looks for it
			if err := os.WriteFile(file, []byte(there), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), unit+":") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", file).CombinedOutput()
			found := exposure.FindSubmatch(out)
			if found == nil {
				t.Skipf("this systemd-analyze cannot judge a file: %v\n%s", err, out)
			}
			if got, err := strconv.ParseFloat(string(found[1]), 64); err != nil || got > most {
				t.Errorf("exposure %v, want at most %v\n%s", got, most, out)
			}
		})
	}
}

func TestWordsOfAUnitAreTakenAsTheyAre(t *testing.T) {
	for word, want := range map[string]string{
		"plain":        "plain",
		"a b":          `"a b"`,
		`say "hi" \o/`: `"say \"hi\" \\o/"`,
		"50%":          "50%%",
		"":             `""`,
		"two\nlines":   `"two\nlines"`,
	} {
		if got := escape(word); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
}
