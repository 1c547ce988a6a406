package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

func TestLoadBalancerIsActiveOnceItIsAsAskedAndAnswers(t *testing.T) {
	late := func(id weir.ID) func(*balancerView) {
		return func(v *balancerView) {
			v.configs[id] = weir.NodeConfig{Node: id, Revision: 8}
		}
	}
	mute := func(since time.Duration) func(*balancerView) {
		return func(v *balancerView) {
			v.seen.asks, v.seen.service = true, asked{}.after(Finding{}, testNow.Add(-since))
		}
	}
	answering := func(v *balancerView) {
		v.seen.asks, v.seen.service = true, asked{}.after(Finding{Alive: true, Serves: true}, testNow)
	}
	for _, test := range []struct {
		name  string
		was   weir.LoadBalancerPhase
		see   []func(*balancerView)
		steps []balancerStep
		want  weir.LoadBalancerPhase
		said  string // in its plan, or why
	}{
		{"all run what is asked", "new", nil, nil, "active", ""},
		{"and its address answers", "new", []func(*balancerView){answering}, nil, "active", ""},
		{"but its address has not answered yet", "new", []func(*balancerView){func(v *balancerView) { v.seen.asks = true }}, nil, "new", "wait for an answer at 198.51.100.1"},
		{"nor for long, and it never did", "new", []func(*balancerView){mute(time.Hour)}, nil, "new", "wait for an answer at 198.51.100.1"},
		{"something is still to be done", "new", []func(*balancerView){answering}, []balancerStep{configure{}}, "new", ""},
		{"the active instance runs what was asked before", "new", []func(*balancerView){answering, late("100002")}, nil, "new", "wait for web-lb-2 to run its configuration"},
		{"the one that stands by does", "new", []func(*balancerView){answering, late("100003")}, nil, "new", "wait for web-lb-3 to run its configuration"},
		{"which nobody waits for once it is broken", "new", []func(*balancerView){answering, late("100003"), func(v *balancerView) { v.machines[2].Status.Phase = weir.MachineOff }}, nil, "active", "wait for web-lb-3"},
		{"nobody has the address", "new", []func(*balancerView){answering, func(v *balancerView) { v.address.Assigned = "" }}, nil, "new", ""},
		{"servers come and go of one that is active", "active", []func(*balancerView){answering, late("100002"), late("100003")}, []balancerStep{configure{}}, "active", ""},
		{"the address of one that is active is mute for a moment", "active", []func(*balancerView){mute(deafAfter - time.Second)}, nil, "active", ""},
		{"and for long", "active", []func(*balancerView){mute(deafAfter)}, nil, "errored", "nothing has answered at its address since "},
		{"until it answers again", "errored", []func(*balancerView){answering}, nil, "active", ""},
		{"a new one cannot be as asked", "new", []func(*balancerView){func(v *balancerView) {
			v.machines[2].Status.Boot = weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3"}
		}}, nil, "errored", "user-data exited with 3"},
	} {
		v := judged()
		v.lb.Status.Phase = test.was
		for _, id := range []weir.ID{"100002", "100003"} {
			v.configs[id] = weir.NodeConfig{Node: id, Revision: 7}
		}
		for _, see := range test.see {
			see(&v)
		}
		s := statusOf(v, test.steps, v.judge())
		if s.Phase != test.want {
			t.Errorf("%s: %s, want %s (%v, %s)", test.name, s.Phase, test.want, s.Plan, s.Err)
		}
		if !slices.ContainsFunc(append(s.Plan, s.Err), func(text string) bool { return strings.Contains(text, test.said) }) {
			t.Errorf("%s: plan %q and error %q, want %q in it", test.name, s.Plan, s.Err, test.said)
		}
		if (s.Phase == weir.LoadBalancerErrored) != (s.Err != "") {
			t.Errorf("%s: %s with the reason %q", test.name, s.Phase, s.Err)
		}
	}
}

func TestLoadBalancerIsNewAgainOnceItIsAskedForSomethingElse(t *testing.T) {
	c := newPlain(t)
	lb := balancer()
	lb.Region, lb.Tag = c.Region(), ""
	lb, err := c.CreateLoadBalancer(t.Context(), lb)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*weir.LoadBalancer)
		want   weir.LoadBalancerPhase
	}{
		{"nothing", func(*weir.LoadBalancer) {}, weir.LoadBalancerActive},
		{"its own tags", func(lb *weir.LoadBalancer) { lb.Tags = []string{"k8s:1"} }, weir.LoadBalancerActive},
		{"a rule", func(lb *weir.LoadBalancer) {
			lb.Rules = append(slices.Clone(lb.Rules), weir.Rule{Entry: weir.TCP, EntryPort: 25, Target: weir.TCP, TargetPort: 25})
		}, weir.LoadBalancerNew},
		{"the order of its rules", func(lb *weir.LoadBalancer) { lb.Rules = []weir.Rule{lb.Rules[1], lb.Rules[0]} }, weir.LoadBalancerActive},
		{"its health check", func(lb *weir.LoadBalancer) { lb.Health.Interval = time.Minute }, weir.LoadBalancerNew},
		{"its servers", func(lb *weir.LoadBalancer) { lb.Tag = "web" }, weir.LoadBalancerNew},
	} {
		becomes(t, c, lb.ID, weir.LoadBalancerActive)
		got, err := c.UpdateLoadBalancer(t.Context(), lb.ID, func(lb *weir.LoadBalancer) error { test.change(lb); return nil })
		if err != nil || got.Status.Phase != test.want {
			t.Errorf("after a change of %s: %s (%v), want %s", test.name, got.Status.Phase, err, test.want)
		}
	}
}

// newPlain returns a control plane over a cloud in memory, which does nothing by itself.
func newPlain(t *testing.T) *Control {
	db := store.Memory()
	t.Cleanup(func() { db.Close() })
	return New(Options{Region: "lab", Store: db, Cloud: cloud.NewFake(cloud.FakeOptions{})})
}

// becomes has a load balancer be in a phase.
func becomes(t *testing.T, c *Control, id weir.ID, phase weir.LoadBalancerPhase) {
	t.Helper()
	err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
		lb, err := loadBalancers.Get(t.Context(), tx, id)
		lb.Status.Phase = phase
		loadBalancers.Put(tx, id, lb)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
