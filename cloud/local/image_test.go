package local

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"weir/cloud"
	"weir/weir"
)

// droplet describes a machine with the user-data as it is.
func droplet(n int, userData string) cloud.Spec {
	s := spec(n, "")
	s.UserData = userData
	return s
}

// ended waits until a machine's user-data has come to an end, good or bad.
func ended(t *testing.T, c *Cloud, id weir.ID) weir.Boot {
	t.Helper()
	var b weir.Boot
	eventually(t, fmt.Sprintf("user-data of machine %s ends", id), func() error {
		if b = look(t, c, id).Boot; b.State != weir.BootDone && b.State != weir.BootFailed {
			return fmt.Errorf("it is %+v, and its log says %q", b, bootLog(c, id))
		}
		return nil
	})
	return b
}

func bootLog(c *Cloud, id weir.ID) string {
	b, _ := readEnd(c.paths.log(id), 1<<20)
	return string(b)
}

// sh runs a script in a machine and returns what it prints.
func sh(t *testing.T, c *Cloud, id weir.ID, script string) string {
	t.Helper()
	return in(t, c, id, "sh", "-c", script)
}

// powerCycle turns a machine off and on again.
func powerCycle(t *testing.T, c *Cloud, id weir.ID) {
	t.Helper()
	if err := errors.Join(c.PowerOff(t.Context(), id), c.PowerOn(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
}

func TestUserDataOfTutorialsEndsWithAServerThatServes(t *testing.T) {
	c := open(t, Config{})
	for i, userData := range []string{
		// of 2014, by a script
		`#!/bin/bash
apt-get -y update
apt-get -y install nginx
export HOSTNAME=$(curl -s http://169.254.169.254/metadata/v1/hostname)
export PUBLIC_IPV4=$(curl -s http://169.254.169.254/metadata/v1/interfaces/public/0/ipv4/address)
echo Droplet: $HOSTNAME, IP Address: $PUBLIC_IPV4 > /var/www/html/index.nginx-debian.html
`,
		// with a restart, by sudo and a firewall, and no patience with failures
		`#!/bin/bash -ex
export DEBIAN_FRONTEND=noninteractive
apt update && apt upgrade -yq
apt-get install -y -qq -o Dpkg::Options::="--force-confold" nginx curl ufw
cat > /etc/nginx/conf.d/name.conf <<EOF
server {
    listen 80 default_server;
    location / { return 200 "Droplet: $(hostname), IP Address: $(curl -sf http://169.254.169.254/metadata/v1/interfaces/public/0/ipv4/address)\n"; }
}
EOF
rm /etc/nginx/sites-enabled/default
nginx -t
systemctl daemon-reload
systemctl enable nginx
sudo -E systemctl restart nginx.service
sudo -u www-data test ! -w /etc/passwd
timedatectl set-timezone Europe/Berlin
[ "$(date -d @0 +%H)" = 01 ]
hostnamectl set-hostname another
cloud-init status | grep -q running
systemctl is-active --quiet nginx
ufw allow 'Nginx Full'
ufw --force enable
`,
		// by cloud-config
		`#cloud-config
hostname: another
package_update: true
package_upgrade: true
packages:
  - nginx
runcmd:
  - export PUBLIC_IPV4=$(curl -s http://169.254.169.254/metadata/v1/interfaces/public/0/ipv4/address)
  - 'echo Droplet: $(curl -s http://169.254.169.254/metadata/v1/hostname), IP Address: $PUBLIC_IPV4 > /var/www/html/index.html'
  - [ service, nginx, restart ]
`,
	} {
		s := droplet(i+1, userData)
		m := create(t, c, s)
		want := fmt.Sprintf("Droplet: %s, IP Address: %s\n", s.Name, m.Public)
		if got, err := ask(c, m.Private, 80); err != nil || got != want {
			t.Errorf("machine %d answers %q, %v, want %q; its log:\n%s", i+1, got, err, want, bootLog(c, m.ID))
		}
		powerCycle(t, c, m.ID)
		eventually(t, "it serves after a power cycle", func() error {
			if got, err := ask(c, m.Private, 80); err != nil || got != want {
				return fmt.Errorf("it answers %q, %w", got, err)
			}
			return nil
		})
	}
}

func TestFailedUserDataIsToldWithItsEnd(t *testing.T) {
	c := open(t, Config{})
	for i, x := range []struct{ userData, why, end string }{
		{"#!/bin/sh\necho out; echo err >&2; exit 3\n", "user-data exited with 3", "out\nerr"},
		{"#!/no/such/interpreter\n", "user-data exited with 127", "No such file"},
		{"#cloud-config\nruncmd: [ls /nowhere, touch /went-on]\n", "user-data exited with 1", "cloud-config: runcmd 1 failed"},
		{"#!/bin/sh -e\napt-get update\napt-get install -y nginx weir-no-such-package\n", "user-data exited with 100",
			"this machine has no way out, and its host does not have: weir-no-such-package"},
	} {
		s := droplet(i+1, x.userData)
		if _, err := c.CreateMachine(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		b := ended(t, c, s.ID)
		if b.State != weir.BootFailed || b.Why != x.why || !strings.Contains(b.End, x.end) {
			t.Errorf("%q: boot is %+v, want it to have failed, %s, with %q at its end", x.userData, b, x.why, x.end)
		}
		if got := sh(t, c, s.ID, "cat /var/log/cloud-init-output.log"); !strings.Contains(got, x.end) {
			t.Errorf("%q: the machine's own log is %q, want %q in it", x.userData, got, x.end)
		}
	}
	sh(t, c, "100003", "test -e /went-on")
}

func TestWhatUserDataLeavesInTheBackgroundLivesOn(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, `nohup sh -c 'while echo alive; do sleep 0.05; done' &
trap '' TERM
sleep 1111 >/dev/null 2>&1 &
`))
	lines := func() int { return strings.Count(bootLog(c, m.ID), "alive") }
	before := lines()
	eventually(t, "what it left writes on", func() error {
		if lines() <= before+1 {
			return errors.New("it does not")
		}
		return nil
	})
	sh(t, c, m.ID, "pgrep -f 'sleep 1111'")
	// It ignores TERM, and does not keep the machine from stopping.
	if err := c.PowerOff(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	if m = look(t, c, m.ID); m.On || m.Boot.State != weir.BootDone {
		t.Errorf("after power off it is %+v, want it off, and its boot done", m)
	}
}

func TestUserDataRunsOnceAndAgainOnlyIfItWasCutShort(t *testing.T) {
	c := open(t, Config{})
	runs := func(id weir.ID) string { return sh(t, c, id, "cat /runs") }
	done := create(t, c, spec(1, "echo run >>/runs"))
	powerCycle(t, c, done.ID)
	booted(t, c, done.ID)
	if got := runs(done.ID); got != "run" {
		t.Errorf("user-data that was done ran %q, want once", got)
	}

	short := spec(2, "echo run >>/runs; [ $(wc -l </runs) = 2 ] || sleep 1000")
	if _, err := c.CreateMachine(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its user-data has begun", func() error { _, err := try(c, short.ID, "test", "-s", "/runs"); return err })
	powerCycle(t, c, short.ID)
	booted(t, c, short.ID)
	if got := runs(short.ID); got != "run\nrun" {
		t.Errorf("user-data that was cut short ran %q, want twice", got)
	}
	if !strings.Contains(bootLog(c, short.ID), "was lost before this came to its end") {
		t.Errorf("its log does not tell that it began again: %q", bootLog(c, short.ID))
	}

	// To run it again would reboot for ever.
	reboots := create(t, c, spec(3, "echo run >>/runs; apt-get install -y nginx; reboot; sleep 1000"))
	eventually(t, "it is back after the reboot that it asked for", func() error { _, err := ask(c, reboots.Private, 80); return err })
	if got := runs(reboots.ID); got != "run" {
		t.Errorf("user-data that reboots ran %q, want once", got)
	}
}

func TestPowerOffFromWithinTurnsTheMachineOff(t *testing.T) {
	c := open(t, Config{})
	for i, command := range []string{"poweroff", "shutdown -h now", "systemctl poweroff", "halt"} {
		m := create(t, c, spec(i+1, ""))
		_, _ = try(c, m.ID, "sh", "-c", command) // the machine may go before it can answer
		eventually(t, command+" turns it off", func() error {
			if m = look(t, c, m.ID); m.On {
				return errors.New("it is on")
			}
			return nil
		})
	}
}

func TestSystemctlRunsWhatHasAUnitFile(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	unit := func(name, text string) {
		t.Helper()
		sh(t, c, m.ID, fmt.Sprintf("cat >/etc/systemd/system/%s.service <<'END'\n%s\nEND\nsystemctl daemon-reload", name, text))
	}
	says := func(script, want string) {
		t.Helper()
		eventually(t, script, func() error {
			if got, err := try(c, m.ID, "sh", "-c", script); got != want {
				return fmt.Errorf("it prints %q (%v), want %q", got, err, want)
			}
			return nil
		})
	}

	// A service as every tutorial has it.
	unit("app", `[Unit]
Description=An app
After=network.target

[Service]
Type=simple
User=www-data
WorkingDirectory=/var/www
Environment="GREETING=hello  there" PORT=8000
EnvironmentFile=-/etc/default/app
RuntimeDirectory=app
# It says who and where it is, what it was given, and what it ignores.
ExecStart=/bin/sh -c 'echo "$$(id -un) $$PWD $$0 $$*" > /run/app/said; grep SigIgn /proc/$$$$/status >>/run/app/said; \
    exec sleep 1000' ${GREETING} $PORT "a b" %n $$x ;|& $UNSET
Restart=always
RestartSec=100ms

[Install]
WantedBy=multi-user.target`)
	sh(t, c, m.ID, "systemctl enable --now app")
	// Signals 32 and 33 are the C library's own: what was inherited of them nobody can restore.
	says("head -1 /run/app/said; echo $((0x$(sed -n 's/^SigIgn:[[:space:]]*//p' /run/app/said) & ~(3 << 31)))",
		"www-data /var/www hello  there 8000 a b app.service $x ;|&\n0")
	says("systemctl is-active app; systemctl is-enabled app.service", "active\nenabled")
	first := sh(t, c, m.ID, "cat /run/weir/app/main")
	sh(t, c, m.ID, "kill -9 "+first)
	says("pgrep -u www-data -x sleep | grep -vxc "+first, "1")
	sh(t, c, m.ID, "systemctl restart app")
	says("systemctl is-active app; pgrep -u www-data -x sleep | wc -l", "active\n1")
	powerCycle(t, c, m.ID)
	booted(t, c, m.ID)
	says("systemctl is-active app", "active")
	sh(t, c, m.ID, "touch /run/before; reboot")
	says("ls /run/before 2>/dev/null; systemctl is-active app; pgrep -u www-data -x sleep | wc -l", "active\n1")
	sh(t, c, m.ID, "systemctl disable --now app")
	says("systemctl is-active app; systemctl is-enabled app; pgrep -u www-data -x sleep | wc -l", "inactive\ndisabled\n0")
	powerCycle(t, c, m.ID)
	booted(t, c, m.ID)
	says("systemctl is-active app", "inactive")

	unit("once", `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "echo one >/once"
ExecStart=/bin/sh -c "echo two >>/once"
ExecStop=/bin/rm /once`)
	says("systemctl start once; cat /once; systemctl is-active once; systemctl stop once; ls /once 2>&1; systemctl is-active once",
		"one\ntwo\nactive\nls: cannot access '/once': No such file or directory\ninactive")

	unit("loop", "[Service]\nExecStart=/bin/false\nRestart=on-failure\nRestartSec=10ms")
	sh(t, c, m.ID, "systemctl start loop")
	says("systemctl is-failed loop && ! systemctl is-active loop", "failed\nfailed") // it gave up in the end
	sh(t, c, m.ID, "systemctl restart loop")

	unit("broken", "[Service]\nExecStartPre=/bin/false\nExecStart=/bin/sleep 1000")
	says("systemctl start broken; echo $?", `Job for broken.service failed: ExecStartPre failed. See "journalctl -u broken".`+"\n1")

	unit("web", `[Service]
Type=forking
PIDFile=/run/nginx.pid
ExecStartPre=/usr/sbin/nginx -t -q
ExecStart=/usr/sbin/nginx
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
KillSignal=SIGQUIT
[Install]
WantedBy=multi-user.target
Alias=www.service`)
	sh(t, c, m.ID, "systemctl enable --now web && systemctl reload web")
	says("systemctl is-active www; curl -so /dev/null -w '%{http_code}' localhost", "active\n200")
	says("systemctl stop www; systemctl is-active web; pgrep -c nginx", "inactive\n0")

	// What has an init script runs by it.
	says("systemctl start haproxy >/dev/null; systemctl is-active haproxy; systemctl --quiet enable haproxy; ls /etc/rc2.d", "active\nS01haproxy")
	says("service haproxy stop >/dev/null; systemctl is-active haproxy; systemctl --quiet disable haproxy; systemctl is-enabled haproxy", "inactive\ndisabled")
	says("systemctl mask haproxy; systemctl start haproxy; echo $?; systemctl unmask haproxy",
		"Failed to start haproxy.service: Unit haproxy.service is masked.\n1")
	says("systemctl start nowhere; echo $?; systemctl status nowhere; echo $?; service nowhere start; echo $?",
		"Failed to start nowhere: Unit nowhere not found.\n5\nUnit nowhere could not be found.\n4\nFailed to start nowhere: Unit nowhere not found.\n5")
}

func TestAPackageThatIsThereIsInstalledAsOnADroplet(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	if got := sh(t, c, m.ID, "ls /etc/rc2.d; pgrep -c 'nginx|haproxy' || true"); got != "0" {
		t.Errorf("a new machine has enabled or running what the host has: %q", got)
	}
	sh(t, c, m.ID, "apt-get install -qy haproxy")
	if got := sh(t, c, m.ID, "systemctl is-active haproxy; systemctl is-enabled haproxy; systemctl is-active nginx || true"); got != "active\nenabled\ninactive" {
		t.Errorf("after install haproxy, and nginx, are %q", got)
	}
	// A second install does not start what was stopped since.
	if got := sh(t, c, m.ID, "systemctl -q disable --now haproxy; apt-get install -qy haproxy; systemctl is-active haproxy || true"); !strings.HasSuffix(got, "\ninactive") {
		t.Errorf("after stop and install haproxy is %q, want inactive", got)
	}
	sh(t, c, m.ID, "apt-get -s install nginx && ! systemctl is-active nginx")
	// The real one does the rest, maintainer scripts and all.
	if got := sh(t, c, m.ID, "apt-get remove -qy haproxy >/dev/null 2>&1; dpkg-query -W -f '${db:Status-Status}' haproxy"); got == "installed" {
		t.Errorf("haproxy is %q after apt-get remove", got)
	}
}

func TestInitReapsOrphans(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	sh(t, c, m.ID, "for i in $(seq 50); do (sleep 0.01 &); done")
	eventually(t, "no zombie is left", func() error {
		if got := sh(t, c, m.ID, "ps -eo stat= | grep -c Z || true"); got != "0" {
			return fmt.Errorf("there are %s", got)
		}
		return nil
	})
}
