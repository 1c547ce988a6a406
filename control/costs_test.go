package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// costing returns what costs money, a line each, and how much that is.
func costing(t *testing.T, c *Control) (lines []string, price float64) {
	t.Helper()
	costs := must(c.Costs(t.Context()))(t)
	for _, item := range costs.Items {
		line := fmt.Sprintf("%s %s %s", item.Kind, item.ID, item.State)
		if item.Of != "" {
			line += " of " + item.Of
		}
		if item.Price > 0 {
			line += fmt.Sprintf(" %v", item.Price)
		}
		if item.Err != "" {
			line += "!"
		}
		lines = append(lines, line)
	}
	if costs.Err != "" {
		lines = append(lines, "not seen: "+costs.Err)
	}
	return lines, costs.Price
}

func TestAllThatCostsMoneyIsListed(t *testing.T) {
	var b breaker
	inLab(t, cloud.FakeOptions{Fault: b.fault}, func(t *testing.T, c *Control) {
		runCheckers(t, c)
		p := must(c.CreateAutoscalePool(t.Context(), mixedPool(webPool(2), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.03, Max: 1})))(t)
		front(t, c)
		lines, price := costing(t, c)
		alike(t, "at first", lines, "machine 100001 kept of pool web 0.01", "machine 100002 kept of pool web 0.01",
			"machine 100003 kept of load balancer web", "machine 100004 kept of load balancer web", "address 203.0.113.1 kept of load balancer web")
		if price != 0.02 {
			t.Errorf("it costs %v, want 0.02", price)
		}

		b.set(fails("create machine", weir.Errorf(weir.Exhausted, "quota reached"), nil))
		must(c.Grow(t.Context(), "web", 1))(t)
		time.Sleep(time.Minute)
		lines, price = costing(t, c)
		if lines[1] != "machine 100002 kept of pool web 0.01" || !strings.Contains(strings.Join(lines, "\n"), "coming of pool web 0.03!") || price != 0.02 {
			t.Errorf("where one cannot be made: %q, which cost %v, want that it is coming, with an error, and costs nothing yet", lines, price)
		}

		b.set(fails("delete machine", weir.Errorf(weir.Unavailable, "it is locked"), nil))
		smaller := mixedPool(webPool(1), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.03, Max: 1})
		must(c.UpdateAutoscalePool(t.Context(), p.ID, smaller))(t)
		time.Sleep(2 * time.Minute)
		lines, price = costing(t, c)
		if !strings.Contains(strings.Join(lines, "\n"), "machine 100002 leaving of pool web 0.01!") || price < 0.02 {
			t.Errorf("where a deletion fails: %q, which cost %v, want that the machine is leaving, and costs", lines, price)
		}

		b.set(fails("", weir.Errorf(weir.Unavailable, "the region is down"), nil))
		down, _ := costing(t, c)
		if last := down[len(down)-1]; len(down) != len(lines)+1 || !strings.HasPrefix(last, "not seen: ") || !strings.HasPrefix(down[0], "machine 100001 kept") {
			t.Errorf("where the region is down: %q, want what was there, and that it could not be seen", down)
		}

		b.set(nil)
		fake := c.Cloud.(*cloud.Fake)
		must(fake.CreateMachine(t.Context(), cloud.Spec{ID: "999999", Name: "stray", Template: webPool(1).Template}))(t)
		must(fake.Reserve(t.Context(), "nobody", weir.IPv4))(t)
		time.Sleep(time.Minute)
		lines, _ = costing(t, c)
		alike(t, "in the end", lines, "machine 100001 kept of pool web 0.01", "machine 100003 kept of load balancer web", "machine 100004 kept of load balancer web",
			"machine 999999 unknown", "address 203.0.113.1 kept of load balancer web")
	})
}
