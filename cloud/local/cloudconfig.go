package local

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"weir/weir"
)

// cloudConfig is what we do of a #cloud-config.
type cloudConfig struct {
	hostname string
	timezone string
	bootcmd  []string // lines of shell, one for each item
	runcmd   []string
	files    []cloudFile
	groups   []cloudGroup
	users    []cloudUser
	keys     []string // of root
	update   bool
	upgrade  bool
	packages []string // NAME or NAME=VERSION
	ignored  []string // keys that cloud-init knows and we do not do
}

// cloudFile is one of write_files.
type cloudFile struct {
	path    string
	owner   string
	mode    string // octal
	content []byte
	add     bool // to the end of what is there
	late    bool // after users and packages
}

type cloudGroup struct {
	name    string
	members []string
}

type cloudUser struct {
	name     string
	options  []string // of useradd
	groups   []string // created where they are missing
	hash     string   // of its password
	password string   // in plain text
	unlocked bool
	sudo     []string // rules
	keys     []string
}

// ignoredKeys are the top-level keys that cloud-init knows and a machine of this cloud
// has no use for: its image, network, disk and clock are the host's.
const ignoredKeys = `allow_public_ssh_keys ansible apk_repos apt apt_mirror apt_pipelining
	apt_preserve_sources_list apt_proxy apt_reboot_if_required apt_sources authkey_hash autoinstall
	byobu_by_default ca_certs chef chpasswd cloud_config_modules cloud_final_modules cloud_init_modules
	create_hostname_file datasource datasource_list debug def_log_file device_aliases
	disable_ec2_metadata disable_root disable_root_opts disk_setup drivers fan final_message fs_setup
	growpart grub_dpkg keyboard landscape launch_index locale locale_configfile log_cfgs lxd
	manage_etc_hosts manage_resolv_conf mcollective merge_how merge_type migrate mount_default_fields
	mounts network no_ssh_fingerprints ntp output package_reboot_if_required password phone_home
	power_state prefer_fqdn_over_hostname preserve_hostname puppet random_seed reporting resize_rootfs
	resolv_conf rh_subscription rpi rsyslog salt_minion snap spacewalk ssh ssh_deletekeys
	ssh_fp_console_blacklist ssh_genkeytypes ssh_import_id ssh_key_console_blacklist ssh_keys
	ssh_publish_hostkeys ssh_pwauth ssh_quiet_keygen swap syslog_fix_perms system_info ubuntu_advantage
	ubuntu_pro updates user vendor_data version wireguard yum_repo_dir yum_repos zypper`

// parseCloudConfig reads a #cloud-config. An error tells the line.
func parseCloudConfig(b []byte) (*cloudConfig, error) {
	c, r := &cloudConfig{}, &yamlReader{}
	fqdn := ""
	for _, f := range r.fields(r.document(b)) {
		switch name := f.name(); name {
		case "hostname":
			c.hostname = r.hostname(f)
		case "fqdn":
			fqdn = r.hostname(f)
		case "timezone":
			c.timezone = r.text(f.value)
			if !zone.MatchString(c.timezone) || strings.Contains(c.timezone, "..") {
				r.fail(f.value, "timezone is %q, want one such as Europe/Berlin", c.timezone)
			}
		case "bootcmd":
			c.bootcmd = r.commands(f)
		case "runcmd":
			c.runcmd = r.commands(f)
		case "write_files":
			for _, item := range r.list(f) {
				c.files = append(c.files, r.file(item))
			}
		case "groups":
			c.groups = r.groups(f)
		case "users":
			c.users = r.users(f)
		case "ssh_authorized_keys":
			c.keys = r.keys(f)
		case "package_update", "apt_update":
			c.update = r.truth(f)
		case "package_upgrade", "apt_upgrade":
			c.upgrade = r.truth(f)
		case "packages":
			c.packages = r.packages(f, f.value)
		default:
			if !slices.Contains(strings.Fields(ignoredKeys), name) {
				r.fail(f.key, "cloud-init has no key %q", f.spelled())
			}
			c.ignored = append(c.ignored, f.spelled())
		}
	}
	if c.hostname == "" {
		c.hostname = fqdn
	}
	return c, r.err
}

var (
	zone        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_+/.-]*$`)
	account     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*\$?$`)
	ownership   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
	octal       = regexp.MustCompile(`^(0o)?[0-7]{1,5}$`)
	packageName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9+.:~=/*_-]*$`)
)

func (r *yamlReader) hostname(f field) string {
	name := r.text(f.value)
	if err := weir.CheckName(name); err != nil {
		r.fail(f.value, "%s: %w", f.spelled(), err)
	}
	return name
}

// commands returns the items of bootcmd or runcmd, each as shell: a string as it is, a
// list as one command with its words quoted.
func (r *yamlReader) commands(f field) (lines []string) {
	for _, item := range r.list(f) {
		if words, ok := r.sequence(item); ok {
			quoted := make([]string, len(words))
			for i, w := range words {
				quoted[i] = quote(r.text(w))
			}
			lines = append(lines, strings.Join(quoted, " "))
			continue
		}
		if _, ok := item.(*ast.NullNode); !ok { // a list item that is but a comment
			lines = append(lines, r.text(item))
		}
	}
	return lines
}

func (r *yamlReader) file(item ast.Node) cloudFile {
	file := cloudFile{owner: "root:root", mode: "0644"}
	encoding := ""
	content := item
	for _, f := range r.fields(item) {
		switch f.name() {
		case "path":
			file.path = r.text(f.value)
		case "content":
			file.content, content = []byte(r.data(f.value)), f.value
		case "encoding":
			encoding = strings.ToLower(strings.TrimSpace(r.text(f.value)))
		case "owner":
			file.owner = r.match(f, ownership, "a user, or user:group")
		case "permissions":
			file.mode = strings.TrimPrefix(r.match(f, octal, "an octal number such as '0644'"), "0o")
		case "append":
			file.add = r.truth(f)
		case "defer":
			file.late = r.truth(f)
		default:
			r.fail(f.key, "write_files has no %q here, want path, content, encoding, owner, permissions, append, defer", f.spelled())
		}
	}
	if !path.IsAbs(file.path) {
		r.fail(item, "path of a file is %q, want one that begins with /", file.path)
	}
	var err error
	switch encoding {
	case "", "text/plain", "text":
	case "b64", "base64":
		file.content, err = unbase64(file.content)
	case "gz", "gzip":
		file.content, err = gunzip(file.content)
	case "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		if file.content, err = unbase64(file.content); err == nil {
			file.content, err = gunzip(file.content)
		}
	default:
		r.fail(item, "encoding is %q, want base64, gzip, gzip+base64 or text/plain", encoding)
	}
	if err != nil {
		r.fail(content, "content of %s is not %s: %w", file.path, encoding, err)
	}
	if r.unpacked += len(file.content); r.unpacked > maxUnpacked {
		r.fail(item, "the files have over %d MiB together", maxUnpacked>>20)
		file.content = nil
	}
	return file
}

// unbase64 decodes s, which may be broken into lines anywhere.
func unbase64(s []byte) ([]byte, error) {
	return base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(s), nil)))
}

// groups are names, or maps of a name to its members.
func (r *yamlReader) groups(f field) (groups []cloudGroup) {
	items, isList := r.sequence(f.value)
	if !isList {
		items = []ast.Node{f.value}
	}
	for _, item := range items {
		if !r.isMap(item) {
			for _, name := range r.words(item) {
				groups = append(groups, cloudGroup{name: r.account(item, name)})
			}
			continue
		}
		for _, g := range r.fields(item) {
			group := cloudGroup{name: r.account(g.key, g.spelled())}
			for _, member := range r.words(g.value) {
				group.members = append(group.members, r.account(g.value, member))
			}
			groups = append(groups, group)
		}
	}
	return groups
}

func (r *yamlReader) users(f field) (users []cloudUser) {
	for _, item := range r.list(f) {
		if !r.isMap(item) {
			for _, name := range r.words(item) {
				if name != "default" { // on a droplet that is root, which is there
					users = append(users, cloudUser{name: r.account(item, name), options: []string{"-m"}})
				}
			}
			continue
		}
		users = append(users, r.user(item))
	}
	return users
}

func (r *yamlReader) user(item ast.Node) cloudUser {
	u := cloudUser{}
	home := "-m"
	option := func(flag string, f field) { u.options = append(u.options, flag, r.text(f.value)) }
	for _, f := range r.fields(item) {
		switch f.name() {
		case "name":
			u.name = r.account(f.value, r.text(f.value))
		case "gecos":
			option("-c", f)
		case "homedir":
			option("-d", f)
		case "shell":
			option("-s", f)
		case "uid":
			option("-u", f)
		case "expiredate":
			option("-e", f)
		case "inactive":
			option("-f", f)
		case "primary_group":
			group := r.account(f.value, r.text(f.value))
			u.options = append(u.options, "-g", group)
			u.groups = append(u.groups, group)
		case "groups":
			var names []string
			for _, name := range r.words(f.value) {
				names = append(names, r.account(f.value, name))
			}
			if len(names) > 0 {
				u.options = append(u.options, "-G", strings.Join(names, ","))
				u.groups = append(u.groups, names...)
			}
		case "system":
			if r.truth(f) {
				u.options = append(u.options, "--system")
				home = "-M"
			}
		case "no_create_home":
			if r.truth(f) {
				home = "-M"
			}
		case "no_user_group":
			if r.truth(f) {
				u.options = append(u.options, "-N")
			}
		case "passwd", "hashed_passwd":
			u.hash = r.text(f.value)
		case "plain_text_passwd":
			u.password = r.text(f.value)
		case "lock_passwd":
			u.unlocked = !r.truth(f)
		case "sudo":
			if text, ok := r.scalar(f.value); ok && (text == "" || text == "null" || text == "false") {
				break
			}
			u.sudo = r.lines(f)
		case "ssh_authorized_keys":
			u.keys = r.keys(f)
		case "create_groups", "doas", "no_log_init", "selinux_user", "ssh_import_id", "ssh_redirect_user", "snapuser":
			// nothing in this cloud acts on these
		default:
			r.fail(f.key, "a user has no %q", f.spelled())
		}
	}
	if u.name == "" {
		r.fail(item, "a user has no name")
	}
	u.options = append(u.options, home)
	return u
}

func (r *yamlReader) account(at ast.Node, name string) string {
	if !account.MatchString(name) {
		r.fail(at, "%q cannot be the name of a user or group", name)
	}
	return name
}

func (r *yamlReader) keys(f field) []string {
	keys := r.lines(f)
	for _, key := range keys {
		if len(strings.Fields(key)) < 2 {
			r.fail(f.value, "%.40q is not a public key, want a line as in authorized_keys", key)
		}
	}
	return keys
}

// packages returns the names of a list whose items are names, pairs of a name and a
// version, or maps with the key apt and such a list.
func (r *yamlReader) packages(f field, list ast.Node) (names []string) {
	items, ok := r.sequence(list)
	if !ok {
		items = []ast.Node{list}
	}
	for _, item := range items {
		switch pair, isPair := r.sequence(item); {
		case isPair && len(pair) == 2:
			names = append(names, r.text(pair[0])+"="+r.text(pair[1]))
		case isPair:
			r.fail(item, "a package is a list of %d, want a name, or a name and a version", len(pair))
		case r.isMap(item):
			for _, manager := range r.fields(item) {
				if manager.name() != "apt" {
					r.fail(manager.key, "packages are installed by apt here, not by %q", manager.spelled())
				}
				names = append(names, r.packages(f, manager.value)...)
			}
		default:
			names = append(names, r.text(item))
		}
	}
	for _, name := range names {
		if !packageName.MatchString(name) {
			r.fail(list, "%q cannot be the name of a package", name)
		}
	}
	return names
}

// prelude are the words that script is written in. What a step prints is its own; a
// step that fails is named, and does not keep the next from running.
const prelude = `#!/bin/sh
# Made from a #cloud-config: its steps, in cloud-init's order.
scripts=/var/lib/cloud/instance/scripts
failed=0
fail() {
	echo "cloud-config: $* failed" >&2
	failed=1
}

# put PATH OWNER MODE [append]: base64 on standard input becomes a file
put() {
	mkdir -p -- "$(dirname -- "$1")" &&
	if [ "${4-}" ]; then base64 -d >>"$1"; else base64 -d >"$1"; fi &&
	chown -- "$2" "$1" && chmod -- "$3" "$1"
}

# rename NAME: a machine may not change the name that is running, which the cloud gave it
rename() {
	echo "$1" >/etc/hostname || return
	hostname -- "$1" 2>/dev/null || echo "cloud-config: written to /etc/hostname; the machine goes on as $(hostname)"
}

# group NAME [MEMBER …]
group() {
	getent group "$1" >/dev/null || groupadd -- "$1" || return
	group=$1
	shift
	for member; do gpasswd -a "$member" "$group" >/dev/null || return; done
}

# allow RULE: of sudo, once
allow() {
	mkdir -p -m 0750 /etc/sudoers.d && file=/etc/sudoers.d/90-cloud-init-users || return
	grep -qsxF -e "$1" "$file" || printf '%s\n' "$1" >>"$file" && chmod 0440 "$file"
}

# authorize USER KEY …: once each
authorize() {
	home=$(getent passwd "$1" | cut -d: -f6) && [ "$home" ] && mkdir -p -m 0700 -- "$home/.ssh" || return
	user=$1 file=$home/.ssh/authorized_keys
	shift
	for key; do grep -qsxF -e "$key" "$file" || printf '%s\n' "$key" >>"$file" || return; done
	chmod 0600 "$file" && chown -R "$user:" "$home/.ssh"
}

`

// script returns c as a shell script; others run before its runcmd, as cloud-init
// orders them.
func (c *cloudConfig) script(others [][]byte) []byte {
	s := &shell{}
	s.WriteString(prelude)
	if len(c.ignored) > 0 {
		s.line("echo %s", quote("cloud-config: not done in this cloud: "+strings.Join(c.ignored, ", ")))
	}
	if len(c.bootcmd) > 0 {
		s.run("bootcmd", itemized("bootcmd", c.bootcmd), "sh ")
	}
	s.files(c.files, false)
	if c.hostname != "" {
		s.line("rename %s || fail hostname", quote(c.hostname))
	}
	for _, g := range c.groups {
		s.line("group %s || fail group %s", quoteAll(append([]string{g.name}, g.members...)), quote(g.name))
	}
	for _, u := range c.users {
		s.user(u)
	}
	if len(c.keys) > 0 {
		s.line("authorize root %s || fail ssh_authorized_keys", quoteAll(c.keys))
	}
	if c.timezone != "" {
		s.line("{ [ -f /usr/share/zoneinfo/%[1]s ] && ln -sfn /usr/share/zoneinfo/%[1]s /etc/localtime && echo %[1]s >/etc/timezone; } || fail timezone %[1]s", quote(c.timezone))
	}
	const apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confold "
	if c.update || c.upgrade || len(c.packages) > 0 {
		s.line(apt + "update || fail package_update")
	}
	if c.upgrade {
		s.line(apt + "dist-upgrade || fail package_upgrade")
	}
	if len(c.packages) > 0 {
		s.line(apt+"install -- %s || fail packages", quoteAll(c.packages))
	}
	s.files(c.files, true)
	for i, other := range others {
		s.run(fmt.Sprintf("part-%03d", i+1), other, "")
	}
	if len(c.runcmd) > 0 {
		s.run("runcmd", itemized("runcmd", c.runcmd), "sh ")
	}
	s.line("exit $failed")
	return s.Bytes()
}

// itemized joins commands to one script, as cloud-init does, so that a cd or an export
// lasts; its exit says whether any of them failed.
func itemized(key string, commands []string) []byte {
	s := &shell{}
	s.line("#!/bin/sh")
	s.line(`weir_failed=0`)
	s.line(`weir_item() { [ "$?" = 0 ] || { echo "cloud-config: %s $1 failed" >&2; weir_failed=1; }; }`, key)
	for i, command := range commands {
		s.line("%s\nweir_item %d", command, i+1)
	}
	s.line("exit $weir_failed")
	return s.Bytes()
}

// shell is a script in the making.
type shell struct{ bytes.Buffer }

func (s *shell) line(format string, args ...any) { fmt.Fprintf(s, format+"\n", args...) }

// put writes content to a file; what is asked of put goes on in its arguments.
func (s *shell) put(content []byte, arguments, step string) {
	s.line("put %s <<'EOF' || fail %s", arguments, step)
	text := base64.StdEncoding.EncodeToString(content)
	for line := range slices.Chunk([]byte(text), 76) {
		s.line("%s", line)
	}
	s.line("EOF")
}

// run puts a script where cloud-init would and runs it by the interpreter, or by itself.
func (s *shell) run(name string, script []byte, interpreter string) {
	s.put(script, fmt.Sprintf(`"$scripts/%s" root:root 0700`, name), name)
	s.line(`%s"$scripts/%s" || fail %s`, interpreter, name, name)
}

func (s *shell) files(files []cloudFile, late bool) {
	for _, f := range files {
		if f.late == late {
			arguments := quoteAll([]string{f.path, f.owner, f.mode})
			if f.add {
				arguments += " append"
			}
			s.put(f.content, arguments, quote("write_files "+f.path))
		}
	}
}

func (s *shell) user(u cloudUser) {
	name := quote(u.name)
	step := "fail user " + name
	for _, g := range u.groups {
		s.line("group %s || %s", quote(g), step)
	}
	s.line("id -u -- %[1]s >/dev/null 2>&1 || useradd %[2]s -- %[1]s || %[3]s", name, quoteAll(u.options), step)
	if u.hash != "" {
		s.line("usermod -p %s -- %s || %s", quote(u.hash), name, step)
	}
	if u.password != "" {
		s.line(`printf '%%s\n' %s | chpasswd || %s`, quote(u.name+":"+u.password), step)
	}
	if !u.unlocked {
		s.line("passwd -q -l -- %s || %s", name, step)
	}
	for _, rule := range u.sudo {
		s.line("allow %s || %s", quote(u.name+" "+rule), step)
	}
	if len(u.keys) > 0 {
		s.line("authorize %s %s || %s", name, quoteAll(u.keys), step)
	}
}

// quote makes one word of the shell of any string without a NUL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}
