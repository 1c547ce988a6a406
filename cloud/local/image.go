package local

import (
	"embed"
	"io/fs"
	"time"
)

// boot holds what runs in a machine: init, its first process, and the programs that
// stand in for those that need systemd or a way out.
//
//go:embed boot
var boot embed.FS

// initGrace is the longest that init takes to stop a machine after SIGTERM; what is
// still there then may be killed.
const initGrace = 8 * time.Second

// initCommand is a machine's first process. The directory is bind-mounted from the
// host: init reads init and user-data there, and writes status and log.
func initCommand() []string { return []string{"/bin/sh", bootDir + "/init"} }

// bootDir is where a machine has its boot directory.
const bootDir = "/var/lib/cloud/weir"

// imageFile is a file that a machine's disk has in addition to the host's.
type imageFile struct {
	mode    fs.FileMode
	content []byte
}

// bootFiles returns the files of a new machine's boot directory. The script is
// what compileUserData returned.
func bootFiles(script []byte) map[string]imageFile {
	files := map[string]imageFile{"init": {0o755, bootFile("init")}}
	if script != nil {
		files["user-data"] = imageFile{0o700, script}
	}
	return files
}

// imageFiles returns the files of a new machine's root file system, by their path
// inside. Programs in /usr/local/sbin are found before those they stand in for.
func imageFiles() map[string]imageFile {
	files := map[string]imageFile{
		"/usr/sbin/policy-rc.d":        {0o755, bootFile("policy-rc.d")},
		"/usr/local/lib/weir/unit":     {0o755, bootFile("unit")},
		"/usr/local/lib/weir/unit.awk": {0o644, bootFile("unit.awk")},
	}
	for _, name := range []string{"apt-get", "cloud-init", "hostnamectl", "journalctl", "service", "shutdown", "sudo", "systemctl", "timedatectl", "ufw"} {
		files["/usr/local/sbin/"+name] = imageFile{0o755, bootFile(name)}
	}
	for name, program := range map[string]string{"apt": "apt-get", "reboot": "shutdown", "poweroff": "shutdown", "halt": "shutdown"} {
		files["/usr/local/sbin/"+name] = imageFile{0o755, bootFile(program)}
	}
	return files
}

// bootFile returns an embedded file; that it is there is known when this is compiled.
func bootFile(name string) []byte {
	b, err := boot.ReadFile("boot/" + name)
	if err != nil {
		panic(err)
	}
	return b
}
