package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// keepalived is Debian's keepalived with one VRRP instance. The first balancer has the
// higher priority and takes the address back whenever it can, as in keepalived's own
// example and the tutorials that follow it. HAProxy is systemd's.
type keepalived struct {
	name     string
	settings keepalivedSettings
	lab      *lab
}

// keepalivedSettings are what differs between the ways to set it up.
type keepalivedSettings struct {
	advert time.Duration // between two advertisements; the backup misses three
	check  time.Duration // between two looks at HAProxy, 0 for none
}

func newKeepalived(name string, s keepalivedSettings) contender {
	return &keepalived{name: name, settings: s}
}

func (k *keepalived) String() string        { return k.name }
func (k *keepalived) period() time.Duration { return max(k.settings.advert, k.settings.check) }
func (k *keepalived) supervised()           {}
func (k *keepalived) down()                 {}

func (k *keepalived) alone() []netip.Addr { return balancerIPs[:] }

func (k *keepalived) open(ctx context.Context) (trial, error) { return openPair(ctx, k) }

func (k *keepalived) missing() string {
	if _, err := exec.LookPath("keepalived"); err != nil {
		return "keepalived is not installed (scripts/deps failover)"
	}
	return ""
}

// config returns keepalived.conf of a balancer.
func (k *keepalived) config(i int) string {
	state, priority := "MASTER", 101
	if i > 0 {
		state, priority = "BACKUP", 100
	}
	var b strings.Builder
	b.WriteString("global_defs {\n    script_user root\n    enable_script_security\n}\n")
	switch {
	case k.settings.check >= time.Second:
		// Not pidof, as in the tutorials: keepalived resolves the link and so runs killall5.
		fmt.Fprintf(&b, "vrrp_script haproxy {\n    script \"/usr/bin/pgrep -x haproxy\"\n    interval %g\n}\n", k.settings.check.Seconds())
	case k.settings.check > 0:
		fmt.Fprintf(&b, "track_file haproxy {\n    file %s\n    weight 0\n    init_file 0\n}\n", keepalivedChecked)
	}
	fmt.Fprintf(&b, "vrrp_instance service {\n    state %s\n    interface eth0\n    virtual_router_id 51\n    priority %d\n", state, priority)
	if k.settings.advert < time.Second {
		b.WriteString("    version 3\n") // version 2 knows only whole seconds
	}
	fmt.Fprintf(&b, "    advert_int %g\n", k.settings.advert.Seconds())
	fmt.Fprintf(&b, "    virtual_ipaddress {\n        %s/%d\n    }\n", serviceAddr, network.Bits())
	switch {
	case k.settings.check >= time.Second:
		b.WriteString("    track_script {\n        haproxy\n    }\n")
	case k.settings.check > 0:
		b.WriteString("    track_file {\n        haproxy\n    }\n")
	}
	fmt.Fprintf(&b, "    notify %s\n}\n", keepalivedNotify)
	return b.String()
}

const (
	keepalivedNotify = "/etc/keepalived/notify" // called as notify INSTANCE name STATE priority
	keepalivedState  = "/run/keepalived.state"  // the STATE

	keepalivedCheck   = "/etc/keepalived/check" // see checkScript
	keepalivedChecked = "/run/keepalived.check" // what it found, 0 if HAProxy runs
)

// checkScript looks more often than keepalived 2.2 can, whose scripts run each second at
// most: it tells of changes by a file, which keepalived watches.
func checkScript(interval time.Duration) string {
	return fmt.Sprintf(`#!/bin/sh
was=0
while sleep %g; do
	/usr/bin/pgrep -x haproxy >/dev/null
	is=$?
	[ $is = $was ] || echo $is >%s
	was=$is
done
`, interval.Seconds(), keepalivedChecked)
}

func (k *keepalived) up(_ context.Context, l *lab) error {
	k.lab = l
	for i := range l.balancers {
		if err := errors.Join(l.startHAProxy(i), k.start(i)); err != nil {
			return err
		}
	}
	return nil
}

func (k *keepalived) start(i int) error {
	h := k.lab.balancers[i]
	err := errors.Join(
		h.write("/etc/keepalived/keepalived.conf", k.config(i), 0o644),
		h.write(keepalivedNotify, "#!/bin/sh\necho \"$3\" >"+keepalivedState+"\n", 0o755))
	if err != nil {
		return err
	}
	if check := k.settings.check; check > 0 && check < time.Second && h.read(keepalivedCheck) == "" {
		if err := errors.Join(h.write(keepalivedCheck, checkScript(check), 0o755), h.start(keepalivedCheck)); err != nil {
			return err
		}
	}
	return h.start("keepalived", "--vrrp", "--dont-fork", "--log-console")
}

func (k *keepalived) ready(context.Context) (int, error) {
	for i, want := range []string{"MASTER", "BACKUP"} {
		if got := k.lab.balancers[i].read(keepalivedState); got != want {
			return 0, fmt.Errorf("%s is %q, want %q", k.lab.balancers[i].name, got, want)
		}
	}
	return k.lab.holder()
}

// handOver stops keepalived, which then says so in a last advertisement (priority 0).
func (k *keepalived) handOver(ctx context.Context, active int) error {
	_, err := k.lab.balancers[active].run(ctx, "sh", "-c", "kill -TERM $(cat /run/keepalived.pid)")
	return err
}

func (k *keepalived) heal(_ context.Context, f fault, i int) error {
	switch f {
	case dies:
		return errors.Join(k.lab.startHAProxy(i), k.start(i))
	case killed:
		return k.lab.startHAProxy(i)
	case planned:
		return k.start(i)
	}
	return nil
}
