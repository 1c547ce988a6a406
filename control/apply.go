package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

// Apply makes pool and lb, found by their names, what they are here, or creates them,
// in one transaction, and returns what that changes, a sentence each. With dry it only
// says so, or why it cannot be done. A pool with KeepCount stays as large as it is; nil stands for no pool, of a load
// balancer whose servers are no machines of Weir's. The IDs, times and statuses of pool and
// lb are not looked at.
func (c *Control) Apply(ctx context.Context, pool *weir.Pool, lb weir.LoadBalancer, dry bool) (changes []string, err error) {
	if err := lb.Check(c.Region()); err != nil {
		return nil, err
	}
	if err := c.checkPlace(lb); err != nil {
		return nil, err
	}
	if pool != nil {
		if err := c.checkPool(ctx, *pool); err != nil {
			return nil, err
		}
	}
	lb.Team = weir.CallerOf(ctx).Team
	nothing := errors.New("nothing is to be stored")
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		changes = nil
		if pool != nil {
			var err error
			if changes, err = applyPool(ctx, tx, *pool, dry); err != nil {
				return err
			}
		}
		was, err := balancerNamed(ctx, tx, lb.Name)
		if err != nil {
			return err
		}
		if was != nil && was.Internal != lb.Internal {
			return weir.Errorf(weir.Invalid, "load balancer %q: network is %s, and it has %s, which stays as it was created: say so, or give this one another name", lb.Name, networkOf(&lb), networkOf(was))
		}
		wanted, lbChanges := mergeBalancer(was, lb)
		changes = append(changes, lbChanges...)
		if len(lbChanges) > 0 {
			_, err = c.putBalancer(ctx, tx, wanted)
		}
		if dry && err == nil {
			err = nothing
		}
		return err
	})
	if errors.Is(err, nothing) {
		err = nil
	}
	return changes, err
}

// checkPool returns why a pool cannot become what it is here.
func (c *Control) checkPool(ctx context.Context, pool weir.Pool) error {
	if err := c.checkScaled(&pool); err != nil {
		return err
	}
	var was *weir.Pool
	err := c.Store.View(ctx, func(tx *store.Tx) (err error) {
		was, err = poolNamed(ctx, tx, pool.Name)
		return err
	})
	if err != nil {
		return err
	}
	is, _ := mergePool(was, pool)
	if was == nil {
		was = &weir.Pool{}
	}
	if err := c.admitChange(ctx, was, is); err != nil {
		return fmt.Errorf("pool %q: %w", pool.Name, err)
	}
	return nil
}

// applyPool makes a pool what it is here, and returns what that changes.
func applyPool(ctx context.Context, tx *store.Tx, pool weir.Pool, dry bool) (changes []string, err error) {
	was, err := poolNamed(ctx, tx, pool.Name)
	if err != nil {
		return nil, err
	}
	pool.Team = weir.CallerOf(ctx).Team
	if was != nil && was.Autoscale != nil {
		return nil, weir.Errorf(weir.Conflict, "pool %q is an autoscale pool, with the ID %s, which no weir.yaml changes: give this one another name", was.Name, was.ID)
	}
	wanted, changes := mergePool(was, pool)
	if dry {
		return changes, nil
	}
	for _, name := range wanted.Template.Tags {
		if err := addTag(ctx, tx, wanted.Team, name); err != nil {
			return nil, err
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	pools.Put(tx, wanted.ID, wanted)
	switch {
	case wanted.Told() && (was == nil || !was.Told() || was.Scale == nil && wanted.Scale != nil || was.Count != wanted.Count || !reflect.DeepEqual(was.Former, wanted.Former)):
		err = beginScaling(ctx, tx, wanted, weir.ScaledByUser, "")
	case !wanted.Told() && was != nil && was.Told():
		forgetScale(tx, wanted.ID)
	}
	if wanted.Scale == nil {
		forgetVerdicts(tx, wanted.ID)
	}
	return changes, err
}

// balancerNamed returns the caller's load balancer of that name that is to stay, or nil.
func balancerNamed(ctx context.Context, tx *store.Tx, name string) (*weir.LoadBalancer, error) {
	all, err := loadBalancers.AllOwn(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, lb := range all {
		if lb.Name == name && lb.Deleting.IsZero() {
			return &lb, nil
		}
	}
	return nil, nil
}

// mergePool returns was with what want desires, and what that changes.
func mergePool(was *weir.Pool, want weir.Pool) (weir.Pool, []string) {
	if was != nil && (want.KeepCount || want.Scale != nil) {
		want.Count = was.Count
	}
	if want.Scale != nil {
		want.Count = want.Clamp(want.Count)
	}
	want.KeepCount = false
	if was == nil {
		want.ID = weir.ID(uuid.NewString())
		want.Created = time.Now().UTC()
		want.Serial, want.Deleting, want.Status = 0, time.Time{}, weir.PoolStatus{}
		return want, []string{fmt.Sprintf("pool %s: created, count %d%s, size %s", want.Name, want.Count, bounded(want.Scale), want.Template.Size)}
	}
	p := *was
	changes := changed("pool "+p.Name, []field{
		{"count", p.Count, want.Count},
		{"scale", scaling(p.Scale), scaling(want.Scale)},
		{"hostname_prefix", p.Prefix, want.Prefix},
		{"sizes", sized(p), sized(want)},
		{"rolling", rolled(p), rolled(want)},
		{"replace_unhealthy", p.Heals(), want.Heals()},
		{"exporter", p.Exporter.String(), want.Exporter.String()},
	})
	template := changed("pool "+p.Name+": new machines", []field{
		{"size", p.Template.Size, want.Template.Size},
		{"image", p.Template.Image, want.Template.Image},
		{"ssh_keys", len(p.Template.SSHKeys), len(want.Template.SSHKeys)},
		{"tags", p.Template.Tags, want.Template.Tags},
	})
	if p.Template.UserData != want.Template.UserData {
		template = append(template, fmt.Sprintf("pool %s: new machines: user_data is another; those that are there %s", p.Name, renewed(want)))
	}
	if len(template) == 0 && !slices.Equal(p.Template.SSHKeys, want.Template.SSHKeys) {
		template = []string{fmt.Sprintf("pool %s: new machines: ssh_keys are others", p.Name)}
	}
	p.Count, p.Scale, p.Prefix, p.Template = want.Count, want.Scale, want.Prefix, want.Template
	p.Sizes, p.Rolling, p.Heal, p.Exporter = want.Sizes, want.Rolling, want.Heal, want.Exporter
	renew(&p, *was)
	return p, append(changes, template...)
}

// renewed says what becomes of the machines that a pool has when its template changes.
func renewed(p weir.Pool) string {
	if p.Rolls() {
		return "are replaced"
	}
	return "keep theirs"
}

// sized says which sizes the machines of a pool have, and where if that is in several regions, as a person would say it.
func sized(p weir.Pool) []string {
	var said []string
	for _, o := range p.Sizes {
		words := p.Called(weir.Placement{Region: cmp.Or(o.Region, p.Template.Region), Size: o.Size})
		for _, part := range []struct {
			name  string
			value float64
		}{{"hourly cost", o.Price}, {"weight", o.Weight}, {"share", o.Share}, {"max", float64(o.Max)}} {
			if part.value != 0 {
				words += fmt.Sprintf(" %s %v", part.name, part.value)
			}
		}
		said = append(said, words)
	}
	return said
}

// rolled says how the machines of a pool are replaced, as a person would say it.
func rolled(p weir.Pool) string {
	if p.Rolling == nil {
		return "none"
	}
	surge := "a tenth"
	if p.Rolling.Surge != nil {
		surge = fmt.Sprint(*p.Rolling.Surge)
	}
	return fmt.Sprintf("%d fewer, %s more", p.Rolling.Unavailable, surge)
}

// bounded says between which sizes a pool follows its load, if it does.
func bounded(s *weir.Scale) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(" of %d to %d", s.Min, s.Max)
}

// scaling says how a pool follows its load, as a person would say it.
func scaling(s *weir.Scale) string {
	if s == nil {
		return "by hand"
	}
	said := fmt.Sprintf("%d to %d", s.Min, s.Max)
	for _, target := range []struct {
		name  string
		value any
		is    bool
	}{
		{"CPU", s.CPU, s.CPU != 0}, {"memory", s.Memory, s.Memory != 0}, {"requests/s", s.Requests, s.Requests != 0},
		{"concurrent requests", s.Concurrent, s.Concurrent != 0}, {"response time", s.Response, s.Response != 0}, {"of percent", s.Percentile, s.Percentile != 0},
		{"cooldown", cmp.Or(s.Pause, s.Cooldown), s.Pause != 0 || s.Cooldown != 0}, {"stabilization", s.Stabilisation, s.Stabilisation != 0},
		{"cost an hour", fmt.Sprintf("%v of %v each", s.Budget, s.Price), s.Budget != 0},
	} {
		if target.is {
			said += fmt.Sprintf(", %s %v", target.name, target.value)
		}
	}
	for _, d := range s.Schedules {
		said += fmt.Sprintf(", %d at %s %s for %s", d.Min, d.Cron, d.Zone, d.For)
	}
	return said
}

// mergeBalancer returns was with what want desires, and what that changes.
func mergeBalancer(was *weir.LoadBalancer, want weir.LoadBalancer) (weir.LoadBalancer, []string) {
	if was == nil {
		want.ID = weir.ID(uuid.NewString())
		want.Created = time.Now().UTC()
		want.Status = weir.LoadBalancerStatus{Phase: weir.LoadBalancerNew}
		want.Serial, want.Reload, want.Revision, want.Deleting = 0, 0, 0, time.Time{}
		want.Key, want.Policy.Drained = newKey(), nil
		return want, []string{fmt.Sprintf("load balancer %s: created", want.Name)}
	}
	lb := *was
	changes := changed("load balancer "+lb.Name, []field{
		{"size", lb.Size, want.Size},
		{"algorithm", lb.Algorithm, want.Algorithm},
		{"forwarding_rules", sentences(lb.Rules), sentences(want.Rules)},
		{"health_check", spoken(lb.Health), spoken(want.Health)},
		{"http_idle_timeout", lb.Idle, want.Idle},
		{"redirect_http_to_https", lb.Redirect, want.Redirect},
		{"tls_cipher_policy", cmp.Or(lb.Ciphers, weir.DefaultCiphers), cmp.Or(want.Ciphers, weir.DefaultCiphers)},
		{"sticky_sessions", stuck(lb.Sticky), stuck(want.Sticky)},
		{"enable_proxy_protocol", lb.Proxy, want.Proxy},
		{"enable_backend_keepalive", lb.KeepAlive, want.KeepAlive},
		{"firewall", lb.Clients, want.Clients},
		{"droplet_ids", lb.Machines, want.Machines},
		{"tag", lb.Tag, want.Tag},
		{"servers", lb.Servers, want.Servers},
		{"address", placed(lb), placed(want)},
		{"instances", lb.Instances, want.Instances},
	})
	want.Policy.Drained = lb.Policy.Drained // by a call of its own alone
	changes = append(changes, changedPolicy("load balancer "+lb.Name, &lb.Policy, &want.Policy)...)
	lb.Policy = want.Policy
	lb.Size, lb.Algorithm, lb.Rules, lb.Health, lb.Idle = want.Size, want.Algorithm, want.Rules, want.Health, want.Idle
	lb.Redirect, lb.Ciphers, lb.Sticky, lb.Proxy, lb.KeepAlive, lb.Clients = want.Redirect, want.Ciphers, want.Sticky, want.Proxy, want.KeepAlive, want.Clients
	lb.Machines, lb.Tag, lb.Servers, lb.Instances = want.Machines, want.Tag, want.Servers, want.Instances
	lb.Mode, lb.Addr = want.Mode, want.Addr
	return lb, changes
}

// networkOf says where a load balancer is reached from.
func networkOf(lb *weir.LoadBalancer) string {
	if lb.Internal {
		return "internal"
	}
	return "external"
}

// placed returns where a load balancer's address is from, as a person would say it.
func placed(lb weir.LoadBalancer) string {
	if lb.Mode == weir.InCloud {
		return "one that its cloud reserves"
	}
	return lb.Addr.String()
}

// field is one thing that a user may have changed.
type field struct {
	name      string
	was, want any
}

// changed returns a sentence for each field that differs.
func changed(of string, fields []field) (changes []string) {
	for _, f := range fields {
		if !reflect.DeepEqual(f.was, f.want) {
			changes = append(changes, fmt.Sprintf("%s: %s: %v, was %v", of, f.name, f.want, f.was))
		}
	}
	return changes
}

// sentences returns rules as a person would say them: "http:80 to http:8080".
func sentences(rules []weir.Rule) (said []string) {
	for _, r := range rules {
		words := fmt.Sprintf("%s:%d to %s:%d", r.Entry, r.EntryPort, r.Target, r.TargetPort)
		switch {
		case r.Passthrough:
			words += ", passed through"
		case r.Certificate != "":
			words += " by certificate " + string(r.Certificate)
		}
		said = append(said, words)
	}
	return said
}

// stuck returns how clients stay with servers, as a person would say it.
func stuck(s *weir.Sticky) string {
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("by the cookie %s for %s", s.Cookie, s.TTL)
}

// spoken returns a health check as a person would say it.
func spoken(c weir.HealthCheck) string {
	return fmt.Sprintf("%s:%d%s every %s, timeout %s, out after %d, back after %d", c.Protocol, c.Port, c.Path, c.Interval, c.Timeout, c.Unhealthy, c.Healthy)
}
