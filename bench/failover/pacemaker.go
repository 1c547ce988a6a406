package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"time"
)

// pacemaker is Pacemaker with Corosync as in DigitalOcean's tutorials "How To Create a High
// Availability Setup with Corosync, Pacemaker, and Floating IPs" and "How To Set Up Highly
// Available HAProxy Servers with Corosync/Pacemaker": UDP unicast, no fencing, HAProxy as
// a clone that is looked at every 15 seconds, and the address where a HAProxy runs. Only
// the address is set by ocf:heartbeat:IPaddr2 rather than by a call of DigitalOcean's API.
type pacemaker struct {
	name  string
	token time.Duration // Corosync's, 0 for its default
	lab   *lab
}

// newPacemaker makes one with Corosync's token timeout, after which a silent node is
// declared dead. 0 leaves it at what Corosync 3 has as default, 3 s; that of Corosync 2, which
// the tutorial had, was 1 s.
func newPacemaker(name string, token time.Duration) contender {
	return &pacemaker{name: name, token: token}
}

func (p *pacemaker) String() string        { return p.name }
func (p *pacemaker) period() time.Duration { return 15 * time.Second }
func (p *pacemaker) down()                 {}

func (p *pacemaker) alone() []netip.Addr { return balancerIPs[:] }

func (p *pacemaker) open(ctx context.Context) (trial, error) { return openPair(ctx, p) }

func (p *pacemaker) missing() string {
	for _, name := range []string{"corosync", "pacemakerd", "crm_mon", "cibadmin", "/usr/lib/ocf/resource.d/heartbeat/IPaddr2"} {
		if _, err := exec.LookPath(name); err != nil {
			return name + " is not installed (scripts/deps failover)"
		}
	}
	return ""
}

func (p *pacemaker) corosyncConfig() string {
	token := ""
	if p.token > 0 {
		token = fmt.Sprintf("    token: %d\n", p.token.Milliseconds())
	}
	return fmt.Sprintf(`totem {
    version: 2
    cluster_name: lbcluster
    transport: udpu
    crypto_cipher: none
    crypto_hash: none
%s}
quorum {
    provider: corosync_votequorum
    two_node: 1
}
nodelist {
    node {
        ring0_addr: %s
        name: lb-1
        nodeid: 1
    }
    node {
        ring0_addr: %s
        name: lb-2
        nodeid: 2
    }
}
logging {
    to_stderr: yes
    to_syslog: no
}
`, token, balancerIPs[0], balancerIPs[1])
}

// haproxyAgent is a resource agent for HAProxy: the tutorial's is downloaded from the
// Internet, and Debian has none.
var haproxyAgent = `#!/bin/sh
case $1 in
start)
	pidof haproxy >/dev/null || haproxy -W -D -f ` + haproxyFile + ` || exit 1 ;;
stop)
	while pids=$(pidof haproxy); do kill $pids; sleep 0.1; done ;;
monitor)
	pidof haproxy >/dev/null || exit 7 ;;
meta-data)
	cat <<END
<?xml version="1.0"?>
<resource-agent name="haproxy" version="1.0">
<version>1.0</version>
<longdesc lang="en">HAProxy</longdesc><shortdesc lang="en">HAProxy</shortdesc>
<parameters/>
<actions>
<action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="15s"/><action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
END
	;;
*) exit 3 ;;
esac
exit 0
`

// pacemakerConfig is what the tutorials enter by crm configure.
var pacemakerConfig = fmt.Sprintf(`<configuration>
  <crm_config>
    <cluster_property_set id="properties">
      <nvpair id="stonith" name="stonith-enabled" value="false"/>
      <nvpair id="quorum" name="no-quorum-policy" value="ignore"/>
    </cluster_property_set>
  </crm_config>
  <nodes/>
  <resources>
    <primitive id="address" class="ocf" provider="heartbeat" type="IPaddr2">
      <instance_attributes id="address-params">
        <nvpair id="address-ip" name="ip" value="%s"/>
        <nvpair id="address-mask" name="cidr_netmask" value="%d"/>
      </instance_attributes>
    </primitive>
    <clone id="haproxy-clone">
      <primitive id="haproxy" class="ocf" provider="weir" type="haproxy">
        <operations><op id="haproxy-monitor" name="monitor" interval="15s"/></operations>
      </primitive>
    </clone>
  </resources>
  <constraints>
    <rsc_colocation id="together" rsc="address" with-rsc="haproxy-clone" score="INFINITY"/>
  </constraints>
</configuration>
`, serviceAddr, network.Bits())

func (p *pacemaker) up(ctx context.Context, l *lab) error {
	p.lab = l
	for i := range l.balancers {
		if err := p.start(ctx, i); err != nil {
			return err
		}
	}
	first := l.balancers[0]
	if err := first.write("/tmp/configuration.xml", pacemakerConfig, 0o644); err != nil {
		return err
	}
	return p.retry(ctx, func() error {
		_, err := first.run(ctx, "cibadmin", "--replace", "--scope", "configuration", "--xml-file", "/tmp/configuration.xml")
		return err
	})
}

// start starts Corosync and Pacemaker on a balancer. HAProxy is started by them.
func (p *pacemaker) start(ctx context.Context, i int) error {
	h := p.lab.balancers[i]
	err := errors.Join(
		h.write(haproxyFile, haproxyConfig, 0o644),
		h.write("/etc/corosync/corosync.conf", p.corosyncConfig(), 0o644),
		// OCF_ROOT is below /usr, which hosts share: the agent is mounted over a copy.
		h.write("/run/ocf/weir/haproxy", haproxyAgent, 0o755))
	if err != nil {
		return err
	}
	_, err = h.run(ctx, "sh", "-ec", `
		cp -a /usr/lib/ocf/resource.d/. /run/ocf/
		mount --bind /run/ocf /usr/lib/ocf/resource.d
		mkdir -p /run/crm /run/resource-agents
		chown hacluster:haclient /run/crm`)
	if err != nil {
		return err
	}
	if err := h.start("corosync", "-f"); err != nil {
		return err
	}
	err = p.retry(ctx, func() error {
		_, err := h.run(ctx, "corosync-cfgtool", "-s")
		return err
	})
	if err != nil {
		return err
	}
	return h.start("pacemakerd")
}

// retry calls do until it succeeds, for half a minute at most.
func (p *pacemaker) retry(ctx context.Context, do func() error) error {
	for end := time.Now().Add(30 * time.Second); ; {
		err := do()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w\n%s", err, p.lab.logs())
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// clusterStatus is what crm_mon says.
type clusterStatus struct {
	Nodes []struct {
		Name    string `xml:"name,attr"`
		Online  bool   `xml:"online,attr"`
		Standby bool   `xml:"standby,attr"`
		Pending bool   `xml:"pending,attr"`
	} `xml:"nodes>node"`
	Address resource   `xml:"resources>resource"`
	HAProxy []resource `xml:"resources>clone>resource"`
}

type resource struct {
	Role    string `xml:"role,attr"`
	Active  bool   `xml:"active,attr"`
	Failed  bool   `xml:"failed,attr"`
	Pending string `xml:"pending,attr"`
}

func (r resource) started() bool {
	return r.Role == "Started" && r.Active && !r.Failed && r.Pending == ""
}

func (p *pacemaker) ready(ctx context.Context) (int, error) {
	for _, h := range p.lab.balancers { // both have to see both
		out, err := h.run(ctx, "crm_mon", "--one-shot", "--inactive", "--output-as=xml")
		if err != nil {
			return 0, err
		}
		var s clusterStatus
		if err := xml.NewDecoder(bytes.NewReader(out)).Decode(&s); err != nil {
			return 0, fmt.Errorf("crm_mon: %w", err)
		}
		if err := s.check(); err != nil {
			return 0, err
		}
	}
	return p.lab.holder()
}

// check returns an error unless the address and two HAProxies are started on two nodes.
func (s clusterStatus) check() error {
	if len(s.Nodes) != 2 || len(s.HAProxy) != 2 {
		return fmt.Errorf("cluster has %d nodes and %d HAProxies, want 2 of both", len(s.Nodes), len(s.HAProxy))
	}
	for _, n := range s.Nodes {
		if !n.Online || n.Standby || n.Pending {
			return fmt.Errorf("cluster node is not ready: %+v", n)
		}
	}
	for _, r := range append(s.HAProxy, s.Address) {
		if !r.started() {
			return fmt.Errorf("cluster resource is not started: %+v", r)
		}
	}
	return nil
}

func (p *pacemaker) handOver(ctx context.Context, active int) error {
	return p.standby(ctx, active, "on")
}

// standby says whether a node is to run nothing, as crm node standby and online do.
func (p *pacemaker) standby(ctx context.Context, i int, v string) error {
	h := p.lab.balancers[i]
	_, err := h.run(ctx, "crm_standby", "--node", h.name, "--update", v)
	return err
}

func (p *pacemaker) heal(ctx context.Context, f fault, i int) error {
	switch f {
	case dies:
		return p.start(ctx, i)
	case planned:
		return p.standby(ctx, i, "off")
	case killed:
		// Forget the failure, which would count against the node.
		_, err := p.lab.balancers[i].run(ctx, "crm_resource", "--cleanup")
		return err
	}
	return nil
}
