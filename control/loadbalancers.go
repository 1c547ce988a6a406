package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"weir/haproxy"
	"weir/store"
	"weir/weir"
)

// LoadBalancers returns all load balancers, the oldest first.
func (c *Control) LoadBalancers(ctx context.Context) ([]weir.LoadBalancer, error) {
	all, err := loadBalancers.AllOwn(ctx, c.Store)
	all = slices.DeleteFunc(all, func(lb weir.LoadBalancer) bool { return !lb.Deleting.IsZero() })
	slices.SortFunc(all, func(a, b weir.LoadBalancer) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// LoadBalancer returns one load balancer, or weir.NotFound.
func (c *Control) LoadBalancer(ctx context.Context, id weir.ID) (weir.LoadBalancer, error) {
	lb, err := c.lists.loadBalancers.get(ctx, id)
	return kept(loadBalancers.own(ctx, id, lb, err))
}

// keptBalancer returns a load balancer of the caller's team that is not being deleted.
func keptBalancer(ctx context.Context, r store.Reader, id weir.ID) (weir.LoadBalancer, error) {
	return kept(loadBalancers.Own(ctx, r, id))
}

func kept(lb weir.LoadBalancer, err error) (weir.LoadBalancer, error) {
	if err == nil && !lb.Deleting.IsZero() {
		return lb, weir.Errorf(weir.NotFound, "load balancer %q is being deleted", lb.Name)
	}
	return lb, err
}

// CreateLoadBalancer adds a load balancer; its ID, Created and Status are set here. A name that
// is taken is weir.Invalid.
func (c *Control) CreateLoadBalancer(ctx context.Context, lb weir.LoadBalancer) (weir.LoadBalancer, error) {
	lb.ID, lb.Team = weir.ID(uuid.NewString()), weir.CallerOf(ctx).Team
	lb.Created = time.Now().UTC()
	lb.Status = weir.LoadBalancerStatus{Phase: weir.LoadBalancerNew}
	lb.Serial, lb.Reload, lb.Revision, lb.Wanted, lb.WantedAt, lb.Key = 0, 0, 0, "", time.Time{}, newKey()
	if err := c.checkStack(ctx, lb); err != nil {
		return lb, err
	}
	made := lb
	err := c.Store.Update(ctx, func(tx *store.Tx) (err error) {
		made, err = c.putBalancer(ctx, tx, lb)
		return err
	})
	return made, err
}

// UpdateLoadBalancer has change change a load balancer inside one transaction, so
// that no other's change is lost, and returns the result.
func (c *Control) UpdateLoadBalancer(ctx context.Context, id weir.ID, change func(*weir.LoadBalancer) error) (lb weir.LoadBalancer, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		lb, _, err = c.changeBalancer(ctx, tx, id, change)
		return err
	})
	return lb, err
}

// changeBalancer has change change a load balancer, and returns the result and whether it is another than before.
func (c *Control) changeBalancer(ctx context.Context, tx *store.Tx, id weir.ID, change func(*weir.LoadBalancer) error) (lb weir.LoadBalancer, changed bool, err error) {
	was, err := keptBalancer(ctx, tx, id)
	if err != nil {
		return was, false, err
	}
	lb = was
	if err := change(&lb); err != nil {
		return was, false, err
	}
	lb.ID, lb.Team, lb.Created, lb.Status, lb.Serial, lb.Reload = was.ID, was.Team, was.Created, was.Status, was.Serial, was.Reload
	lb.Revision, lb.Wanted, lb.WantedAt, lb.Key, lb.Mode, lb.Addr = was.Revision, was.Wanted, was.WantedAt, was.Key, was.Mode, was.Addr
	lb.Dual, lb.Internal = was.Dual, was.Internal
	// A client that says the same in another order has changed nothing.
	lb.Machines, lb.Rules, lb.Tags = sameOrder(was.Machines, lb.Machines), sameOrder(was.Rules, lb.Rules), sameOrder(was.Tags, lb.Tags)
	lb, err = c.putBalancer(ctx, tx, lb)
	return lb, err == nil && asksElse(was, lb), err
}

// sameOrder returns was if is has the same elements, otherwise is.
func sameOrder[T comparable](was, is []T) []T {
	if len(was) != len(is) {
		return is
	}
	count := map[T]int{}
	for i := range was {
		count[was[i]]++
		count[is[i]]--
	}
	for _, n := range count {
		if n != 0 {
			return is
		}
	}
	return was
}

// CheckLoadBalancer returns lb as [Control.CreateLoadBalancer] would store it, or
// [Control.UpdateLoadBalancer] if it has an ID, or why neither would.
func (c *Control) CheckLoadBalancer(ctx context.Context, lb weir.LoadBalancer) (weir.LoadBalancer, error) {
	lb.Team = weir.CallerOf(ctx).Team
	if err := c.checkStack(ctx, lb); err != nil {
		return lb, err
	}
	checked := lb
	nothing := errors.New("nothing is to be stored")
	err := c.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if checked, err = c.putBalancer(ctx, tx, lb); err == nil {
			err = nothing
		}
		return err
	})
	if errors.Is(err, nothing) {
		err = nil
	}
	return checked, err
}

// checkStack returns why lb cannot have an address of IPv6 in this cloud.
func (c *Control) checkStack(ctx context.Context, lb weir.LoadBalancer) error {
	if !lb.Dual || c.cloudless() {
		return nil
	}
	instance := weir.Template{Region: lb.Region, Size: lb.Size, Image: instanceImage, IPv6: true}
	if err := c.Cloud.Room(ctx, instance, 0); err != nil {
		return fmt.Errorf("load balancer %q: network_stack is DUALSTACK: %w", lb.Name, err)
	}
	return nil
}

// checkBalancer checks a load balancer against itself and all others, and returns it without the
// servers that are being deleted: a client may not have heard of that yet.
func (c *Control) checkBalancer(ctx context.Context, tx *store.Tx, lb weir.LoadBalancer) (weir.LoadBalancer, error) {
	if err := lb.Check(c.Region()); err != nil {
		return lb, err
	}
	if err := c.checkPlace(lb); err != nil {
		return lb, err
	}
	if err := checkShipped(ctx, tx, &lb); err != nil {
		return lb, err
	}
	taken, err := c.nameTaken(ctx, tx, lb)
	if err != nil {
		return lb, err
	}
	if taken {
		return lb, weir.Errorf(weir.Invalid, "name is not unique: there is a load balancer %q already", lb.Name) // a text that clients match
	}
	for _, id := range lb.TargetMachines() {
		switch _, err := referred(ctx, tx, id); {
		case errors.Is(err, errLeaving):
			lb.Forget(id)
		case err != nil:
			return lb, fmt.Errorf("load balancer %q: droplet_ids: %w", lb.Name, err)
		}
	}
	lb.ACME, err = checkCertificates(ctx, tx, lb)
	return lb, err
}

// balancerNames are which load balancer has a name, by balancerName: of two that want it at once, one writes first.
// A row is of no account once its load balancer has another name, or is being deleted.
var balancerNames = store.NewTable[weir.ID]("load_balancer_names")

// balancerName is the key of a name: names have characters that a key has not.
func balancerName(lb weir.LoadBalancer) weir.ID {
	return weir.ID(fmt.Sprintf("%s/%x", lb.Team, lb.Name))
}

// nameTaken reports whether another load balancer has lb's name.
func (c *Control) nameTaken(ctx context.Context, tx *store.Tx, lb weir.LoadBalancer) (bool, error) {
	// Rows from before there were such keys are in no other place than the list.
	others, _, err := c.lists.loadBalancers.page(ctx, listOf(lb.Team, "name", lb.Name), 0, 2)
	if err != nil || slices.ContainsFunc(others, func(other weir.LoadBalancer) bool { return other.ID != lb.ID }) {
		return err == nil, err
	}
	id, err := balancerNames.Get(ctx, tx, balancerName(lb))
	if err == nil && id != lb.ID {
		other, err := loadBalancers.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return false, nil
		}
		return other.Name == lb.Name && other.Deleting.IsZero(), err
	}
	if errors.Is(err, weir.NotFound) {
		err = nil
	}
	return false, err
}

// freeName has a load balancer give up its name, if it is still its.
func freeName(ctx context.Context, tx *store.Tx, lb weir.LoadBalancer) error {
	id, err := balancerNames.Get(ctx, tx, balancerName(lb))
	if err == nil && id == lb.ID {
		balancerNames.Delete(tx, balancerName(lb))
	}
	if errors.Is(err, weir.NotFound) {
		err = nil
	}
	return err
}

// putBalancer checks a load balancer, has it be in a project, stores it with its tags, and returns it as
// it is stored. It is new until its instances do what is now asked of it.
func (c *Control) putBalancer(ctx context.Context, tx *store.Tx, lb weir.LoadBalancer) (weir.LoadBalancer, error) {
	lb, err := c.checkBalancer(ctx, tx, lb)
	if err != nil {
		return lb, err
	}
	was, err := loadBalancers.Get(ctx, tx, lb.ID)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return lb, err
	}
	for _, name := range append(slices.Clone(lb.Tags), lb.TargetTags()...) {
		if slices.Contains(was.TargetTags(), name) || was.HasTag(name) {
			continue // a tag that was deleted meanwhile stays so
		}
		if err := addTag(ctx, tx, lb.Team, name); err != nil {
			return lb, err
		}
	}
	if lb.Status.Phase == weir.LoadBalancerActive && asksElse(was, lb) {
		lb.Status.Phase = weir.LoadBalancerNew
	}
	if was.ID == "" || was.Place.Project != lb.Place.Project {
		if err := settle(ctx, tx, lb.Team, &lb.Place); err != nil {
			return lb, fmt.Errorf("load balancer %q: %w", lb.Name, err)
		}
	}
	if was.Name != lb.Name && was.Name != "" {
		if err := freeName(ctx, tx, was); err != nil {
			return lb, err
		}
	}
	balancerNames.Put(tx, balancerName(lb), lb.ID)
	loadBalancers.Put(tx, lb.ID, lb)
	return lb, nil
}

// asksElse reports whether lb asks something else of its instances than it was asked before.
func asksElse(was, lb weir.LoadBalancer) bool {
	was.Tags, was.NoRecords, was.Place, was.ACME = lb.Tags, lb.NoRecords, lb.Place, lb.ACME
	return !reflect.DeepEqual(was, lb)
}

// DeleteLoadBalancer has a load balancer deleted, with its instances and its address.
// Its servers stay.
func (c *Control) DeleteLoadBalancer(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		lb, err := keptBalancer(ctx, tx, id)
		if err != nil {
			return err
		}
		lb.Deleting = time.Now().UTC()
		loadBalancers.Put(tx, id, lb)
		return changeFirewalls(ctx, tx, func(f *weir.CloudFirewall) { forgetBalancer(f, id) })
	})
}

// Generate returns the configuration of HAProxy on the instance of a load balancer
// that has its address: as it runs there if live, otherwise as it would be.
func (c *Control) Generate(ctx context.Context, id weir.ID) (config string, live bool, err error) {
	v, err := c.viewBalancer(ctx, id)
	if err != nil {
		return "", false, err
	}
	at := []netip.Addr{netip.IPv4Unspecified()}
	if v.lb.Dual {
		at = append(at, netip.IPv6Unspecified())
	}
	proxy := v.proxy(c.Drain, at...)
	var version haproxy.Version
	var revision int64
	for _, m := range v.instances() {
		node, ok := v.configs[m.ID]
		if !ok || live && (v.address == nil || v.address.Assigned != m.ID) {
			continue
		}
		proxy, revision, live = node.Proxy, node.Revision, v.live(m.ID)
		version.Full = v.statuses[m.ID].HAProxy.Version
	}
	return string(haproxy.Render(version, revision, proxy, haproxy.Host{})), live, nil
}

// Reload has every instance of a load balancer load its configuration anew, and waits
// until all say that they did, or one says why it cannot, or ctx ends.
func (c *Control) Reload(ctx context.Context, id weir.ID) error {
	var want int64
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		lb, err := keptBalancer(ctx, tx, id)
		if err != nil {
			return err
		}
		lb.Reload++
		want = lb.Reload
		loadBalancers.Put(tx, id, lb)
		return nil
	})
	if err != nil {
		return err
	}
	for {
		waits, err := c.reloading(ctx, id, want)
		if err != nil || len(waits) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return weir.Errorf(weir.Unavailable, "reload: still waiting for %s", strings.Join(waits, ", "))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// reloading returns the names of the instances that do not yet run a configuration
// with that Reload, or the error of one that refuses it.
func (c *Control) reloading(ctx context.Context, id weir.ID, want int64) (waits []string, err error) {
	v, err := c.viewBalancer(ctx, id)
	if err != nil {
		return nil, err
	}
	instances := v.instances()
	if len(instances) == 0 {
		return []string{"an instance"}, nil
	}
	for _, m := range instances {
		config, status := v.configs[m.ID], v.statuses[m.ID]
		switch {
		case config.Proxy.Reload >= want && status.Revision == config.Revision:
		case config.Proxy.Reload >= want && status.Tried == config.Revision && status.Err != "":
			return nil, weir.Errorf(weir.Conflict, "reload: instance %s: %s", m.Name, status.Err)
		default:
			waits = append(waits, m.Name)
		}
	}
	return waits, nil
}
