package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"

	"weir/cloud"
	"weir/weir"
)

// everybody is whom users mean by anywhere.
var everybody = []string{"0.0.0.0/0", "::/0"}

func inbound(protocol, ports string, from godo.Sources) godo.InboundRule {
	return godo.InboundRule{Protocol: protocol, PortRange: ports, Sources: &from}
}

func outbound(protocol, ports string, to godo.Destinations) godo.OutboundRule {
	return godo.OutboundRule{Protocol: protocol, PortRange: ports, Destinations: &to}
}

// firewall makes a firewall and waits until it is live.
func (r *region) firewall(q godo.FirewallRequest) godo.Firewall {
	r.t.Helper()
	made, resp, err := r.do.Firewalls.Create(r.t.Context(), &q)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		r.t.Fatalf("create firewall %s: %v, want 202", q.Name, err)
	}
	return r.settled(made.ID)
}

// settled waits until a firewall is live, and returns it.
func (r *region) settled(id string) (f godo.Firewall) {
	r.t.Helper()
	r.eventually("the firewall succeeded", func() bool {
		got, _, err := r.do.Firewalls.Get(r.t.Context(), id)
		if err != nil {
			r.t.Fatal(err)
		}
		f = *got
		return f.Status == "succeeded"
	})
	return f
}

// walled returns the firewall that the cloud keeps for a droplet.
func (r *region) walled(id int) *weir.Firewall {
	r.t.Helper()
	all, err := r.cloud.Machines(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(m cloud.Machine) bool { return string(m.ID) == strconv.Itoa(id) })
	if i < 0 {
		r.t.Fatalf("droplet %d is not in the cloud", id)
	}
	return all[i].Firewall
}

// wall says what the cloud lets in (<) and out (>) of a droplet.
func (r *region) wall(id int) (says []string) {
	r.t.Helper()
	f := r.walled(id)
	if f == nil {
		return []string{"open"}
	}
	for way, openings := range map[string][]weir.Opening{"<": f.Openings, ">": f.Exits} {
		for _, o := range openings {
			kind := "tcp"
			if o.UDP {
				kind = "udp"
			}
			if o.ICMP {
				kind = "icmp"
			}
			for _, p := range o.Peers {
				says = append(says, fmt.Sprintf("%s %s %s %s", kind, weir.Ports{First: o.Port, Last: o.Last}, way, p))
			}
		}
	}
	if !f.Confined {
		says = append(says, "all may leave")
	}
	slices.Sort(says)
	return says
}

// hasWall waits until the cloud lets in and out of a droplet what is wanted, and nothing else.
func (r *region) hasWall(id int, want ...string) {
	r.t.Helper()
	slices.Sort(want)
	var got []string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("droplet %d (-want +got):\n%s", id, cmp.Diff(want, got))
		}
	}()
	r.eventually("the cloud has the firewall", func() bool { got = r.wall(id); return slices.Equal(got, want) })
}

// at returns an address of a droplet as a firewall has it.
func at(d godo.Droplet, kind string) string {
	for _, n := range d.Networks.V4 {
		if n.Type == kind {
			return n.IPAddress + "/32"
		}
	}
	return "none"
}

func TestAFirewallIsWhatItsCloudKeeps(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"web", "db", "other"}, "shop")
	web, db, other := d[0], d[1], d[2]
	r.hasWall(web.ID, "open")

	q := godo.FirewallRequest{Name: "web.front-1",
		InboundRules: []godo.InboundRule{
			inbound("tcp", "22", godo.Sources{Addresses: []string{"192.0.2.7", "10.1.2.3/8"}}),
			inbound("tcp", "8000-9000", godo.Sources{DropletIDs: []int{db.ID}}),
			inbound("icmp", "", godo.Sources{Addresses: everybody}),
			inbound("udp", "all", godo.Sources{Addresses: []string{"2001:DB8::/32"}}),
		},
		OutboundRules: []godo.OutboundRule{outbound("tcp", "1-65535", godo.Destinations{Addresses: everybody})},
		DropletIDs:    []int{web.ID}, Tags: []string{}}
	f := r.firewall(q)
	q.InboundRules[2].PortRange, q.InboundRules[3].PortRange = "0", "0" // as DigitalOcean writes "all"
	want := godo.Firewall{ID: f.ID, Name: q.Name, Status: "succeeded", InboundRules: q.InboundRules, OutboundRules: q.OutboundRules,
		DropletIDs: []int{web.ID}, Tags: []string{}, Created: f.Created, PendingChanges: []godo.PendingChange{}}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("firewall (-want +got):\n%s", diff)
	}
	r.hasWall(web.ID, "tcp 22 < 10.0.0.0/8", "tcp 22 < 192.0.2.7/32",
		"tcp 8000-9000 < "+at(db, "private"), "tcp 8000-9000 < "+at(db, "public"), "tcp 8000-9000 < "+r.anchor(db.ID),
		"icmp 0 < 0.0.0.0/0", "icmp 0 < ::/0", "udp 1-65535 < 2001:db8::/32", "tcp 1-65535 > 0.0.0.0/0", "tcp 1-65535 > ::/0")
	r.hasWall(db.ID, "open")

	// Putting back what was read changes nothing.
	before := r.walled(web.ID)
	again, resp, err := r.do.Firewalls.Update(t.Context(), f.ID, &godo.FirewallRequest{Name: f.Name, InboundRules: f.InboundRules,
		OutboundRules: f.OutboundRules, DropletIDs: f.DropletIDs, Tags: f.Tags})
	if err != nil || resp.StatusCode != http.StatusOK || !reflect.DeepEqual(*again, f) {
		t.Errorf("put back, the firewall is %+v (%v), want it as it was", again, err)
	}
	if after := r.walled(web.ID); !reflect.DeepEqual(before, after) {
		t.Errorf("put back, the cloud has %+v, want %+v", after, before)
	}

	// A put replaces all that it leaves out.
	_, _, err = r.do.Firewalls.Update(t.Context(), f.ID, &godo.FirewallRequest{Name: "narrow",
		InboundRules: []godo.InboundRule{inbound("tcp", "443", godo.Sources{Tags: []string{"shop"}})}, Tags: []string{"SHOP"}})
	if err != nil {
		t.Fatal(err)
	}
	if f := r.settled(f.ID); f.Name != "narrow" || len(f.OutboundRules) != 0 || len(f.DropletIDs) != 0 || f.Created != want.Created {
		t.Errorf("replaced, the firewall is %+v, want what was put and nothing else", f)
	}
	var shop []string
	for _, d := range d {
		shop = append(shop, "tcp 443 < "+at(d, "private"), "tcp 443 < "+at(d, "public"), "tcp 443 < "+r.anchor(d.ID))
	}
	for _, d := range d {
		r.hasWall(d.ID, shop...)
	}

	// Firewalls of one droplet add up.
	more := r.firewall(godo.FirewallRequest{Name: "more", InboundRules: []godo.InboundRule{inbound("tcp", "22", godo.Sources{Addresses: []string{"192.0.2.7"}})},
		OutboundRules: []godo.OutboundRule{outbound("udp", "53", godo.Destinations{Addresses: []string{"192.0.2.53"}})}, DropletIDs: []int{other.ID}})
	r.hasWall(other.ID, append(shop, "tcp 22 < 192.0.2.7/32", "udp 53 > 192.0.2.53/32")...)
	of := func(d godo.Droplet) (names []string) {
		all, _, err := r.do.Firewalls.ListByDroplet(t.Context(), d.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			names = append(names, f.Name)
		}
		return names
	}
	if got := of(other); !slices.Equal(got, []string{"narrow", "more"}) {
		t.Errorf("the droplet has the firewalls %v, want narrow by its tag and more by its ID", got)
	}
	if got := of(db); !slices.Equal(got, []string{"narrow"}) {
		t.Errorf("the droplet has the firewalls %v, want narrow", got)
	}
	all, resp, err := r.do.Firewalls.List(t.Context(), &godo.ListOptions{PerPage: 1})
	if err != nil || len(all) != 1 || all[0].Name != "narrow" || resp.Meta.Total != 2 || resp.Links.Pages.Next == "" {
		t.Errorf("list: %+v (%v), want the older one of two", all, err)
	}

	for _, id := range []string{f.ID, more.ID} {
		if resp, err := r.do.Firewalls.Delete(t.Context(), id); err != nil || resp.StatusCode != http.StatusNoContent {
			t.Errorf("delete: %v, want 204", err)
		}
	}
	for _, d := range d {
		r.hasWall(d.ID, "open")
	}
	if _, resp, err := r.do.Firewalls.Get(t.Context(), f.ID); err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("a deleted firewall: %v, want 404", err)
	}
}

// anchor returns the anchor address of a droplet as a firewall has it.
func (r *region) anchor(id int) string {
	m, err := r.control.Machine(r.t.Context(), weir.ID(strconv.Itoa(id)))
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Status.Anchor.String() + "/32"
}

func TestPartsOfAFirewallComeAndGo(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a", "b"})
	tagged := r.droplets([]string{"c"}, "web")[0]
	ssh := inbound("tcp", "22", godo.Sources{Addresses: []string{"192.0.2.7", "192.0.2.8"}})
	f := r.firewall(godo.FirewallRequest{Name: "f", InboundRules: []godo.InboundRule{ssh}})
	done := func(resp *godo.Response, err error) {
		t.Helper()
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Errorf("%v, want 204", err)
		}
	}
	const a, b = "tcp 22 < 192.0.2.7/32", "tcp 22 < 192.0.2.8/32"
	for range 2 { // once more is no harm
		done(r.do.Firewalls.AddDroplets(t.Context(), f.ID, d[0].ID, d[1].ID))
		done(r.do.Firewalls.AddTags(t.Context(), f.ID, "web"))
	}
	if f := r.settled(f.ID); !slices.Equal(f.DropletIDs, []int{d[0].ID, d[1].ID}) || !slices.Equal(f.Tags, []string{"web"}) {
		t.Errorf("the firewall is for droplets %v and tags %v, want both droplets and web", f.DropletIDs, f.Tags)
	}
	for _, d := range []godo.Droplet{d[0], d[1], tagged} {
		r.hasWall(d.ID, a, b)
	}
	for range 2 {
		done(r.do.Firewalls.RemoveDroplets(t.Context(), f.ID, d[1].ID))
		done(r.do.Firewalls.RemoveTags(t.Context(), f.ID, "WEB"))
	}
	r.settled(f.ID)
	r.hasWall(d[1].ID, "open")
	r.hasWall(tagged.ID, "open")

	more := godo.FirewallRulesRequest{
		InboundRules: []godo.InboundRule{inbound("icmp", "0", godo.Sources{Addresses: []string{"192.0.2.9"}}),
			inbound("tcp", "22", godo.Sources{Addresses: []string{"192.0.2.8", "192.0.2.7"}})}, // which is there, in another order
		OutboundRules: []godo.OutboundRule{outbound("udp", "53", godo.Destinations{Addresses: []string{"192.0.2.53"}})}}
	done(r.do.Firewalls.AddRules(t.Context(), f.ID, &more))
	r.hasWall(d[0].ID, a, b, "icmp 0 < 192.0.2.9/32", "udp 53 > 192.0.2.53/32")
	if f := r.settled(f.ID); len(f.InboundRules) != 2 || len(f.OutboundRules) != 1 {
		t.Errorf("the firewall has the rules %+v and %+v, want each once", f.InboundRules, f.OutboundRules)
	}
	done(r.do.Firewalls.RemoveRules(t.Context(), f.ID, &godo.FirewallRulesRequest{InboundRules: more.InboundRules[1:], OutboundRules: more.OutboundRules}))
	r.hasWall(d[0].ID, "icmp 0 < 192.0.2.9/32")
	done(r.do.Firewalls.RemoveRules(t.Context(), f.ID, &godo.FirewallRulesRequest{InboundRules: more.InboundRules[:1]}))
	r.hasWall(d[0].ID) // nothing passes
}

func TestAFirewallFollowsWhatItNames(t *testing.T) {
	r := lab(t)
	r.serve()
	d := r.droplets([]string{"server", "client", "doomed"})
	server, client, doomed := d[0], d[1], d[2]
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", Region: "lab", DropletIDs: []int{server.ID},
		ForwardingRules: []godo.ForwardingRule{{EntryProtocol: "http", EntryPort: 80, TargetProtocol: "http", TargetPort: 8080}}})
	if err != nil {
		t.Fatal(err)
	}
	address := ""
	r.eventually("the load balancer is active", func() bool {
		got, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID)
		if err != nil {
			t.Fatal(err)
		}
		address = got.IP
		return got.Status == "active"
	})
	var instances []weir.Machine
	all, err := r.control.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.LoadBalancer != "" {
			instances = append(instances, m)
		}
	}
	of := func(rule string, addrs func(weir.Machine) []netip.Addr) (walls []string) {
		for _, m := range instances {
			for _, a := range addrs(m) {
				walls = append(walls, rule+a.String()+"/32")
			}
		}
		return walls
	}
	private := func(m weir.Machine) []netip.Addr { return []netip.Addr{m.Status.Private} }
	each := func(m weir.Machine) []netip.Addr {
		return []netip.Addr{m.Status.Private, m.Status.Public, m.Status.Anchor}
	}
	guarded := slices.Concat(of("tcp 80 < ", private), of("tcp 8080 < ", private)) // port 80 is where it is checked
	r.hasWall(server.ID, append(guarded, "all may leave")...)

	// The load balancer goes on to reach its server, whatever a firewall says.
	ssh := godo.FirewallRequest{Name: "ssh", InboundRules: []godo.InboundRule{inbound("tcp", "22", godo.Sources{Tags: []string{"admin"}, DropletIDs: []int{doomed.ID}})}, Tags: []string{"web"}}
	f := r.firewall(ssh)
	tag := func(name string, d godo.Droplet) {
		t.Helper()
		_, err := r.do.Tags.TagResources(t.Context(), name, &godo.TagResourcesRequest{Resources: []godo.Resource{{ID: strconv.Itoa(d.ID), Type: godo.DropletResourceType}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	from := func(rule string, d godo.Droplet) []string {
		return []string{rule + at(d, "private"), rule + at(d, "public"), rule + r.anchor(d.ID)}
	}
	tag("web", server)
	r.hasWall(server.ID, slices.Concat(guarded, from("tcp 22 < ", doomed))...)
	tag("admin", client)
	r.hasWall(server.ID, slices.Concat(guarded, from("tcp 22 < ", doomed), from("tcp 22 < ", client))...)
	if _, err := r.do.Droplets.Delete(t.Context(), doomed.ID); err != nil {
		t.Fatal(err)
	}
	r.hasWall(server.ID, slices.Concat(guarded, from("tcp 22 < ", client))...)
	if got := r.settled(f.ID).InboundRules[0].Sources; len(got.DropletIDs) != 0 {
		t.Errorf("the rule still names droplets %v, want none: it was deleted", got.DropletIDs)
	}

	// A load balancer is its instances as a source, and its address as a destination too.
	named := r.firewall(godo.FirewallRequest{Name: "lb", DropletIDs: []int{client.ID},
		InboundRules:  []godo.InboundRule{inbound("tcp", "9100", godo.Sources{LoadBalancerUIDs: []string{lb.ID}})},
		OutboundRules: []godo.OutboundRule{outbound("tcp", "80", godo.Destinations{LoadBalancerUIDs: []string{lb.ID}})}})
	r.hasWall(client.ID, slices.Concat(of("tcp 9100 < ", each), of("tcp 80 > ", each), []string{"tcp 80 > " + address + "/32"})...)
	if _, err := r.do.LoadBalancers.Delete(t.Context(), lb.ID); err != nil {
		t.Fatal(err)
	}
	r.hasWall(client.ID)
	if f := r.settled(named.ID); len(f.InboundRules)+len(f.OutboundRules) != 0 {
		t.Errorf("the firewall has the rules %+v and %+v, want none: all they named was deleted", f.InboundRules, f.OutboundRules)
	}

	// A droplet that comes with the tag is never without the firewall.
	late := r.droplets([]string{"late"}, "Web")[0]
	r.hasWall(late.ID, from("tcp 22 < ", client)...)

	// Deleting a tag takes it off firewalls.
	if _, err := r.do.Tags.Delete(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	r.hasWall(late.ID, "open")
	if f := r.settled(f.ID); len(f.Tags) != 0 {
		t.Errorf("the firewall has the tags %v, want none", f.Tags)
	}
}

func TestAFirewallHasSucceededOnlyWhenItIsLive(t *testing.T) {
	var broken atomic.Bool
	r := newRegion(t, cloud.FakeOptions{Fault: func(_ context.Context, call string) (before, after error) {
		if strings.HasPrefix(call, "set the firewall") && broken.Load() {
			return errors.New("the switch is on fire"), nil
		}
		return nil, nil
	}}, nil)
	d := r.droplets([]string{"a"})[0]
	broken.Store(true)
	f, _, err := r.do.Firewalls.Create(t.Context(), &godo.FirewallRequest{Name: "f", DropletIDs: []int{d.ID},
		InboundRules: []godo.InboundRule{inbound("tcp", "22", godo.Sources{Addresses: everybody})}})
	if err != nil {
		t.Fatal(err)
	}
	if f.Status == "succeeded" || len(f.PendingChanges) != 1 || f.PendingChanges[0].DropletID != d.ID || f.PendingChanges[0].Removing {
		t.Errorf("the new firewall is %+v, want one that is still to be brought to droplet %d", f, d.ID)
	}
	r.eventually("the firewall failed", func() bool {
		a := r.ask("GET", "/v2/firewalls/"+f.ID, "")
		got := a.body["firewall"].(map[string]any)
		if got["status"] == "succeeded" {
			t.Fatal("the firewall succeeded, and the cloud does not have it")
		}
		why, _ := got["weir"].(map[string]any)
		return got["status"] == "failed" && strings.Contains(fmt.Sprint(why["error"]), "the switch is on fire")
	})
	broken.Store(false)
	r.settled(f.ID)
	if got := r.walled(d.ID); got == nil {
		t.Error("the firewall succeeded, and the cloud does not have it")
	}

	// What is taken away is not gone before it is.
	broken.Store(true)
	if _, err := r.do.Firewalls.RemoveDroplets(t.Context(), f.ID, d.ID); err != nil {
		t.Fatal(err)
	}
	got, _, err := r.do.Firewalls.Get(t.Context(), f.ID)
	if err != nil || got.Status == "succeeded" || len(got.PendingChanges) != 1 || !got.PendingChanges[0].Removing {
		t.Errorf("the firewall is %+v (%v), want one that is still to be taken off droplet %d", got, err, d.ID)
	}
	broken.Store(false)
	r.settled(f.ID)
	if got := r.walled(d.ID); got != nil {
		t.Errorf("the cloud still has %+v", got)
	}
}

func TestWhatNoFirewallCanBeIsRefusedByName(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"})[0]
	there := r.firewall(godo.FirewallRequest{Name: "there", InboundRules: []godo.InboundRule{inbound("tcp", "22", godo.Sources{Addresses: everybody})}})
	rule := func(fields string) string { return `"name": "f", "inbound_rules": [{` + fields + `}]` }
	const some = `"sources": {"addresses": ["10.0.0.1"]}`
	for body, want := range map[string]string{
		`"name": "f"`: "inbound_rules and outbound_rules are empty, and such a firewall lets nothing in or out: want at least one rule",
		`"name": "_f", "inbound_rules": [{"protocol": "tcp", "ports": "22", ` + some + `}]`:                                  `name is "_f", want 1 to 255 letters, digits, . and -, of which the first is a letter or digit`,
		rule(`"protocol": "sctp", "ports": "22", ` + some):                                                                   `inbound_rules[0].protocol is "sctp", want tcp, udp or icmp`,
		rule(`"protocol": "tcp", ` + some):                                                                                   `inbound_rules[0].ports is missing, want a port such as 22, a range such as 8000-9000, or 0 for all`,
		rule(`"protocol": "tcp", "ports": "ssh", ` + some):                                                                   `inbound_rules[0].ports is "ssh", want a port such as 22, a range such as 8000-9000, or 0 for all`,
		rule(`"protocol": "tcp", "ports": "65536", ` + some):                                                                 `inbound_rules[0].ports is "65536", want a port such as 22, a range such as 8000-9000, or 0 for all`,
		rule(`"protocol": "udp", "ports": "90-80", ` + some):                                                                 `inbound_rules[0].ports is "90-80", want a port such as 22, a range such as 8000-9000, or 0 for all`,
		rule(`"protocol": "icmp", "ports": "8", ` + some):                                                                    `inbound_rules[0].ports is "8": ICMP has no ports, leave it out or use 0`,
		rule(`"protocol": "tcp", "ports": "22"`):                                                                             `inbound_rules[0].sources is empty: such a rule lets nobody through, want addresses, droplet_ids, load_balancer_uids or tags (0.0.0.0/0 and ::/0 are everybody)`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {}`):                                                              `inbound_rules[0].sources is empty: such a rule lets nobody through, want addresses, droplet_ids, load_balancer_uids or tags (0.0.0.0/0 and ::/0 are everybody)`,
		rule(`"protocol": "tcp", "ports": "22", "action": "deny", ` + some):                                                  `inbound_rules[0].action is "deny": Weir's firewalls allow, and refuse all else, so leave it out or use allow`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.0/33"]}`):                                  `inbound_rules[0].sources.addresses[0]: "10.0.0.0/33" is not an address, want an IP such as 192.0.2.7, or a CIDR such as 10.0.0.0/8 or ::/0`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {"kubernetes_ids": ["k"]}`):                                       `inbound_rules[0].sources.kubernetes_ids is not empty: Weir has no Kubernetes clusters, name the droplets, their tag or their addresses instead`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {"droplet_ids": [7]}`):                                            `firewall "f": inbound_rules[0].sources.droplet_ids: there is no droplet 7`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {"droplet_ids": [-7]}`):                                           `inbound_rules[0].sources.droplet_ids[0] is -7, want the ID of a droplet`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {"load_balancer_uids": ["x"]}`):                                   `firewall "f": inbound_rules[0].sources.load_balancer_uids: there is no load balancer "x"`,
		rule(`"protocol": "tcp", "ports": "22", "sources": {"tags": ["a b"]}`):                                               `inbound_rules[0].sources.tags[0]: tag "a b": 1 to 255 letters, digits, _, : and - are allowed`,
		`"name": "f", "outbound_rules": [{"protocol": "tcp", "ports": "22", "destinations": {"load_balancer_uids": ["/"]}}]`: `outbound_rules[0].destinations.load_balancer_uids: there is no load balancer "/"`,
		rule(`"protocol": "tcp", "ports": "22", `+some) + `, "droplet_ids": [7]`:                                             `firewall "f": droplet_ids: there is no droplet 7`,
		rule(`"protocol": "tcp", "ports": "22", `+some) + `, "tags": [""]`:                                                   `tags[0]: tag "": 1 to 255 letters, digits, _, : and - are allowed`,
		rule(`"protocol": "tcp", "ports": true, ` + some):                                                                    `inbound_rules.ports is a value of another type, want a string`,
	} {
		for _, ask := range [][2]string{{"POST", "/v2/firewalls"}, {"PUT", "/v2/firewalls/" + there.ID}} {
			a := r.ask(ask[0], ask[1], "{"+body+"}")
			if got, _ := a.body["message"].(string); a.status != http.StatusUnprocessableEntity || got != want {
				t.Errorf("%s {%s}\n got %d %q\nwant 422 %q", ask[0], body, a.status, got, want)
			}
		}
	}

	_, resp, err := r.do.Firewalls.Create(t.Context(), &godo.FirewallRequest{Name: "there", InboundRules: there.InboundRules})
	if _, text := refusal(err); resp.StatusCode != http.StatusConflict || text != `firewall "there": there is one of that name already` {
		t.Errorf("a name that is taken: %v, want 409 that says so", err)
	}
	for path, want := range map[string]string{
		"droplets": "droplet_ids is empty, want the IDs of droplets",
		"tags":     "tags is empty, want the names of tags",
		"rules":    "inbound_rules and outbound_rules are empty, want at least one rule",
	} {
		for _, method := range []string{"POST", "DELETE"} {
			a := r.ask(method, "/v2/firewalls/"+there.ID+"/"+path, "{}")
			if a.status != http.StatusUnprocessableEntity || a.body["message"] != want {
				t.Errorf("%s %s with nothing: %d %s, want 422 %q", method, path, a.status, a.text, want)
			}
		}
	}
	if _, err := r.do.Firewalls.AddDroplets(t.Context(), there.ID, 7); err == nil || !strings.Contains(err.Error(), `firewall "there": droplet_ids: there is no droplet 7`) {
		t.Errorf("adding a droplet that is not there: %v, want that it says so", err)
	}
	for _, ask := range [][3]string{{"GET", "", ""}, {"PUT", "", `{"name": "f", "inbound_rules": [{"protocol": "icmp", "sources": {"addresses": ["10.0.0.1"]}}]}`}, {"DELETE", "", ""},
		{"POST", "/droplets", fmt.Sprintf(`{"droplet_ids": [%d]}`, d.ID)}, {"DELETE", "/tags", `{"tags": ["x"]}`}, {"POST", "/rules", `{"inbound_rules": [{"protocol": "icmp", "sources": {"addresses": ["10.0.0.1"]}}]}`}} {
		for _, id := range []string{"bb4b2611-3d72-467b-8602-280330ecd65c", "..%2f"} {
			if a := r.ask(ask[0], "/v2/firewalls/"+id+ask[1], ask[2]); a.status != http.StatusNotFound {
				t.Errorf("%s a firewall that is not there: %d %s, want 404", ask[0], a.status, a.text)
			}
		}
	}
	if _, resp, err := r.do.Firewalls.ListByDroplet(t.Context(), 7, nil); err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("firewalls of a droplet that is not there: %v, want 404", err)
	}
	if f := r.settled(there.ID); len(f.DropletIDs)+len(f.Tags) != 0 || len(f.InboundRules) != 1 {
		t.Errorf("what was refused changed the firewall to %+v", f)
	}
}

func TestAFirewallHasEveryFieldThatClientsRead(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"})[0]
	f := r.firewall(godo.FirewallRequest{Name: "f", DropletIDs: []int{d.ID}, InboundRules: []godo.InboundRule{inbound("tcp", "22", godo.Sources{DropletIDs: []int{d.ID}})}})
	for path, root := range map[string]string{"/v2/firewalls/" + f.ID: "firewall", "/v2/firewalls": "firewalls", fmt.Sprintf("/v2/droplets/%d/firewalls", d.ID): "firewalls"} {
		a := r.ask("GET", path, "")
		object := a.body[root]
		if list, ok := object.([]any); ok {
			check(t, path, a.body, "links object", "meta object")
			object = list[0]
		}
		check(t, path, object, "id string", "name string", "status string", "inbound_rules[] object", "outbound_rules[] object",
			"droplet_ids[] integer", "tags[] string", "created_at string", "pending_changes[] object")
		rule := object.(map[string]any)["inbound_rules"].([]any)[0]
		text, err := json.Marshal(rule)
		if want := fmt.Sprintf(`{"ports":"22","protocol":"tcp","sources":{"droplet_ids":[%d]}}`, d.ID); err != nil || string(text) != want {
			t.Errorf("%s: the rule is %s, want %s", path, text, want)
		}
	}
}

func TestAFirewallIsOfOneTeam(t *testing.T) {
	r := lab(t)
	theirs := weir.WithCaller(t.Context(), weir.Caller{Team: "theirs"})
	f := weir.CloudFirewall{Name: "f", Inbound: []weir.FirewallRule{{Transport: weir.OverTCP, Ports: weir.Ports{First: 22}, Peers: weir.Peers{Addresses: everybody}}}}
	f, err := r.control.CreateFirewall(theirs, f)
	if err != nil || f.Team != "theirs" {
		t.Fatalf("%+v (%v), want a firewall of the caller's team", f, err)
	}
	mine := r.firewall(godo.FirewallRequest{Name: "f", InboundRules: []godo.InboundRule{inbound("tcp", "22", godo.Sources{Addresses: everybody})}}) // the name is free here
	all, _, err := r.do.Firewalls.List(t.Context(), nil)
	if err != nil || len(all) != 1 || all[0].ID != mine.ID {
		t.Errorf("list: %+v (%v), want our own alone", all, err)
	}
	id := string(f.ID)
	_, _, getting := r.do.Firewalls.Get(t.Context(), id)
	_, _, putting := r.do.Firewalls.Update(t.Context(), id, &godo.FirewallRequest{Name: "g", InboundRules: mine.InboundRules})
	_, deleting := r.do.Firewalls.Delete(t.Context(), id)
	for what, err := range map[string]error{"get": getting, "put": putting, "delete": deleting} {
		if status, _ := refusal(err); status != http.StatusNotFound {
			t.Errorf("%s what is another team's: %v, want 404", what, err)
		}
	}
	if got, err := r.control.Firewall(theirs, f.ID); err != nil || got.Name != "f" {
		t.Errorf("their firewall is %+v (%v), want it as it was", got, err)
	}
}
