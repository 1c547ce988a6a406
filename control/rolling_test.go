package control

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

func TestMachinesAreReplacedWithinWhatRollingAllows(t *testing.T) {
	n := func(v int) *int { return &v }
	for _, test := range []struct {
		rolling *weir.Rolling
		most    int // machines at any time
		least   int // that serve
	}{
		{nil, 5, 4},
		{&weir.Rolling{Surge: n(2)}, 6, 4},
		{&weir.Rolling{Surge: n(0), Unavailable: 1}, 4, 3},
		{&weir.Rolling{Surge: n(1), Unavailable: 2}, 5, 2},
		{&weir.Rolling{Surge: n(0), Unavailable: 100}, 4, 0},
	} {
		inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
			want := webPool(4)
			want.Rolling = test.rolling
			p := must(c.CreateAutoscalePool(t.Context(), want))(t)
			time.Sleep(time.Minute)
			want.Template.UserData = "#!/bin/sh\n"
			must(c.UpdateAutoscalePool(t.Context(), p.ID, want))(t)
			most, least := 0, 4
			for range 400 {
				time.Sleep(time.Second)
				all, serving, _ := fleet(t, c, p.ID, "")
				most, least = max(most, all), min(least, serving)
			}
			if most != test.most || least != test.least {
				t.Errorf("%+v: up to %d machines, of which at least %d serve, want %d and %d", test.rolling, most, least, test.most, test.least)
			}
			if is := must(c.AutoscalePool(t.Context(), p.ID))(t); is.Former != nil || len(is.Status.Plan) > 0 {
				t.Errorf("%+v: in the end it plans %v, and may go back to %+v", test.rolling, is.Status.Plan, is.Former)
			}
			for _, m := range must(c.PoolMembers(t.Context(), p.ID))(t) {
				if spec, _ := c.Cloud.(*cloud.Fake).Spec(m.ID); spec.UserData != want.Template.UserData {
					t.Errorf("%+v: %s was made from %q, want the new template", test.rolling, m.Name, spec.UserData)
				}
			}
		})
	}
}

func TestPoolOfAFileReplacesItsMachinesIfItSaysSo(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		lb := balancer()
		lb.Region, lb.Instances, lb.ID = "lab", 2, ""
		pool := func(script string, rolling *weir.Rolling) *weir.Pool {
			p := webPool(2)
			p.Autoscale, p.Rolling, p.Template.UserData = nil, rolling, script
			return &p
		}
		names := func() (names []string) {
			for _, m := range must(c.Machines(t.Context()))(t) {
				if m.Pool != "" && m.Deleting.IsZero() {
					names = append(names, m.Name)
				}
			}
			return names
		}
		must(c.Apply(t.Context(), pool("#!/bin/sh\n", nil), lb, false))(t)
		time.Sleep(time.Minute)
		must(c.Apply(t.Context(), pool("#!/bin/sh\n# 2\n", nil), lb, false))(t)
		time.Sleep(5 * time.Minute)
		alike(t, "who does not say so keeps its machines", names(), "web-1", "web-2")
		runCheckers(t, c)
		changes := must(c.Apply(t.Context(), pool("#!/bin/sh\n# 2\n", &weir.Rolling{}), lb, false))(t)
		if len(changes) != 1 || !strings.Contains(changes[0], "rolling: 0 fewer, a tenth more, was none") {
			t.Errorf("changes %q, want that it replaces machines from now on", changes)
		}
		time.Sleep(5 * time.Minute)
		alike(t, "who says so has what was made before replaced", names(), "web-3", "web-4")
		must(c.Apply(t.Context(), pool("#!/bin/sh\nexit 3\n", &weir.Rolling{}), lb, false))(t)
		time.Sleep(5 * time.Minute)
		alike(t, "what fails is rolled back", names(), "web-3", "web-4")
		history := must(c.PoolTold(t.Context(), "web"))(t)
		if len(history) < 3 || !strings.HasPrefix(history[1].Err, "went back to the former template: web-6: user-data exited with 3") {
			t.Errorf("its history is %+v, want that it went back", history)
		}
		must(c.Apply(t.Context(), pool("#!/bin/sh\n# 2\n", nil), lb, false))(t)
		if all := must(c.PoolTold(t.Context(), "web"))(t); len(all) != 0 {
			t.Errorf("its history is %+v, want none of a pool that only users change", all)
		}
	})
}

func TestReplacingGoesOnWhenTheNextMachineServes(t *testing.T) {
	var made atomic.Int32
	boots := func(s cloud.Spec) (time.Duration, weir.Boot) {
		if s.UserData != "" && made.Add(1) == 1 {
			return 5 * time.Second, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3"}
		}
		return 5 * time.Second, weir.Boot{State: weir.BootDone}
	}
	inLab(t, cloud.FakeOptions{Boots: boots}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(3)))(t)
		time.Sleep(time.Minute)
		want := webPool(3)
		want.Template.UserData = "#!/bin/sh\n"
		must(c.UpdateAutoscalePool(t.Context(), p.ID, want))(t)
		time.Sleep(5 * time.Minute)
		alike(t, "in the end", namesOf(t, c, p.ID), "web-5", "web-6", "web-7")
		alike(t, "events", happened(t, c, "web"), "pauses replacing its machines, and tries one more: web-4: user-data exited with 3", "goes on with replacing its machines: a new one serves")
		alike(t, "history", told(t, c, p.ID), "CONFIGURATION_CHANGE 3 of 3 success", "CONFIGURATION_CHANGE 3 of 3 success")
	})
}

func TestWhoChangesATemplateBackKeepsWhatWasMadeFromIt(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(3)))(t)
		time.Sleep(time.Minute)
		other := webPool(3)
		other.Template.UserData = "#!/bin/sh\n"
		must(c.UpdateAutoscalePool(t.Context(), p.ID, other))(t)
		time.Sleep(40 * time.Second)
		must(c.UpdateAutoscalePool(t.Context(), p.ID, webPool(3)))(t)
		time.Sleep(5 * time.Minute)
		alike(t, "in the end", namesOf(t, c, p.ID)[:2], "web-1", "web-2")
		for _, m := range must(c.PoolMembers(t.Context(), p.ID))(t) {
			if spec, _ := c.Cloud.(*cloud.Fake).Spec(m.ID); spec.UserData != "" {
				t.Errorf("%s was made from %q, want the template that is there again", m.Name, spec.UserData)
			}
		}
	})
}
