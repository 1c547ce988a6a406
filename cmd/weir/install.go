package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weir/agent"
)

const (
	unitDir     = "/etc/systemd/system"
	installedAs = "/usr/local/bin/weir"
	serveUser   = "weir" // whom the control plane runs as
)

// install writes a service of systemd.
type install struct {
	print bool
	force bool
	root  string

	out io.Writer
}

func installCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make a service of systemd of weir serve or weir node",
		Args:  arguments(0, 0, "serve or node"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(installServeCommand(), installNodeCommand())
	return cmd
}

func installServeCommand() *cobra.Command {
	var i install
	var s serve
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Make a service of systemd of weir serve",
		Long: `Write the unit of weir serve, with the flags that are given here, and put this program where
it names it. The service runs as a user of its own, weir, without any capability. A unit
that is there and is another stays, unless --force is given.`,
		Example: `  weir install serve --cluster 192.0.2.11,192.0.2.12,192.0.2.13 --listen :7070
  weir install serve --print`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out = cmd.OutOrStdout()
			return i.serve(cmd.Context(), &s, cmd.Flags())
		},
	}
	s.flags(cmd.Flags())
	i.flags(cmd.Flags())
	return cmd
}

func installNodeCommand() *cobra.Command {
	var i install
	var c agent.Config
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Make a service of systemd of weir node",
		Long: `Write the unit of weir node, with the flags that are given here, and put this program where
it names it. The service runs as root with no more capabilities than HAProxy and an
address on a network segment need. A unit that is there and is another stays, unless
--force is given.`,
		Example: `  weir install node --join https://192.0.2.11:7071 --token /etc/weir/node.token`,
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out = cmd.OutOrStdout()
			return i.node(cmd.Context(), &c, cmd.Flags())
		},
	}
	nodeFlags(cmd.Flags(), &c)
	i.flags(cmd.Flags())
	return cmd
}

func (i *install) flags(f *pflag.FlagSet) {
	f.BoolVar(&i.print, "print", false, "print the unit, and write nothing")
	f.BoolVar(&i.force, "force", false, "write over a unit that is another")
	f.StringVar(&i.root, "root", "/", "`directory` below which everything is written, as of the disk of another machine")
}

// here reports whether it is this machine that the service is for.
func (i *install) here() bool { return filepath.Clean(i.root) == "/" }

func (i *install) serve(ctx context.Context, s *serve, f *pflag.FlagSet) error {
	absolute(&s.data, &s.pki, &s.secrets, &s.tlsCert, &s.tlsKey, &s.acme.ca, &s.acme.token, &s.provider.token)
	for i := range s.config {
		absolute(&s.config[i])
		if err := visible(map[string]string{"config": s.config[i]}); err != nil {
			return err
		}
	}
	if err := visible(map[string]string{"data": s.data, "pki": s.pki, "secrets": s.secrets, "tls-cert": s.tlsCert, "tls-key": s.tlsKey, "acme-ca": s.acme.ca, "acme-digitalocean-token": s.acme.token, "digitalocean-token": s.provider.token}); err != nil {
		return err
	}
	if i.here() && !i.print {
		if _, err := s.plan(); err != nil {
			return err
		}
	}
	var next []string
	if i.here() && !i.print && os.Geteuid() == 0 {
		made, err := makeUser(ctx, serveUser)
		if err != nil {
			return err
		}
		if made {
			fmt.Fprintf(i.out, "made user %s\n", serveUser)
		}
	} else {
		next = append(next, fmt.Sprintf("useradd --system --user-group --no-create-home --home-dir /var/lib/weir --shell /usr/sbin/nologin %s", serveUser))
	}
	if _, below := stateDirectory(s.data); !below {
		next = append(next, fmt.Sprintf("install -d -m 0700 -o %[1]s -g %[1]s %[2]s", serveUser, quoted(s.data)))
	}
	if dir := s.authorityDir(); len(s.cluster) > 1 && !there(filepath.Join(i.root, dir, "ca.pem")) {
		next = append(next, fmt.Sprintf("weir pki create --pki %s   # on one member; copy that directory to the others", quoted(dir)))
	}
	return i.write(serveUnit(s, f), "weir-serve", next)
}

func (i *install) node(_ context.Context, c *agent.Config, f *pflag.FlagSet) error {
	absolute(&c.Dir, &c.TokenFile, &c.CAFile)
	if err := visible(map[string]string{"data": c.Dir, "token": c.TokenFile, "ca": c.CAFile}); err != nil {
		return err
	}
	check := *c
	if !i.here() || i.print {
		check.CAFile = "" // it is on another disk
	}
	if err := checkNode(&check); err != nil {
		return err
	}
	var next []string
	if _, below := stateDirectory(c.Dir); !below {
		next = append(next, "install -d -m 0700 "+c.Dir)
	}
	if !there(filepath.Join(i.root, c.TokenFile)) {
		next = append(next, fmt.Sprintf("put the token that `weir node token NAME` printed into %s", quoted(c.TokenFile)))
	}
	return i.write(nodeUnit(c, f), "weir-node", next)
}

// write writes a unit and this program, and says what it wrote and what is next.
func (i *install) write(unit []byte, service string, next []string) error {
	if i.print {
		_, err := i.out.Write(unit)
		return err
	}
	if i.here() && os.Geteuid() != 0 {
		return fmt.Errorf("install: making a service needs root: run it with sudo")
	}
	file := filepath.Join(i.root, unitDir, service+".service")
	was, err := os.ReadFile(file)
	switch {
	case err == nil && bytes.Equal(was, unit):
		fmt.Fprintf(i.out, "%s is as it should be\n", file)
	case err == nil && !i.force:
		return fmt.Errorf("install: %s is there and is another: --print shows the new one, --force writes it over that", file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("install: %w", err)
	default:
		if err := put(file, unit, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(i.out, "wrote %s\n", file)
	}
	program, err := i.program()
	if err != nil {
		return err
	}
	if program != "" {
		fmt.Fprintf(i.out, "wrote %s\n", program)
	}
	fmt.Fprintln(i.out, "next:")
	for _, line := range append(next, "systemctl daemon-reload", "systemctl enable "+service, "systemctl restart "+service) {
		fmt.Fprintf(i.out, "  %s\n", line)
	}
	return nil
}

// program puts this program where units name it, unless it is there already, and returns
// where it wrote it.
func (i *install) program() (file string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("install: %w", err)
	}
	file = filepath.Join(i.root, installedAs)
	if a, err := os.Stat(self); err == nil {
		if b, err := os.Stat(file); err == nil && os.SameFile(a, b) {
			return "", nil
		}
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return "", fmt.Errorf("install: %w", err)
	}
	if was, err := os.ReadFile(file); err == nil && bytes.Equal(was, program) {
		return "", nil
	}
	return file, put(file, program, 0o755)
}

// put writes a file as a whole, and the directories above it.
func put(file string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := renameio.WriteFile(file, data, mode, renameio.WithStaticPermissions(mode)); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// makeUser makes a system user if there is none of that name, and reports whether it did.
func makeUser(ctx context.Context, name string) (bool, error) {
	var unknown osuser.UnknownUserError
	if _, err := osuser.Lookup(name); !errors.As(err, &unknown) {
		return false, err
	}
	out, err := exec.CommandContext(ctx, "useradd", "--system", "--user-group", "--no-create-home",
		"--home-dir", "/var/lib/weir", "--shell", "/usr/sbin/nologin", name).CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("install: make user %s: %w: %s", name, err, oneLine(string(out)))
	}
	return true, nil
}

func there(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// absolute makes paths that were given relative to here what they are from anywhere.
func absolute(paths ...*string) {
	for _, p := range paths {
		if *p == "" {
			continue
		}
		if abs, err := filepath.Abs(*p); err == nil {
			*p = abs
		}
	}
}

// visible returns a usage error if one of the paths, by the flag that names it, is in a directory
// that the units hide from the services.
func visible(paths map[string]string) error {
	for _, flag := range slices.Sorted(maps.Keys(paths)) {
		for _, hidden := range []string{"/root", "/home", "/run/user", "/tmp", "/var/tmp"} {
			if p := paths[flag]; p == hidden || strings.HasPrefix(p, hidden+"/") {
				return usageErrorf("--%s is %s, and the service sees nothing of %s: put it below /etc/weir or /var/lib/weir", flag, p, hidden)
			}
		}
	}
	return nil
}

// stateDirectory returns what systemd calls the directory below /var/lib that it makes for a
// service, and false if dir is elsewhere.
func stateDirectory(dir string) (name string, below bool) {
	name, below = strings.CutPrefix(filepath.Clean(dir), "/var/lib/")
	return name, below
}

// unit is what a service of systemd is made of.
type unit struct{ b strings.Builder }

func (u *unit) section(name string) { fmt.Fprintf(&u.b, "\n[%s]\n", name) }
func (u *unit) say(line string)     { u.b.WriteString(line + "\n") }
func (u *unit) set(key, value string) {
	fmt.Fprintf(&u.b, "%s=%s\n", key, value)
}

// begin writes what both services have before their own.
func (u *unit) begin(verb, description string) {
	u.say("# Written by weir install " + verb + ". To change what it says, use a drop-in: systemctl edit weir-" + verb)
	u.section("Unit")
	u.set("Description", description)
	u.set("Wants", "network-online.target")
	u.set("After", "network-online.target")
	u.set("StartLimitIntervalSec", "0")
	u.section("Service")
	u.set("Type", "notify")
}

// data gives the service its directories, and nothing else to write to.
func (u *unit) data(dir string, others ...string) {
	if name, below := stateDirectory(dir); below {
		u.set("StateDirectory", name)
		u.set("StateDirectoryMode", "0700")
	} else {
		others = append(others, dir)
	}
	for _, other := range others {
		if other != "" && !strings.HasPrefix(other, dir+"/") {
			u.set("ReadWritePaths", escape("-"+other))
		}
	}
}

// hardened is what neither service needs.
func (u *unit) hardened() {
	u.say("NoNewPrivileges=yes")
	u.say("ProtectSystem=strict")
	u.say("ProtectHome=yes")
	u.say("PrivateTmp=yes")
	u.say("PrivateDevices=yes")
	u.say("ProtectKernelTunables=yes")
	u.say("ProtectKernelModules=yes")
	u.say("ProtectKernelLogs=yes")
	u.say("ProtectControlGroups=yes")
	u.say("ProtectClock=yes")
	u.say("ProtectHostname=yes")
	u.say("LockPersonality=yes")
	u.say("RestrictNamespaces=yes")
	u.say("RestrictSUIDSGID=yes")
	u.say("RemoveIPC=yes")
	u.say("SystemCallArchitectures=native")
}

// end writes what both services have after their own.
func (u *unit) end() []byte {
	u.section("Install")
	u.set("WantedBy", "multi-user.target")
	return []byte(u.b.String())
}

// serveUnit returns the unit of weir serve.
func serveUnit(s *serve, f *pflag.FlagSet) []byte {
	var u unit
	u.begin("serve", "Weir, the control plane of load balancers")
	u.set("ExecStart", command("serve", f, map[string]string{"data": s.data, "pki": s.pki, "secrets": s.secrets, "tls-cert": s.tlsCert, "tls-key": s.tlsKey, "acme-ca": s.acme.ca, "acme-digitalocean-token": s.acme.token, "digitalocean-token": s.provider.token}))
	u.set("ExecReload", "/bin/kill -USR1 $MAINPID")
	u.set("User", serveUser)
	u.set("Group", serveUser)
	u.data(s.data, s.pki)
	u.say("# The verbs on this host find the API by its record there.")
	u.set("RuntimeDirectory", "weir/serve")
	u.set("Restart", "always")
	u.set("RestartSec", "1")
	u.set("WatchdogSec", "30")
	u.set("LimitNOFILE", "65536")
	u.say("# An etcd that waits for its turn looks dead to the other members.")
	u.set("Nice", "-5")
	u.set("OOMScoreAdjust", "-500")
	u.say("")
	u.hardened()
	if privileged(s.listen) || privileged(s.nodeListen) {
		u.set("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE")
		u.set("AmbientCapabilities", "CAP_NET_BIND_SERVICE")
	} else {
		u.set("CapabilityBoundingSet", "")
	}
	u.say("RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK")
	u.say("RestrictRealtime=yes")
	u.say("MemoryDenyWriteExecute=yes")
	u.say("ProtectProc=invisible")
	u.say("SystemCallFilter=@system-service")
	u.say("SystemCallFilter=~@privileged @resources")
	u.say("SystemCallErrorNumber=EPERM")
	return u.end()
}

// nodeUnit returns the unit of weir node.
func nodeUnit(c *agent.Config, f *pflag.FlagSet) []byte {
	var u unit
	u.begin("node", "Weir, the agent of a load balancer's instance")
	u.set("ExecStart", command("node", f, map[string]string{"data": c.Dir, "token": c.TokenFile, "ca": c.CAFile}))
	u.data(c.Dir)
	u.say("# HAProxy outlives the agent: the next one takes it over.")
	u.set("KillMode", "process")
	u.set("Restart", "always")
	u.set("RestartSec", "1")
	u.set("WatchdogSec", "30")
	u.set("LimitNOFILE", "1048576")
	u.say("# Serving is what this machine is for.")
	u.set("CPUWeight", "1000")
	u.set("OOMScoreAdjust", "-900")
	u.say("")
	u.hardened()
	u.say("# Addresses on a segment (NET_ADMIN, NET_RAW for ARP); low ports; HAProxy's worker is")
	u.say("# another user (SETUID, SETGID), whom to end it when it hangs takes KILL. An agent that waits")
	u.say("# for its turn looks dead to its peer: it has real-time priority (SYS_NICE).")
	u.say("CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_KILL CAP_SYS_NICE")
	u.say("RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK AF_PACKET")
	u.say("SystemCallFilter=@system-service")
	u.say("SystemCallErrorNumber=EPERM")
	return u.end()
}

// privileged reports whether only who may bind low ports can listen on addr.
func privileged(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	n, bad := strconv.Atoi(port)
	return err == nil && bad == nil && n > 0 && n < 1024
}

// command returns the line that starts a verb of weir with those of its flags in f that
// were given. paths have what these are from anywhere.
func command(verb string, f *pflag.FlagSet, paths map[string]string) string {
	words := []string{installedAs, verb}
	f.Visit(func(flag *pflag.Flag) {
		if slices.Contains([]string{"print", "force", "root", "help"}, flag.Name) || flag.Value.Type() == "bool" {
			return
		}
		value := flag.Value.String()
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), ",")
		}
		if path, ok := paths[flag.Name]; ok {
			value = path
		}
		words = append(words, "--"+flag.Name, escape(strings.ReplaceAll(value, "$", "$$")))
	})
	return strings.Join(words, " ")
}

// quoted returns word as a shell takes it for one.
func quoted(word string) string {
	if !strings.ContainsAny(word, " \t\n\"'\\$`!&|;<>()*?[]#~%=") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// escape returns word as one word of a unit, whatever is in it.
func escape(word string) string {
	word = strings.ReplaceAll(word, "%", "%%")
	if word != "" && !strings.ContainsAny(word, " \t\r\n\"'\\;") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(word) + `"`
}
