package cloud_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/cloud/cloudtest"
	"weir/weir"
)

func TestFakeKeepsThePromisesOfACloud(t *testing.T) {
	cloudtest.Run(t, func(*testing.T) cloud.Cloud {
		return cloud.NewFake(cloud.FakeOptions{Region: cloudtest.Region, Boots: scripts})
	})
}

// scripts runs user-data as far as the suite needs it: "exit 3" fails.
func scripts(s cloud.Spec) (time.Duration, weir.Boot) {
	if strings.Contains(s.UserData, "exit 3") {
		return time.Millisecond, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3"}
	}
	return time.Millisecond, weir.Boot{State: weir.BootDone}
}

func spec(id weir.ID) cloud.Spec {
	return cloud.Spec{ID: id, Name: "web", Template: weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"}}
}

func TestFakeRunsOutOfMachinesAndGivesBackTheRoom(t *testing.T) {
	ctx := t.Context()
	f := cloud.NewFake(cloud.FakeOptions{Machines: 2})
	first, err := f.CreateMachine(ctx, spec("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateMachine(ctx, spec("2")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateMachine(ctx, spec("3")); !errors.Is(err, weir.Exhausted) {
		t.Errorf("a third machine in room for two: error %v, want exhausted", err)
	}
	if err := f.Room(ctx, spec("3").Template, 1); !errors.Is(err, weir.Exhausted) {
		t.Errorf("room for a third: error %v, want exhausted", err)
	}
	if _, err := f.CreateMachine(ctx, spec("1")); err != nil {
		t.Errorf("a machine that is there: %v", err)
	}
	if err := f.DeleteMachine(ctx, "1"); err != nil {
		t.Fatal(err)
	}
	third, err := f.CreateMachine(ctx, spec("3"))
	if err != nil || third.Private != first.Private {
		t.Errorf("after a deletion: private address %v and error %v, want %v again", third.Private, err, first.Private)
	}
	if got := []int{f.Made("1"), f.Made("3"), f.Made("4")}; got[0] != 1 || got[1] != 1 || got[2] != 0 {
		t.Errorf("made 1, 3 and 4 %v times, want once, once and never", got)
	}
}

func TestFakeFailsBeforeOrAfterACallTakesEffect(t *testing.T) {
	broken := weir.Errorf(weir.Unavailable, "broken")
	var before, after error
	var calls []string
	f := cloud.NewFake(cloud.FakeOptions{Fault: func(_ context.Context, call string) (error, error) {
		calls = append(calls, call)
		return before, after
	}})
	before = broken
	if _, err := f.CreateMachine(t.Context(), spec("1")); !errors.Is(err, weir.Unavailable) {
		t.Errorf("error %v, want unavailable", err)
	}
	before, after = nil, nil
	if ms, _ := f.Machines(t.Context()); len(ms) != 0 {
		t.Errorf("machines %v after a creation that failed before it took effect", ms)
	}
	after = broken
	if _, err := f.CreateMachine(t.Context(), spec("1")); !errors.Is(err, weir.Unavailable) {
		t.Errorf("error %v, want unavailable", err)
	}
	after = nil
	if ms, _ := f.Machines(t.Context()); len(ms) != 1 {
		t.Errorf("machines %v after a creation that took effect and failed, want 1", ms)
	}
	want := "create machine 1, list machines, create machine 1, list machines"
	if got := strings.Join(calls, ", "); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}

func TestFakeMachineThatDiesFinishesItsBootWhenItIsOnAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		f := cloud.NewFake(cloud.FakeOptions{Boots: func(cloud.Spec) (time.Duration, weir.Boot) {
			return time.Minute, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 1"}
		}})
		state := func() weir.BootState {
			ms, err := f.Machines(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return ms[0].Boot.State
		}
		if _, err := f.CreateMachine(ctx, spec("1")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Second)
		if !f.Kill("1") || f.Kill("1") || f.Kill("2") {
			t.Error("Kill does not say whether the machine was on")
		}
		time.Sleep(time.Hour)
		if got := state(); got != weir.BootRunning {
			t.Errorf("boot is %q while the machine is off, want running", got)
		}
		if err := f.PowerOn(ctx, "1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if err := f.PowerOn(ctx, "1"); err != nil { // which does nothing
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if got := state(); got != weir.BootRunning {
			t.Errorf("boot is %q after 59 s of 60, want running", got)
		}
		time.Sleep(time.Second)
		if got := state(); got != weir.BootFailed {
			t.Errorf("boot is %q after 60 s of 60, want failed", got)
		}
	})
}
