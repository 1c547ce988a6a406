package api_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// model is what must be there, as simply as it can be said.
type model struct {
	droplets map[int]modelDroplet
	lbs      map[string]modelBalancer
	tags     map[string]bool
	ips      map[string]int // which droplet has it, or 0
}

type modelDroplet struct {
	Name string
	Tags []string // sorted
	Off  bool
}

type modelBalancer struct {
	Name     string
	Tag      string
	Tags     []string // sorted
	Droplets []int    // sorted
	Rules    []int    // entry ports, sorted; each goes to the same port
	Interval int
}

// dice asks a region for things at random, and has the model keep up.
type dice struct {
	*rand.Rand
	*region
	m     model
	trail []string
}

func (d *dice) chance(percent int) bool { return d.IntN(100) < percent }

// droplet returns the ID of a droplet, now and then of none.
func (d *dice) droplet() int {
	if ids := slices.Sorted(maps.Keys(d.m.droplets)); len(ids) > 0 && !d.chance(8) {
		return ids[d.IntN(len(ids))]
	}
	return 7
}

func (d *dice) some() (ids []int) {
	for range 1 + d.IntN(3) {
		if id := d.droplet(); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (d *dice) lb() string {
	if ids := slices.Sorted(maps.Keys(d.m.lbs)); len(ids) > 0 && !d.chance(8) {
		return ids[d.IntN(len(ids))]
	}
	return "none"
}

func (d *dice) ip() string {
	if ips := slices.Sorted(maps.Keys(d.m.ips)); len(ips) > 0 && !d.chance(8) {
		return ips[d.IntN(len(ips))]
	}
	return "192.0.2.1"
}

func (d *dice) tag() string { return []string{"red", "green", "blue", "k8s:1"}[d.IntN(4)] }

func (d *dice) name(kind string) string { return fmt.Sprintf("%s-%d", kind, d.IntN(4)) }

// all reports whether there are such droplets.
func (d *dice) all(ids []int) bool {
	return !slices.ContainsFunc(ids, func(id int) bool { _, ok := d.m.droplets[id]; return !ok })
}

// said holds what was answered to what the model says, and reports whether it was done.
func (d *dice) said(what string, want int, resp *godo.Response, err error) bool {
	d.t.Helper()
	d.trail = append(d.trail, fmt.Sprintf("%s: %d", what, want))
	if resp == nil {
		d.fail("%s: %v", what, err)
	}
	if resp.StatusCode != want || (err == nil) != (want < 300) {
		d.fail("%s: %d (%v), want %d", what, resp.StatusCode, err, want)
	}
	return err == nil
}

func (d *dice) fail(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf(format+"\nafter\n%s", append(args, strings.Join(d.trail, "\n"))...)
}

// answerOf returns the first answer of not that is not 0, and status if there is none.
func answerOf(status int, not ...int) int {
	for _, n := range not {
		if n != 0 {
			return n
		}
	}
	return status
}

// when returns status if so, otherwise 0.
func when(so bool, status int) int {
	if so {
		return status
	}
	return 0
}

func with(tags []string, tag string) []string {
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(tags), tag))))
}

func less(tags []string, tag string) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return t == tag })
}

// gone has the model forget a droplet, and waits until it is gone.
func (d *dice) gone(id int) {
	delete(d.m.droplets, id)
	for lb, b := range d.m.lbs {
		b.Droplets = slices.DeleteFunc(slices.Clone(b.Droplets), func(other int) bool { return other == id })
		d.m.lbs[lb] = b
	}
	for ip, droplet := range d.m.ips {
		if droplet == id {
			d.m.ips[ip] = 0
		}
	}
	d.eventually(fmt.Sprintf("droplet %d is gone\nafter\n%s", id, strings.Join(d.trail, "\n")), func() bool {
		_, resp, err := d.do.Droplets.Get(d.t.Context(), id)
		return err != nil && resp.StatusCode == http.StatusNotFound
	})
}

func (d *dice) request() (*godo.LoadBalancerRequest, modelBalancer) {
	b := modelBalancer{Name: d.name("lb"), Interval: 3 + d.IntN(5)}
	for port := range 3 {
		if d.chance(50) {
			b.Rules = append(b.Rules, 80+port)
		}
	}
	if d.chance(50) {
		b.Tag = d.tag()
	}
	if b.Tag == "" || d.chance(5) {
		b.Droplets = slices.Sorted(slices.Values(d.some()))
	}
	q := &godo.LoadBalancerRequest{Name: b.Name, Tag: b.Tag, HealthCheck: &godo.HealthCheck{CheckIntervalSeconds: b.Interval}, DropletIDs: b.Droplets}
	if d.chance(50) {
		b.Tags = []string{d.tag()}
		q.Tags = b.Tags
	}
	for _, port := range b.Rules {
		q.ForwardingRules = append(q.ForwardingRules, modelRule(port))
	}
	return q, b
}

func modelRule(port int) godo.ForwardingRule {
	return godo.ForwardingRule{EntryProtocol: "tcp", EntryPort: port, TargetProtocol: "tcp", TargetPort: port}
}

// wrong is the answer to a load balancer that cannot be.
func (d *dice) wrong(id string, b modelBalancer) int {
	for other, taken := range d.m.lbs {
		if other != id && taken.Name == b.Name {
			return 422
		}
	}
	return when(len(b.Rules) == 0 || b.Tag != "" && len(b.Droplets) > 0 || !d.all(b.Droplets), 422)
}

// throw asks for something at random.
func (d *dice) throw() {
	ctx, do := d.t.Context(), d.do
	switch d.IntN(16) {
	case 0:
		if len(d.m.droplets) >= 8 {
			return
		}
		q := &godo.DropletMultiCreateRequest{Region: "lab", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}}
		for range 1 + d.IntN(2) {
			q.Names = append(q.Names, d.name("web"))
		}
		if d.chance(60) {
			q.Tags = []string{d.tag()}
		}
		if d.chance(8) {
			q.Size = "huge"
		}
		made, resp, err := do.Droplets.CreateMultiple(ctx, q)
		if !d.said(fmt.Sprintf("create droplets %v with tags %v, size %s", q.Names, q.Tags, q.Size), answerOf(202, when(q.Size == "huge", 422)), resp, err) {
			return
		}
		for i, droplet := range made {
			d.m.droplets[droplet.ID] = modelDroplet{Name: q.Names[i], Tags: q.Tags}
		}
		for _, tag := range q.Tags {
			d.m.tags[tag] = true
		}
	case 1:
		id := d.droplet()
		resp, err := do.Droplets.Delete(ctx, id)
		if d.said(fmt.Sprintf("delete droplet %d", id), answerOf(204, when(!d.all([]int{id}), 404)), resp, err) {
			d.gone(id)
		}
	case 2:
		tag := d.tag()
		resp, err := do.Droplets.DeleteByTag(ctx, tag)
		d.said("delete droplets by tag "+tag, 204, resp, err)
		for _, id := range slices.Sorted(maps.Keys(d.m.droplets)) {
			if slices.Contains(d.m.droplets[id].Tags, tag) {
				d.gone(id)
			}
		}
	case 3:
		id := d.droplet()
		m, there := d.m.droplets[id]
		kind := []string{"power_on", "power_off", "shutdown", "reboot", "resize"}[d.IntN(5)]
		act := map[string]func() (*godo.Action, *godo.Response, error){
			"power_on":  func() (*godo.Action, *godo.Response, error) { return do.DropletActions.PowerOn(ctx, id) },
			"power_off": func() (*godo.Action, *godo.Response, error) { return do.DropletActions.PowerOff(ctx, id) },
			"shutdown":  func() (*godo.Action, *godo.Response, error) { return do.DropletActions.Shutdown(ctx, id) },
			"reboot":    func() (*godo.Action, *godo.Response, error) { return do.DropletActions.Reboot(ctx, id) },
			"resize": func() (*godo.Action, *godo.Response, error) {
				return do.DropletActions.Resize(ctx, id, "s-2vcpu-4gb", false)
			},
		}[kind]
		_, resp, err := act()
		if d.said(fmt.Sprintf("%s droplet %d", kind, id), answerOf(201, when(!there, 404), when(kind == "resize" || m.Off && kind != "power_on", 422)), resp, err) && kind != "reboot" {
			m.Off = kind != "power_on"
			d.m.droplets[id] = m
		}
	case 4:
		id, name := d.droplet(), d.name("db")
		_, resp, err := do.DropletActions.Rename(ctx, id, name)
		if d.said(fmt.Sprintf("rename droplet %d to %s", id, name), answerOf(201, when(!d.all([]int{id}), 404)), resp, err) {
			m := d.m.droplets[id]
			m.Name = name
			d.m.droplets[id] = m
		}
	case 5:
		tag := d.tag()
		_, resp, err := do.Tags.Create(ctx, &godo.TagCreateRequest{Name: tag})
		d.said("create tag "+tag, 201, resp, err)
		d.m.tags[tag] = true
	case 6:
		tag := d.tag()
		resp, err := do.Tags.Delete(ctx, tag)
		if d.said("delete tag "+tag, answerOf(204, when(!d.m.tags[tag], 404)), resp, err) {
			delete(d.m.tags, tag)
			for id, m := range d.m.droplets {
				m.Tags = less(m.Tags, tag)
				d.m.droplets[id] = m
			}
			for id, b := range d.m.lbs {
				b.Tags = less(b.Tags, tag)
				d.m.lbs[id] = b
			}
		}
	case 7:
		d.tagging()
	case 8:
		if len(d.m.lbs) >= 3 {
			return
		}
		q, b := d.request()
		q.ValidateOnly = d.chance(20)
		made, resp, err := do.LoadBalancers.Create(ctx, q)
		what := fmt.Sprintf("create load balancer %+v, dry %v", b, q.ValidateOnly)
		if d.said(what, answerOf(202, d.wrong("", b), when(q.ValidateOnly, 200)), resp, err) && !q.ValidateOnly {
			d.balancer(made.ID, b)
		}
	case 9:
		id := d.lb()
		was, there := d.m.lbs[id]
		q, b := d.request()
		if q.Tags == nil {
			b.Tags = was.Tags
		}
		q.ValidateOnly = d.chance(20)
		_, resp, err := do.LoadBalancers.Update(ctx, id, q)
		what := fmt.Sprintf("make load balancer %s %+v, dry %v", id, b, q.ValidateOnly)
		// A body with a tag and droplets that have it is what reading says, and no mistake.
		echo := b.Tag != "" && len(b.Droplets) > 0 && d.all(b.Droplets) &&
			!slices.ContainsFunc(b.Droplets, func(id int) bool { return !slices.Contains(d.m.droplets[id].Tags, b.Tag) })
		if echo {
			b.Droplets = nil
		}
		if d.said(what, answerOf(200, when(!there, 404), d.wrong(id, b)), resp, err) && !q.ValidateOnly {
			d.balancer(id, b)
		}
	case 10:
		id, ids := d.lb(), d.some()
		b, there := d.m.lbs[id]
		if d.chance(50) {
			resp, err := do.LoadBalancers.AddDroplets(ctx, id, ids...)
			if d.said(fmt.Sprintf("add droplets %v to %s", ids, id), answerOf(204, when(!there, 404), when(b.Tag != "" || !d.all(ids), 422)), resp, err) {
				b.Droplets = slices.Compact(slices.Sorted(slices.Values(append(ids, b.Droplets...))))
				d.m.lbs[id] = b
			}
			return
		}
		resp, err := do.LoadBalancers.RemoveDroplets(ctx, id, ids...)
		if d.said(fmt.Sprintf("remove droplets %v from %s", ids, id), answerOf(204, when(!there, 404), when(b.Tag != "", 422)), resp, err) {
			b.Droplets = slices.DeleteFunc(slices.Clone(b.Droplets), func(id int) bool { return slices.Contains(ids, id) })
			d.m.lbs[id] = b
		}
	case 11:
		id, port := d.lb(), 80+d.IntN(4)
		b, there := d.m.lbs[id]
		if d.chance(60) {
			resp, err := do.LoadBalancers.AddForwardingRules(ctx, id, modelRule(port))
			if d.said(fmt.Sprintf("add rule %d to %s", port, id), answerOf(204, when(!there, 404)), resp, err) {
				b.Rules = slices.Compact(slices.Sorted(slices.Values(append([]int{port}, b.Rules...))))
				d.m.lbs[id] = b
			}
			return
		}
		left := slices.DeleteFunc(slices.Clone(b.Rules), func(p int) bool { return p == port })
		resp, err := do.LoadBalancers.RemoveForwardingRules(ctx, id, modelRule(port))
		if d.said(fmt.Sprintf("remove rule %d from %s", port, id), answerOf(204, when(!there, 404), when(len(left) == 0, 422)), resp, err) {
			b.Rules = left
			d.m.lbs[id] = b
		}
	case 12:
		id := d.lb()
		_, there := d.m.lbs[id]
		resp, err := do.LoadBalancers.Delete(ctx, id)
		if d.said("delete load balancer "+id, answerOf(204, when(!there, 404)), resp, err) {
			delete(d.m.lbs, id)
		}
	case 13:
		if len(d.m.ips) >= 4 {
			return
		}
		q, id := &godo.ReservedIPCreateRequest{Region: "lab"}, 0
		if d.chance(40) {
			id = d.droplet()
			q = &godo.ReservedIPCreateRequest{DropletID: id}
		}
		made, resp, err := do.ReservedIPs.Create(ctx, q)
		if d.said(fmt.Sprintf("reserve an address for %d", id), answerOf(202, when(id != 0 && !d.all([]int{id}), 422)), resp, err) {
			d.m.ips[made.IP] = id
		}
	case 14:
		ip, id := d.ip(), d.droplet()
		_, there := d.m.ips[ip]
		if d.chance(30) {
			_, resp, err := do.ReservedIPActions.Unassign(ctx, ip)
			if d.said("unassign "+ip, answerOf(201, when(!there, 404)), resp, err) {
				d.m.ips[ip] = 0
			}
			return
		}
		_, resp, err := do.ReservedIPActions.Assign(ctx, ip, id)
		if d.said(fmt.Sprintf("assign %s to %d", ip, id), answerOf(201, when(!there, 404), when(!d.all([]int{id}), 422)), resp, err) {
			d.m.ips[ip] = id
		}
	case 15:
		ip := d.ip()
		_, there := d.m.ips[ip]
		resp, err := do.ReservedIPs.Delete(ctx, ip)
		if d.said("release "+ip, answerOf(204, when(!there, 404)), resp, err) {
			delete(d.m.ips, ip)
		}
	}
}

// balancer notes what a load balancer is to be.
func (d *dice) balancer(id string, b modelBalancer) {
	was := d.m.lbs[id]
	d.m.lbs[id] = b
	for _, tag := range append([]string{b.Tag}, b.Tags...) {
		if tag != "" && tag != was.Tag && !slices.Contains(was.Tags, tag) {
			d.m.tags[tag] = true
		}
	}
}

// tagging puts a tag on a droplet and a load balancer, or takes it off them.
func (d *dice) tagging() {
	tag, id, lb := d.tag(), d.droplet(), d.lb()
	m, isDroplet := d.m.droplets[id]
	b, isBalancer := d.m.lbs[lb]
	resources := []godo.Resource{{ID: fmt.Sprint(id), Type: godo.DropletResourceType}, {ID: lb, Type: godo.LoadBalancerResourceType}}
	want := answerOf(204, when(!d.m.tags[tag], 404), when(!isDroplet || !isBalancer, 422))
	if d.chance(60) {
		resp, err := d.do.Tags.TagResources(d.t.Context(), strings.ToUpper(tag), &godo.TagResourcesRequest{Resources: resources})
		if d.said(fmt.Sprintf("tag %d and %s with %s", id, lb, tag), want, resp, err) {
			m.Tags, b.Tags = with(m.Tags, tag), with(b.Tags, tag)
			d.m.droplets[id], d.m.lbs[lb] = m, b
		}
		return
	}
	resp, err := d.do.Tags.UntagResources(d.t.Context(), tag, &godo.UntagResourcesRequest{Resources: resources})
	if d.said(fmt.Sprintf("untag %d and %s of %s", id, lb, tag), want, resp, err) {
		m.Tags, b.Tags = less(m.Tags, tag), less(b.Tags, tag)
		d.m.droplets[id], d.m.lbs[lb] = m, b
	}
}

// seen returns what the API says is there; what takes its time is as wanted.
func (d *dice) seen() model {
	ctx, all := d.t.Context(), &godo.ListOptions{PerPage: 200}
	is := model{map[int]modelDroplet{}, map[string]modelBalancer{}, map[string]bool{}, map[string]int{}}
	droplets, _, err := d.do.Droplets.List(ctx, all)
	if err != nil {
		d.fail("%v", err)
	}
	for _, droplet := range droplets {
		is.droplets[droplet.ID] = modelDroplet{droplet.Name, slices.Sorted(slices.Values(droplet.Tags)), d.m.droplets[droplet.ID].Off}
	}
	lbs, _, err := d.do.LoadBalancers.List(ctx, all)
	if err != nil {
		d.fail("%v", err)
	}
	for _, lb := range lbs {
		b := modelBalancer{lb.Name, lb.Tag, slices.Sorted(slices.Values(lb.Tags)), slices.Sorted(slices.Values(lb.DropletIDs)), nil, lb.HealthCheck.CheckIntervalSeconds}
		for _, rule := range lb.ForwardingRules {
			b.Rules = append(b.Rules, rule.EntryPort)
		}
		slices.Sort(b.Rules)
		is.lbs[lb.ID] = b
	}
	tags, _, err := d.do.Tags.List(ctx, all)
	if err != nil {
		d.fail("%v", err)
	}
	for _, tag := range tags {
		is.tags[tag.Name] = true
		of := func(tags []string) int { return len(tags) - len(less(tags, tag.Name)) }
		n, lbs := 0, 0
		for _, m := range d.m.droplets {
			n += of(m.Tags)
		}
		for _, b := range d.m.lbs {
			lbs += of(b.Tags)
		}
		if tag.Resources.Droplets.Count != n || tag.Resources.Count != n+lbs {
			d.fail("tag %s is on %d droplets of %d resources, want %d of %d", tag.Name, tag.Resources.Droplets.Count, tag.Resources.Count, n, n+lbs)
		}
	}
	ips, _, err := d.do.ReservedIPs.List(ctx, all)
	if err != nil {
		d.fail("%v", err)
	}
	for _, ip := range ips {
		is.ips[ip.IP] = d.m.ips[ip.IP]
	}
	return is
}

// wanted is the model as the API shows it: a load balancer that goes by a tag shows the droplets that have it.
func (d *dice) wanted() model {
	w := d.m
	w.lbs = maps.Clone(w.lbs)
	for id, b := range w.lbs {
		if b.Tag == "" {
			continue
		}
		b.Droplets = nil
		for _, droplet := range slices.Sorted(maps.Keys(w.droplets)) {
			if slices.Contains(w.droplets[droplet].Tags, b.Tag) {
				b.Droplets = append(b.Droplets, droplet)
			}
		}
		w.lbs[id] = b
	}
	return w
}

// settled reports whether what takes its time is done: droplets are on or off, load balancers serve,
// addresses are where they should be, and no action is in progress.
func (d *dice) settled() bool {
	ctx, all := d.t.Context(), &godo.ListOptions{PerPage: 200}
	for id, m := range d.m.droplets {
		droplet, _, err := d.do.Droplets.Get(ctx, id)
		if err != nil || (droplet.Status == "off") != m.Off || (droplet.Status == "active") == m.Off {
			return false
		}
	}
	for id := range d.m.lbs {
		if lb, _, err := d.do.LoadBalancers.Get(ctx, id); err != nil || lb.Status != "active" || lb.IP == "" {
			return false
		}
	}
	for ip, id := range d.m.ips {
		got, _, err := d.do.ReservedIPs.Get(ctx, ip)
		if err != nil || got.Locked || (got.Droplet == nil) != (id == 0) || id != 0 && got.Droplet.ID != id {
			return false
		}
	}
	acts, _, err := d.do.Actions.List(ctx, all)
	return err == nil && !slices.ContainsFunc(acts, func(act godo.Action) bool { return act.Status == godo.ActionInProgress || act.CompletedAt == nil })
}

// TestWhateverIsAskedWhatIsThereIsWhatWasAsked asks for things at random, some of which cannot be,
// and holds each answer, all lists after it, and in the end the cloud to a simple model.
func TestWhateverIsAskedWhatIsThereIsWhatWasAsked(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			start := lab
			if seed == 2 {
				start = etcd
			}
			r := start(t)
			r.serve()
			d := &dice{Rand: rand.New(rand.NewPCG(seed, 4)), region: r,
				m: model{map[int]modelDroplet{}, map[string]modelBalancer{}, map[string]bool{}, map[string]int{}}}
			for range 120 {
				d.throw()
				if diff := cmp.Diff(d.wanted(), d.seen(), cmp.AllowUnexported(model{}), cmpopts.EquateEmpty()); diff != "" {
					d.fail("what is there (-want +got):\n%s", diff)
				}
			}
			d.eventually("all is done\nafter\n"+strings.Join(d.trail, "\n"), d.settled)
		})
	}
}
