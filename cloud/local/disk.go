package local

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// A machine's disk is an overlay: what the host has in its root file system, and over
// it the directory upper, which holds what the machine has written. A new machine's
// upper is not empty. It gives the machine an identity of its own, and hides what is
// the host's alone: by directories that the overlay does not merge (opaque), and
// by marks that a file is not there (whiteouts).

// emptied are the host's directories of which a machine has an empty one of its own.
func emptied() []string {
	return []string{
		"/root", "/home", "/tmp", "/var/tmp", "/mnt", "/media", "/srv", // where the host lacks them, too
		"/etc/rc0.d", "/etc/rc1.d", "/etc/rc2.d", "/etc/rc3.d", "/etc/rc4.d", "/etc/rc5.d", "/etc/rc6.d", "/etc/rcS.d",
		"/etc/ssl/private", "/etc/letsencrypt", "/etc/kubernetes",
		"/var/lib/weir", "/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet",
		"/var/mail", "/var/backups",
	}
}

// distribution are the directories at the top that a distribution may have. Any other is
// the host's own, and emptied.
func distribution() []string {
	return []string{"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "opt", "proc", "run", "sbin", "sys", "usr", "var"}
}

// hollowed are the host's trees of which a machine has the directories but not the files:
// packages expect those they made.
func hollowed() []string { return []string{"/var/log", "/var/spool"} }

// disk writes a new machine's upper directory. An error stops it, and is kept in err.
type disk struct {
	upper string
	err   error
}

// newDisk fills upper for the machine of r, out of whose sight the directories in hide
// must be, besides those that always are.
func newDisk(upper string, r *record, n networks, hide []string) error {
	d := &disk{upper: upper}
	d.check(os.Mkdir(upper, 0o755))
	top, err := os.ReadDir("/")
	d.check(err)
	for _, e := range top {
		if e.IsDir() && !slices.Contains(distribution(), e.Name()) {
			d.empty("/" + e.Name())
		}
	}
	for _, dir := range slices.Concat(emptied(), hide) {
		d.empty(dir)
	}
	for _, dir := range hollowed() {
		d.hollow(dir)
	}
	keys, err := filepath.Glob("/etc/ssh/ssh_host_*")
	d.check(err)
	for _, key := range keys {
		d.remove(key)
	}
	for _, file := range []string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-"} {
		d.lockPasswords(file)
	}
	d.identity(r, n)
	for path, file := range imageFiles() {
		d.write(path, file.mode, file.content)
	}
	d.write(weirPath, 0o755, nil) // the binary is mounted over it
	d.directory(bootDir, 0o755)
	if d.err != nil {
		return fmt.Errorf("write its disk: %w", d.err)
	}
	return nil
}

// identity writes what tells one server from another.
func (d *disk) identity(r *record, n networks) {
	short, _, _ := strings.Cut(r.Name, ".")
	names := r.Name
	if short != r.Name {
		names += " " + short
	}
	machineID := []byte(strings.ReplaceAll(uuid.NewString(), "-", "") + "\n")
	d.write("/etc/hostname", 0o644, []byte(r.hostname()+"\n"))
	d.write("/etc/hosts", 0o644, fmt.Appendf(nil, "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n", names))
	// Nobody answers there yet, and the gateway says so at once: a name that cannot be
	// known is an error and not a wait.
	d.write("/etc/resolv.conf", 0o644, fmt.Appendf(nil, "nameserver %s\noptions timeout:1 attempts:1\n", gatewayOf(n.Private)))
	d.write("/etc/machine-id", 0o444, machineID)
	d.write("/var/lib/dbus/machine-id", 0o444, machineID)
	d.write("/root/.ssh/authorized_keys", 0o600, []byte(strings.Join(append(slices.Clone(r.SSHKeys), ""), "\n")))
	d.chmod("/root/.ssh", 0o700)
}

// lockPasswords gives the machine a password file of the host without its passwords: its
// users come in by key.
func (d *disk) lockPasswords(path string) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || d.err != nil {
		return
	}
	d.check(err)
	var locked []byte
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) > 1 && len(fields[1]) > 1 && !strings.HasPrefix(fields[1], "!") {
			fields[1] = "*"
		}
		locked = append(locked, strings.Join(fields, ":")+"\n"...)
	}
	d.write(path, 0o640, locked)
	d.own(path)
}

// empty gives the machine an empty directory in place of the host's, and of what that
// links to.
func (d *disk) empty(path string) {
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		d.opaque(real)
	}
	d.opaque(path)
}

func (d *disk) opaque(path string) {
	if d.err != nil || d.hidden(path) {
		return
	}
	d.directory(path, 0o755)
	d.check(unix.Setxattr(d.at(path), "trusted.overlay.opaque", []byte("y"), 0))
}

// hollow gives the machine the directories of a tree of the host, without their files.
func (d *disk) hollow(root string) {
	if d.err != nil {
		return
	}
	d.check(filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // not on this host, or gone while we look
		}
		if err != nil || !e.IsDir() {
			return err
		}
		d.directory(path, 0o755)
		d.check(unix.Setxattr(d.at(path), "trusted.overlay.opaque", []byte("y"), 0))
		return d.err
	}))
}

// remove takes a file of the host out of the machine's sight.
func (d *disk) remove(path string) {
	d.directory(filepath.Dir(path), 0o755)
	if d.err == nil {
		d.check(unix.Mknod(d.at(path), unix.S_IFCHR, 0))
	}
}

// write gives the machine a file, and the directories that lead to it.
func (d *disk) write(path string, mode fs.FileMode, content []byte) {
	d.directory(filepath.Dir(path), 0o755)
	if d.err == nil {
		d.check(os.WriteFile(d.at(path), content, mode))
	}
	d.chmod(path, mode) // whatever our umask is
}

// directory makes a directory in upper, and those that lead to it. Over one of the host,
// it has the same owner and mode.
func (d *disk) directory(path string, mode fs.FileMode) {
	if d.err != nil || path == "/" {
		return
	}
	d.directory(filepath.Dir(path), 0o755)
	err := os.Mkdir(d.at(path), mode)
	if errors.Is(err, fs.ErrExist) {
		return
	}
	d.check(err)
	d.chmod(path, mode)
	d.own(path)
}

// own gives what is in upper the owner and mode of what it hides on the host.
func (d *disk) own(path string) {
	var there unix.Stat_t
	if d.err != nil || unix.Stat(path, &there) != nil {
		return // the host has none
	}
	d.check(os.Lchown(d.at(path), int(there.Uid), int(there.Gid)))
	d.check(unix.Chmod(d.at(path), there.Mode&0o7777))
}

func (d *disk) chmod(path string, mode fs.FileMode) {
	if d.err == nil {
		d.check(os.Chmod(d.at(path), mode))
	}
}

// hidden reports whether the machine sees nothing of the host's path anyway: making
// the directories that lead to it would only show their names.
func (d *disk) hidden(path string) bool {
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		value := make([]byte, 1)
		if n, err := unix.Getxattr(d.at(dir), "trusted.overlay.opaque", value); err == nil && n == 1 && value[0] == 'y' {
			return true
		}
	}
	return false
}

func (d *disk) at(path string) string { return filepath.Join(d.upper, path) }

func (d *disk) check(err error) {
	if d.err == nil {
		d.err = err
	}
}

// mountRoot has the calling thread see a machine's disk at dir/root. The mount is in a
// mount namespace of that thread, which hands it on to what it starts: nobody else
// sees it, and it is gone with the last that does.
func mountRoot(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	layers := "lowerdir=/,upperdir=upper,workdir=work"
	// By relative paths, since an option cannot quote a comma or a colon.
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	if err := unix.Mount("overlay", "root", "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount the overlay of %s: %w", dir, err)
	}
	return nil
}
