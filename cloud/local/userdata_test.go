package local

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weir/weir"
)

func zipped(t testing.TB, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUserDataThatIsAScriptRunsAsItIs(t *testing.T) {
	const script = "#!/usr/bin/perl\nprint \"\\x00\\n\";"
	for name, c := range map[string]struct {
		given []byte
		want  string
	}{
		"a script":               {[]byte(script), script},
		"a script, gzipped":      {zipped(t, script), script},
		"written on Windows":     {[]byte("#!/bin/sh\r\necho a\r\n"), "#!/bin/sh\necho a\n"},
		"with a carriage return": {[]byte("#!/bin/sh\nprintf 'a\r\n'\n"), "#!/bin/sh\nprintf 'a\r\n'\n"},
		"nothing":                {nil, ""},
		"blanks":                 {[]byte(" \n"), ""},
	} {
		got, err := compileUserData(c.given)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestUserDataThatCannotRunIsRefusedWithItsLine(t *testing.T) {
	config := func(s string) string { return "#cloud-config\n" + s }
	multipart := func(part string) string {
		return "Content-Type: multipart/mixed; boundary=\"X\"\nMIME-Version: 1.0\n\n--X\n\n#cloud-config\nruncmd: [ls]\n--X\n" + part + "\n--X--\n"
	}
	for given, want := range map[string]string{
		"echo hello":                                                              `user-data begins with "echo hello", want a script that begins with #!`,
		"\n#!/bin/sh\n":                                                           `user-data begins with "\n#!/bin/sh\n"`,
		"#include\nhttp://example.com/":                                           "want a script",
		"#cloud-config-archive\n[]":                                               "want a script",
		config("packages: [nginx\n"):                                              "user-data: line 2: ",
		config("packages:\n\t- nginx\n"):                                          "user-data: line 3: ",
		config("a: b: c\n"):                                                       "user-data: line 2: ",
		config("- packages\n"):                                                    "user-data: line 2: want keys and values here, got a list",
		config("packages: [a]\n---\npackages: [b]\n"):                             "line ",
		config("timezone: UTC\npackage: [nginx]\n"):                               `line 3: cloud-init has no key "package"`,
		config("runcmd: [ls]\nruncmd: [ls]\n"):                                    `line 3: mapping key "runcmd" already defined`,
		"\n" + config("runcmd: ls\n"):                                             "line 3: runcmd: want a list, got a string",
		config("runcmd: ls\n"):                                                    "line 2: runcmd: want a list, got a string",
		config("runcmd:\n  - echo a: b\n"):                                        "line 3: want a string, got keys and values; in quotes it would be one",
		config("runcmd:\n  - [ls, [a]]\n"):                                        "line 3: want a string, got a list",
		config("runcmd:\n  - \"a\\0b\"\n"):                                        "line 3: a string has a NUL",
		config("bootcmd:\n  - *nowhere\n"):                                        "line 3: ",
		config("write_files:\n  - content: a\n"):                                  `line 3: path of a file is "", want one that begins with /`,
		config("write_files:\n  - path: a\n"):                                     `path of a file is "a"`,
		config("write_files:\n- path: /a\n  mode: 1\n"):                           `line 4: write_files has no "mode" here`,
		config("write_files:\n- path: /a\n  source: {}\n"):                        `line 4: write_files has no "source" here`,
		config("write_files:\n- {path: /a, owner: -R}\n"):                         `owner is "-R", want a user`,
		config("write_files:\n- {path: /a, append: x}\n"):                         "append: want true or false",
		config("write_files:\n- {path: /a, encoding: z}\n"):                       `encoding is "z", want base64`,
		config("write_files:\n- path: /a\n  permissions: rw\n"):                   `line 4: permissions is "rw", want an octal number`,
		config("write_files:\n- path: /a\n  encoding: b64\n  content: '*'\n"):     "line 5: content of /a is not b64",
		config("write_files:\n- path: /a\n  encoding: gz+b64\n  content: AAAA\n"): "line 5: content of /a is not gz+b64",
		config("packages: [--reinstall]\n"):                                       `line 2: "--reinstall" cannot be the name of a package`,
		config("packages: [[nginx]]\n"):                                           "a package is a list of 1",
		config("packages: [{snap: [lxd]}]\n"):                                     `packages are installed by apt here, not by "snap"`,
		config("package_update: maybe\n"):                                         "line 2: package_update: want true or false",
		config("users:\n- gecos: A\n"):                                            "line 3: a user has no name",
		config("users:\n- name: a;b\n"):                                           `line 3: "a;b" cannot be the name of a user`,
		config("users:\n- name: a\n  home: /b\n"):                                 `line 4: a user has no "home"`,
		config("groups: [-g]\n"):                                                  `"-g" cannot be the name`,
		config("hostname: a_b\n"):                                                 `line 2: hostname: name "a_b"`,
		config("timezone: ../../etc/passwd\n"):                                    "line 2: timezone is",
		config("ssh_authorized_keys: [ssh-rsa]\n"):                                "is not a public key",
		config("a: &a {<<: *a}\n<<: *a\n"):                                        "line ",
		"Content-Type: text/plain\nMIME-Version: 1.0\n\nls":                       "content-type is text/plain, want multipart/mixed",
		multipart("\n#cloud-config\nruncmd: [ls]\n"):                              "part 2 is a second #cloud-config",
		multipart("\n#upstart-job\n"):                                             `part 2 begins with "#upstart-job\n", want #! or #cloud-config`,
		multipart("Content-Transfer-Encoding: x\n\n#!a"):                          `content-transfer-encoding is "x"`,
	} {
		script, err := compileUserData([]byte(given))
		if !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want it to be refused with %q", given, script, err, want)
		}
	}
	for _, deep := range []string{"[", "{a: ", "- "} {
		if _, err := compileUserData([]byte("#cloud-config\n" + strings.Repeat(deep, 10_000))); !errors.Is(err, weir.Invalid) ||
			!strings.Contains(err.Error(), "line 2: over 32") {
			t.Errorf("10,000 times %q: %v, want it to be refused for its depth", deep, err)
		}
	}
	bomb := zipped(t, strings.Repeat("\x00", maxUnpacked+1))
	if _, err := compileUserData(bomb); !errors.Is(err, weir.Invalid) {
		t.Errorf("user-data of over %d bytes is not refused: %v", maxUnpacked, err)
	}
}

// everything is a #cloud-config with all that we do, in the ways that it is written in.
const everything = `#cloud-config
hostname: renamed
timezone: Europe/Berlin
package_upgrade: yes
package_update: true
packages:
  - nginx
  - [curl, 7.88.1-10]
  - apt: [git]
write_files:
  - path: /opt/x/it's "quoted" $HOME Á
    content: |
      $HOME ` + "`ls`" + ` 'x' "y" \n
      EOF
    owner: nobody:nogroup
    permissions: '0600'
  - {path: /opt/x/bin, encoding: b64, content: "AAH/Cg==", permissions: 0o755}
  - {path: /opt/x/bin, encoding: base64, append: true, content: !!str QQ==, permissions: 0755}
  - path: /opt/x/gz
    encoding: gz+b64
    content: GZIPPED
  - path: /opt/x/binary
    content: !!binary |
      gIGCgwA=
  - {path: /opt/x/none}
  - {path: /opt/x/late, content: late, defer: true}
bootcmd:
  - echo boot >>/out
  - [ cloud-init-per, once, "a b", 1, true ]
groups:
  - staff2
  - crew: [root]
users:
  - default
  - name: demo
    gecos: A 'Demo' User
    shell: /bin/bash
    groups: sudo2, crew
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh-authorized-keys:
      - ssh-ed25519 AAAA demo@example.com
    lock-passwd: false
    plain_text_passwd: 'a\b c'
ssh_authorized_keys:
  - &key ssh-ed25519 BBBB root's
  - *key
ntp: {enabled: true}
final_message: done
runcmd:
  - cd /opt/x
  - echo "in $PWD" >>/out
  - [ sh, -c, 'echo "$0 $1" >>/out', "it's", $HOME ]
  - # nothing
  - |
    if true; then
      echo many lines >>/out
    fi
  - cat late >>/out; false
  - echo last >>/out
`

// root runs script as a machine's user-data in an overlay of this machine's root, with
// stand-ins for what would reach out of it, and returns the overlay's directory, which
// has out, all that was printed, and the exit.
func runScript(t *testing.T, script []byte) (root, printed string, code int) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	root = filepath.Join(dir, "root")
	for _, d := range []string{"upper/usr/local/sbin", "upper/tmp", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{
		"user-data":                     string(script),
		"usr/local/sbin/apt-get":        "#!/bin/sh\necho apt \"$*\" >>/out\n",
		"usr/local/sbin/cloud-init-per": "#!/bin/sh\nprintf '<%s>' \"$@\" >>/out; echo >>/out\n",
		"usr/local/sbin/hostname":       "#!/bin/sh\necho hostname \"$*\" >>/out\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "upper", name), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=/,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	c := exec.Command("/user-data")
	c.Dir = "/"
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := c.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return root, string(out), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return root, string(out), 0
}

func TestCloudConfigDoesAllItSaysInOrder(t *testing.T) {
	given := strings.Replace(everything, "GZIPPED", base64.StdEncoding.EncodeToString(zipped(t, "unzipped")), 1)
	script, err := compileUserData([]byte(given))
	if err != nil {
		t.Fatal(err)
	}
	root, printed, code := runScript(t, script)
	if code != 1 {
		t.Errorf("exit is %d, want 1 since a runcmd failed; it printed:\n%s", code, printed)
	}
	for _, want := range []string{"not done in this cloud: ntp, final_message", "runcmd 5 failed"} {
		if !strings.Contains(printed, want) {
			t.Errorf("its log lacks %q:\n%s", want, printed)
		}
	}
	if n := strings.Count(printed, "failed"); n != 2 {
		t.Errorf("its log names %d failures, want runcmd 5 and runcmd alone:\n%s", n, printed)
	}
	for path, want := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		`/opt/x/it's "quoted" $HOME Á`:       {"$HOME `ls` 'x' \"y\" \\n\nEOF\n", 0o600},
		"/opt/x/bin":                         {"\x00\x01\xff\nA", 0o755},
		"/opt/x/gz":                          {"unzipped", 0o644},
		"/opt/x/binary":                      {"\x80\x81\x82\x83\x00", 0o644},
		"/opt/x/none":                        {"", 0o644},
		"/opt/x/late":                        {"late", 0o644},
		"/etc/timezone":                      {"Europe/Berlin\n", 0o644},
		"/home/demo/.ssh/authorized_keys":    {"ssh-ed25519 AAAA demo@example.com\n", 0o600},
		"/etc/sudoers.d/90-cloud-init-users": {"demo ALL=(ALL) NOPASSWD:ALL\n", 0o440},
		"/out": {"boot\n<once><a b><1><true>\nhostname -- renamed\n" +
			"apt -q -y -o Dpkg::Options::=--force-confold update\n" +
			"apt -q -y -o Dpkg::Options::=--force-confold dist-upgrade\n" +
			"apt -q -y -o Dpkg::Options::=--force-confold install -- nginx curl=7.88.1-10 git\n" +
			"in /opt/x\nit's $HOME\nmany lines\nlatelast\n", 0o644},
	} {
		got, err := os.ReadFile(filepath.Join(root, path))
		if err != nil || string(got) != want.content {
			t.Errorf("%s is %q, %v, want %q", path, got, err, want.content)
		}
		if info, err := os.Stat(filepath.Join(root, path)); err == nil && info.Mode().Perm() != want.mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want.mode)
		}
	}
	keys, err := os.ReadFile(filepath.Join(root, "/root/.ssh/authorized_keys"))
	if n := strings.Count(string(keys), "ssh-ed25519 BBBB root's\n"); err != nil || n != 1 {
		t.Errorf("root has its key %d times, want once: %q, %v", n, keys, err)
	}
	passwd, err := os.ReadFile(filepath.Join(root, "/etc/passwd"))
	if want := ":A 'Demo' User:/home/demo:/bin/bash\n"; err != nil || !strings.Contains(string(passwd), want) {
		t.Errorf("passwd lacks %q: %v", want, err)
	}
	group, err := os.ReadFile(filepath.Join(root, "/etc/group"))
	for _, want := range []string{"\nsudo2:x:", "\ncrew:x:", ":root,demo\n", "\nstaff2:x:"} {
		if err != nil || !strings.Contains(string(group), want) {
			t.Errorf("group lacks %q: %v", want, err)
		}
	}
}

func TestCloudConfigMayBeginWithEmptyLines(t *testing.T) {
	want, err := compileUserData([]byte("#cloud-config\nruncmd: [ls]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := compileUserData([]byte("\n \n#cloud-config\nruncmd: [ls]\n")); err != nil || string(got) != string(want) {
		t.Errorf("it becomes %q, %v, want the same as without them, %q", got, err, want)
	}
}

func TestScriptsOfAMultipartRunBeforeItsRuncmd(t *testing.T) {
	script, err := compileUserData([]byte(`MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="===1=="

--===1==
Content-Type: text/x-shellscript; charset="us-ascii"
Content-Transfer-Encoding: base64

` + base64.StdEncoding.EncodeToString([]byte("#!/usr/bin/perl\nopen F, '>>/out'; print F \"part 1\\n\"; exit 4")) + `
--===1==
Content-Type: text/cloud-config; charset="us-ascii"

#cloud-config
bootcmd: [echo bootcmd >>/out]
runcmd: [echo runcmd >>/out]
--===1==
Content-Type: text/x-shellscript
Content-Transfer-Encoding: quoted-printable

#!/bin/sh
echo part=203 >>/out
--===1==--
`))
	if err != nil {
		t.Fatal(err)
	}
	root, printed, code := runScript(t, script)
	out, err := os.ReadFile(filepath.Join(root, "out"))
	if want := "bootcmd\npart 1\npart 3\nruncmd\n"; err != nil || string(out) != want {
		t.Errorf("it did %q, %v, want %q; it printed:\n%s", out, err, want, printed)
	}
	if code != 1 || !strings.Contains(printed, "part-001 failed") {
		t.Errorf("exit is %d and it printed %q, want 1 and that part-001 failed", code, printed)
	}
}

func FuzzCompileUserData(f *testing.F) {
	f.Add([]byte("#!/bin/sh\necho\n"))
	f.Add([]byte(everything))
	f.Add(zipped(f, everything))
	f.Add([]byte("#cloud-config\na: &a [*a]\n<<: *a\n"))
	f.Add([]byte("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"X\"\n\n--X\n\n#!/bin/sh\n--X\nContent-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwo=\n--X--\n"))
	compile := func(t *testing.T, b []byte) {
		script, err := compileUserData(b)
		if err != nil {
			if !errors.Is(err, weir.Invalid) || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%q: error is %q, want one line, and weir.Invalid", b, err)
			}
			return
		}
		if script != nil && !bytes.HasPrefix(script, []byte("#!")) {
			t.Errorf("%q: script begins with %.20q, want #!", b, script)
		}
		if isCloudConfig(b) && bytes.Contains(script, []byte{0}) {
			t.Errorf("%q: the script has a NUL", b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		compile(t, b)
		compile(t, append([]byte("#cloud-config\n"), b...))
	})
}
