package control

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/cloud"
	"weir/weir"
)

var testNow = time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)

func TestMachineIsBroughtToItsRow(t *testing.T) {
	on := &cloud.Machine{ID: "100001", On: true}
	off := &cloud.Machine{ID: "100001"}
	wall := &weir.Firewall{Openings: []weir.Opening{{Port: 80}}}
	confined := weir.Firewall{Openings: []weir.Opening{{Port: 80}}, Confined: true}
	confinedOn := &cloud.Machine{ID: "100001", On: true, Firewall: &confined}
	reboot := []weir.Action{{ID: "1", Type: "reboot"}}
	for _, test := range []struct {
		name string
		view machineView
		want []machineStep
	}{
		{"one that is not there is created", machineView{}, []machineStep{stepCreate}},
		{"an instance that is gone with its key makes way for another", machineView{spent: true}, []machineStep{stepReplace}},
		{"its firewall is there before anything else", machineView{row: weir.Machine{Firewall: wall}}, []machineStep{stepCreate, stepFirewall}},
		{"one that should be off is created and stopped", machineView{row: weir.Machine{Off: true}}, []machineStep{stepCreate, stepPowerOff}},
		{"one that is as it should be is left alone", machineView{seen: on}, nil},
		{"one that died is started", machineView{seen: off}, []machineStep{stepPowerOn}},
		{"one that should be off is stopped", machineView{row: weir.Machine{Off: true}, seen: on}, []machineStep{stepPowerOff}},
		{"one that is off stays so", machineView{row: weir.Machine{Off: true}, seen: off}, nil},
		{"a reboot that was asked for happens", machineView{seen: on, pending: reboot}, []machineStep{stepReboot}},
		{"one that is off needs no reboot to start", machineView{seen: off, pending: reboot}, []machineStep{stepPowerOn}},
		{"rules of its users' firewalls are there as early", machineView{row: weir.Machine{Rules: &weir.Rules{}}}, []machineStep{stepCreate, stepFirewall}},
		{"a firewall that adds nothing is not set again", machineView{row: weir.Machine{Firewall: wall, Rules: &weir.Rules{Firewall: confined}}, seen: confinedOn}, nil},
		{"a firewall that is another is set", machineView{row: weir.Machine{Firewall: wall}, seen: on}, []machineStep{stepFirewall}},
		{"one with requests is let finish before it goes", machineView{row: weir.Machine{Deleting: testNow}, seen: on, inUse: "node lb-1"}, []machineStep{stepWait}},
		{"one without requests goes", machineView{row: weir.Machine{Deleting: testNow}, seen: on}, []machineStep{stepDestroy}},
		{"one that never came goes at once", machineView{row: weir.Machine{Deleting: testNow}, inUse: "node lb-1"}, []machineStep{stepDestroy}},
	} {
		if got := planMachine(test.view); !slices.Equal(got, test.want) {
			t.Errorf("%s: steps %q, want %q", test.name, got, test.want)
		}
	}
}

func TestPoolDropsWhatFailedThenTheNewest(t *testing.T) {
	member := func(id weir.ID, boot weir.BootState) weir.Machine {
		return weir.Machine{ID: id, Status: weir.MachineStatus{
			Phase: weir.MachineActive, Private: netip.MustParseAddr("10.110.0.2"), Boot: weir.Boot{State: boot}}}
	}
	members := []weir.Machine{
		member("100001", weir.BootDone), member("100002", weir.BootFailed),
		member("100003", weir.BootDone), member("100004", weir.BootRunning), member("100005", weir.BootDone),
	}
	leaving := member("100006", weir.BootDone)
	leaving.Deleting = testNow
	members = append(members, leaving)

	for _, test := range []struct {
		count int
		add   int
		drop  []weir.ID
	}{
		{7, 2, nil}, {5, 0, nil},
		{4, 0, []weir.ID{"100002"}},
		{2, 0, []weir.ID{"100002", "100004", "100005"}},
		{0, 0, []weir.ID{"100002", "100004", "100005", "100003", "100001"}},
	} {
		plan := planPool(weir.Pool{Count: test.count}, members, nil, testNow)
		add, drop := len(plan.add), plan.drop
		var ids []weir.ID
		for _, m := range drop {
			ids = append(ids, m.ID)
		}
		if add != test.add || !slices.Equal(ids, test.drop) {
			t.Errorf("count %d: add %d, drop %v, want %d, %v", test.count, add, ids, test.add, test.drop)
		}
	}
	if drop := planPool(weir.Pool{Count: 5, Deleting: testNow}, members, nil, testNow).drop; len(drop) != 5 {
		t.Errorf("a pool that is deleted drops %d machines, want all 5", len(drop))
	}
}

func TestPoolReplacesWhatWasMadeFromAnOlderTemplate(t *testing.T) {
	member := func(id weir.ID, edition int, boot weir.BootState) weir.Machine {
		return weir.Machine{ID: id, Edition: edition, Status: weir.MachineStatus{
			Phase: weir.MachineActive, Private: netip.MustParseAddr("10.110.0.2"), Boot: weir.Boot{State: boot}}}
	}
	const done, runs, failed = weir.BootDone, weir.BootRunning, weir.BootFailed
	old := func(n int) (members []weir.Machine) {
		for i := range n {
			members = append(members, member(weir.ID(fmt.Sprint(100001+i)), 1, done))
		}
		return members
	}
	off := member("100012", 2, done)
	off.Off, off.Status.Phase = true, weir.MachineOff
	for _, test := range []struct {
		name    string
		count   int
		members []weir.Machine
		waits   map[weir.ID]bool
		add     int
		drop    []weir.ID
	}{
		{"it begins with one more", 3, old(3), nil, 1, nil},
		{"a large one begins with a tenth more", 30, old(30), nil, 3, nil},
		{"one that boots replaces none yet", 3, append(old(3), member("100011", 2, runs)), nil, 0, nil},
		{"one that failed replaces none", 3, append(old(3), member("100011", 2, failed)), nil, 0, nil},
		{"one that serves replaces the newest", 3, append(old(3), member("100011", 2, done)), nil, 1, []weir.ID{"100003"}},
		{"one that waits for its load balancer replaces none yet", 3, append(old(3), member("100011", 2, done)), map[weir.ID]bool{"100011": true}, 0, nil},
		{"one that its user has powered off is as it should be", 3, append(old(2), member("100011", 2, done), off), nil, 1, []weir.ID{"100002"}},
		{"the last goes when all are there", 2, append(old(1), member("100011", 2, done), off), nil, 0, []weir.ID{"100001"}},
		{"what failed of the old goes first", 2, append(old(2), member("100009", 1, failed)), nil, 1, []weir.ID{"100009"}},
		{"one that shrinks drops the old", 1, old(3), nil, 1, []weir.ID{"100003", "100002"}},
		{"one that grows makes new ones alone", 5, old(3), nil, 3, nil},
		{"new ones that are too many go too", 1, append(old(1), member("100011", 2, done), member("100012", 2, done)), nil, 0, []weir.ID{"100001", "100012"}},
	} {
		found := map[weir.ID]finding{}
		for id := range test.waits {
			found[id] = finding{waits: true}
		}
		plan := planPool(weir.Pool{Count: test.count, Autoscale: &weir.Autoscale{}, Edition: 2, Sizes: []weir.Offer{{Size: ""}}}, test.members, found, testNow)
		add, drop := len(plan.add), plan.drop
		var ids []weir.ID
		for _, m := range drop {
			ids = append(ids, m.ID)
		}
		if add != test.add || !slices.Equal(ids, test.drop) {
			t.Errorf("%s: add %d, drop %v, want %d, %v", test.name, add, ids, test.add, test.drop)
		}
	}
}

func TestAddressGoesOnlyToAMachineThatIsThere(t *testing.T) {
	seen, spread := &cloud.Address{Machines: []weir.ID{"100001"}}, &cloud.Address{Machines: []weir.ID{"100001", "100002"}}
	to := func(ids ...weir.ID) []weir.ID { return ids }
	for _, test := range []struct {
		name string
		row  weir.Address
		seen *cloud.Address
		to   []weir.ID
		want addressStep
	}{
		{"one that is not there is reserved", weir.Address{}, nil, nil, stepReserve},
		{"one that points where it should is left alone", weir.Address{Machine: "100001"}, seen, to("100001"), ""},
		{"it moves", weir.Address{Machine: "100002"}, seen, to("100002"), stepAssign},
		{"it waits for its machine", weir.Address{Machine: "100002"}, seen, nil, ""},
		{"it is spread", weir.Address{Machine: "100001", Sharing: to("100002")}, seen, to("100001", "100002"), stepAssign},
		{"it does not wait for those that share it", weir.Address{Machine: "100001", Sharing: to("100003")}, spread, to("100001"), stepAssign},
		{"one that is spread is left alone", weir.Address{Machine: "100001", Sharing: to("100002")}, spread, to("100001", "100002"), ""},
		{"it is taken from its machine", weir.Address{}, seen, nil, stepAssign},
		{"it is given back", weir.Address{Machine: "100002", Deleting: testNow}, seen, to("100002"), stepRelease},
	} {
		if got := planAddress(test.row, test.seen, test.to); got != test.want {
			t.Errorf("%s: step %q, want %q", test.name, got, test.want)
		}
	}
}

// balancer is a load balancer for HTTP in front of what is tagged web.
func balancer() weir.LoadBalancer {
	return weir.LoadBalancer{ID: "lb", Name: "web", Region: "local1", Size: weir.DefaultNodeSize, Instances: 1,
		Algorithm: weir.RoundRobin, Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 8080}},
		Health: weir.DefaultCheck(), Idle: weir.DefaultIdle, Tag: "web"}
}

// server is a machine tagged web that serves, number n of its kind.
func server(n int) weir.Machine {
	return weir.Machine{ID: weir.ID(fmt.Sprint(100000 + n)), Name: fmt.Sprintf("web-%d", n),
		Template: weir.Template{Tags: []string{"web"}},
		Status: weir.MachineStatus{Phase: weir.MachineActive, Private: netip.AddrFrom4([4]byte{10, 110, 0, byte(n)}),
			Boot: weir.Boot{State: weir.BootDone}}}
}

// instance is a machine that runs the balancer, number n of its kind.
func instance(n int) weir.Machine {
	m := server(n)
	m.Name, m.Tags, m.LoadBalancer = fmt.Sprintf("web-lb-%d", n), nil, "lb"
	m.Status.Anchor = netip.AddrFrom4([4]byte{10, 17, 0, byte(n)})
	return m
}

// planned returns the steps that bring a load balancer to its row, in words.
func planned(v balancerView) (words []string) {
	steps, _ := planBalancer(v)
	for _, s := range steps {
		words = append(words, s.String())
	}
	return words
}

func TestBalancerComesUpStepByStep(t *testing.T) {
	v := balancerView{lb: balancer(), machines: []weir.Machine{server(1)}, drain: 30 * time.Second,
		configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{},
		seen: evidence{heard: map[weir.ID]weir.NodeStatus{}}}
	v.all = []weir.LoadBalancer{v.lb}
	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, planned(v)); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
	}
	expect("change the firewall of web-1", "reserve an address", "create an instance", "create an instance")

	v.machines[0].Firewall = &weir.Firewall{}
	v.address = &weir.Address{Owner: "lb", Addr: netip.MustParseAddr("198.51.100.1")}
	for _, n := range []int{2, 3} {
		young := instance(n)
		young.Status = weir.MachineStatus{Phase: weir.MachineNew}
		v.machines = append(v.machines, young)
	}
	expect("change the firewall of web-lb-2", "change the firewall of web-lb-3")

	guarded := func() {
		for i, want := range firewalls(v.all, v.machines, nil, netip.Prefix{}) {
			for j := range v.machines {
				if v.machines[j].ID == i {
					v.machines[j].Firewall = want
				}
			}
		}
	}
	configured := func() {
		v.lb.Revision++
		for _, c := range v.planConfigs().configs {
			c.Revision = v.lb.Revision
			v.configs[c.Node] = c
		}
	}
	runs := func(n int, revision int64) {
		id := instance(n).ID
		v.statuses[id] = weir.NodeStatus{Node: id, Revision: revision}
		v.seen.heard[id] = v.statuses[id]
	}
	v.machines[1] = instance(2)
	guarded()
	expect("configure web-lb-2")
	configured()
	expect()
	if s := statusOf(v, nil, nil); s.Phase == weir.LoadBalancerActive || len(s.Plan) != 2 {
		t.Errorf("status before the nodes run it: %+v, want not active and two to wait for", s)
	}

	// The first that serves gets the address; it does not wait for the other.
	runs(2, 1)
	expect("point the address to web-lb-2")
	v.address.Machine, v.lb.Status.Active = instance(2).ID, instance(2).ID
	expect()
	v.address.Assigned = instance(2).ID
	if s := statusOf(v, nil, nil); s.Phase != weir.LoadBalancerNew || s.Address != v.address.Addr {
		t.Errorf("status once the address is there: %+v, want new at %s: nobody could take over yet", s, v.address.Addr)
	}

	// When the second is there, each is told of the other, under one revision.
	v.machines[2] = instance(3)
	guarded()
	expect("configure web-lb-2, web-lb-3")
	configured()
	if a, b := v.configs[instance(2).ID], v.configs[instance(3).ID]; a.Revision != 2 || b.Revision != 2 ||
		len(a.Group.Peers) != 1 || a.Group.Peers[0].Node != b.Node || len(b.Group.Peers) != 1 {
		t.Errorf("configurations %+v and %+v, want both at revision 2, each with the other as its peer", a, b)
	}
	runs(2, 2)
	runs(3, 2)
	expect()
	if s := statusOf(v, nil, nil); s.Phase != weir.LoadBalancerActive || s.Address != v.address.Addr {
		t.Errorf("status once both run their configuration: %+v, want active at %s", s, v.address.Addr)
	}

	v.machines[0].Deleting = testNow
	expect("configure web-lb-2, web-lb-3")
}

func TestBalancerThatIsDeletedLeavesNothing(t *testing.T) {
	v := balancerView{lb: balancer(), machines: []weir.Machine{server(1), instance(2)}, configs: map[weir.ID]weir.NodeConfig{}}
	v.machines[0].Firewall = &weir.Firewall{}
	v.lb.Deleting = testNow
	v.all = []weir.LoadBalancer{v.lb}
	v.address = &weir.Address{Owner: "lb", Addr: netip.MustParseAddr("198.51.100.1"), Machine: "100002"}
	for _, want := range []string{
		"[change the firewall of web-1 delete instance web-lb-2]",
		"[]",
		"[release address 198.51.100.1]",
		"[]",
		"[forget the load balancer]",
	} {
		if got := fmt.Sprint(planned(v)); got != want {
			t.Errorf("steps %s, want %s", got, want)
		}
		switch want {
		case "[change the firewall of web-1 delete instance web-lb-2]":
			v.machines[0].Firewall = nil
			v.machines[1].Deleting = testNow
		case "[release address 198.51.100.1]":
			v.address.Deleting = testNow
		default:
			if len(v.machines) > 1 {
				v.machines = v.machines[:1]
			} else {
				v.address = nil
			}
		}
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestServersAnswerTheirBalancerAlone(t *testing.T) {
	lb := balancer()
	other := server(3)
	other.Tags = []string{"db"}
	walls := firewalls([]weir.LoadBalancer{lb}, []weir.Machine{server(1), instance(2), instance(4), other}, []netip.Addr{netip.MustParseAddr("10.110.0.1")}, netip.MustParsePrefix("10.110.0.0/20"))
	askers := prefixes("10.110.0.1/32", "10.110.0.2/32", "10.110.0.4/32")
	wall := &weir.Firewall{Openings: []weir.Opening{
		{Port: 80, Peers: prefixes("0.0.0.0/0")},
		{Port: weir.BeatPort, UDP: true, Peers: askers},
		{Port: weir.HealthPort, Peers: askers},
	}}
	want := map[weir.ID]*weir.Firewall{
		"100001": {Openings: []weir.Opening{
			{Port: 80, Peers: prefixes("10.110.0.2/32", "10.110.0.4/32")},
			{Port: 8080, Peers: prefixes("10.110.0.2/32", "10.110.0.4/32")},
		}},
		"100002": wall,
		"100004": wall,
	}
	if diff := cmp.Diff(want, walls, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("firewalls (-want +got):\n%s", diff)
	}
}

func TestOnlyMachinesThatServeAreServers(t *testing.T) {
	booting, failed, leaving, off := server(2), server(3), server(4), server(5)
	booting.Status.Boot.State = weir.BootRunning
	failed.Status.Boot.State = weir.BootFailed
	leaving.Deleting = testNow
	off.Off = true
	unknown := server(6)
	unknown.Status.Boot.State = weir.BootUnknown // a cloud that cannot look inside

	v := balancerView{lb: balancer(), machines: []weir.Machine{server(1), booting, failed, leaving, off, unknown}}
	p := v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9"))
	var got []string
	for _, s := range p.Backends[0].Servers {
		got = append(got, s.Name+" "+s.Addr.String())
	}
	if want := []string{"web-1 10.110.0.1:8080", "web-6 10.110.0.6:8080"}; !slices.Equal(got, want) {
		t.Errorf("servers %q, want %q", got, want)
	}
	if got, want := p.Frontends[0].Bind.String(), "10.17.0.9:80"; got != want {
		t.Errorf("bound to %s, want %s", got, want)
	}
}
