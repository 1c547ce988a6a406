package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// nested is a control plane of three members, and two nodes, each in a machine of a local cloud.
type nested struct {
	*region
	machines map[string]weir.MachineOverview
}

var (
	nestedMembers = []string{"control-1", "control-2", "control-3"}
	nestedNodes   = []string{"lb-a", "lb-b"}
)

// in runs a command in a machine, with that on its standard input, and returns what it printed.
func (n *nested) in(name, input string, args ...string) (string, error) {
	args = append([]string{"--root", filepath.Join(n.data, "cloud", "runc"), "exec", string(n.machines[name].ID)}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "runc", args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s in %s: %w\n%s%s", strings.Join(args[3:], " "), name, err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (n *nested) mustIn(name, input string, args ...string) string {
	n.t.Helper()
	out, err := n.in(name, input, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// begin starts a program in a machine, which goes on there.
func (n *nested) begin(name, command string) {
	n.t.Helper()
	n.mustIn(name, "", "sh", "-c", "setsid "+command+" >/var/log/begun.log 2>&1 </dev/null &")
}

// active returns which node has the address of the load balancer, as a member sees it.
func (n *nested) active(member string) (string, error) {
	out, err := n.in(member, "", "weir", "status", "-o", "json")
	if err != nil {
		return "", err
	}
	var s weir.RegionStatus
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return "", err
	}
	names := map[weir.ID]string{}
	for _, m := range s.Machines {
		names[m.ID] = m.Name
	}
	for _, lb := range s.LoadBalancers {
		for _, in := range lb.Instances {
			if in.Active {
				return names[in.Machine], nil
			}
		}
	}
	story, _ := n.in(member, "", "sh", "-c", "weir status; weir events; cat /var/log/begun.log; weir lb show inner")
	return "", fmt.Errorf("%s: no node is active:\n%s", member, story)
}

// holds returns which of the nodes that run has the address on an interface.
func (n *nested) holds(nodes ...string) (who string) {
	for _, name := range nodes {
		if out, err := n.in(name, "", "ip", "-o", "addr"); err == nil && strings.Contains(out, " "+nestedAddress+"/") {
			who += name
		}
	}
	return who
}

// nestedAddress is one of the private network that no machine has.
const nestedAddress = "10.110.15.200"

// A control plane runs in the machines of a local cloud as on hosts of one's own; any of its members, and
// any node, may be lost. A local cloud routes, so that nobody reaches an address that a machine holds by
// itself: here counts who holds it, and on a segment (see own_test.go) who is served.
func TestControlPlaneOfThreeRunsInMachinesOfALocalCloud(t *testing.T) {
	n := &nested{region: newRegion(t)}
	n.start()
	all := append(append([]string{}, nestedMembers...), nestedNodes...)
	names, _ := json.Marshal(all)
	n.call("POST", "/v2/droplets", fmt.Sprintf(`{"names": %s, "size": "s-1vcpu-1gb", "image": "debian-12-x64"}`, names))
	n.within(time.Minute, func() string {
		n.machines = map[string]weir.MachineOverview{}
		for _, m := range n.status().Machines {
			n.machines[m.Name] = m
		}
		for _, name := range all {
			if m := n.machines[name]; m.Phase != weir.MachineActive || !m.Private.IsValid() {
				return fmt.Sprintf("%s is %s", name, m.Phase)
			}
		}
		return ""
	})

	first := nestedMembers[0]
	n.mustIn(first, "", "weir", "pki", "create", "--pki", "/root/pki")
	pki := n.mustIn(first, "", "tar", "-C", "/root", "-cf", "-", "pki")
	var members, joins []string
	for _, name := range nestedMembers {
		members = append(members, n.machines[name].Private.String())
		joins = append(joins, "https://"+n.machines[name].Private.String()+":7071")
	}
	for _, name := range nestedMembers {
		if name != first {
			n.mustIn(name, pki, "tar", "-C", "/root", "-xf", "-")
		}
		n.begin(name, fmt.Sprintf("weir serve --pki /root/pki --cluster %s --advertise %s", strings.Join(members, ","), n.machines[name].Private))
	}
	answers := func(name string) {
		n.t.Helper()
		n.within(time.Minute, func() string {
			if _, err := n.in(name, "", "weir", "node", "list"); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	for _, name := range nestedMembers {
		answers(name)
	}

	for _, name := range nestedNodes {
		token := n.mustIn(first, "", "weir", "node", "token", name)
		n.mustIn(name, token, "sh", "-c", "umask 077; cat >/root/node.token")
		n.begin(name, "weir node --token /root/node.token --join "+strings.Join(joins, ","))
	}
	n.mustIn(first, "name: inner\nservers: ["+n.machines[first].Private.String()+"]\nload_balancer: {address: "+nestedAddress+"/20}\n",
		"sh", "-c", "cat >/root/weir.yaml")
	n.begin(first, "nginx -g 'daemon off;'")
	n.begin(first, "weir apply -f /root/weir.yaml")
	var active string
	settled := func(member string, nodes ...string) {
		n.t.Helper()
		n.within(time.Minute, func() string {
			var err error
			if active, err = n.active(member); err != nil {
				return err.Error()
			}
			if who := n.holds(nodes...); who != active {
				return fmt.Sprintf("%s is active, and %q has the address", active, who)
			}
			return ""
		})
	}
	settled(first, nestedNodes...)

	// One member is lost, whichever it is; then a node.
	n.must("machine", "kill", nestedMembers[1])
	answers(nestedMembers[0])
	answers(nestedMembers[2])
	settled(nestedMembers[2], nestedNodes...)
	other := nestedNodes[0]
	if active == other {
		other = nestedNodes[1]
	}
	n.must("machine", "kill", active)
	settled(nestedMembers[2], other)
	if active != other {
		t.Errorf("%s is active, want %s, which is left", active, other)
	}
}
