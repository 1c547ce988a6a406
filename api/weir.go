package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// reloadTimeout is how long a reload may take before its caller is told that it is not
// done yet.
const reloadTimeout = time.Minute

// status answers with the region at a glance, or with team=own what the caller's team has of it.
func (a *api) status(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	switch team := r.URL.Query().Get("team"); team {
	case "":
	case "own":
		caller := weir.CallerOf(ctx)
		caller.Scopes = nil // as who does not operate the region sees it
		ctx = weir.WithCaller(ctx, caller)
	default:
		return invalid("team is %.40q, want own, or nothing for all that the token shows", team)
	}
	s, err := a.Control.Status(ctx)
	if err != nil {
		return err
	}
	s.Problems, s.LoadBalancers = some(s.Problems), some(s.LoadBalancers)
	s.Pools, s.Machines, s.Members = some(s.Pools), some(s.Machines), some(s.Members)
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		lb.Rules, lb.Instances = some(lb.Rules), some(lb.Instances)
		for j := range lb.Instances {
			node := &lb.Instances[j].Node
			node.Servers = some(node.Servers)
		}
	}
	return reply(w, http.StatusOK, map[string]any{"status": s})
}

// AppOf returns the App that asks for a pool and a load balancer; for no pool where that is
// nil, and the load balancer has its servers by address. passwords are those of who may log in, by name: of
// a user without one nothing is known but the name.
func AppOf(pool *weir.Pool, lb weir.LoadBalancer, passwords map[string]string) App {
	health := healthWords(lb.Health)
	app := App{Name: lb.Name, Region: lb.Region,
		LoadBalancer: AppLoadBalancer{Name: lb.Name, Size: lb.Size, Algorithm: string(lb.Algorithm),
			ForwardingRules: ruleWords(lb.Rules), HealthCheck: &health, HTTPIdleTimeoutSeconds: int64(lb.Idle / time.Second), BalancerOptions: optionsOf(&lb), BalancerPolicy: policyWords(&lb.Policy)}}
	if auth := app.LoadBalancer.BasicAuth; auth != nil {
		for i := range auth.Users {
			auth.Users[i].Password = passwords[auth.Users[i].Name]
		}
	}
	if lb.Addr.IsValid() {
		app.LoadBalancer.Address = lb.Addr.String()
	}
	if lb.Internal {
		app.LoadBalancer.Network = strings.ToLower(networkInternal)
	}
	for _, server := range lb.Servers {
		app.Servers = append(app.Servers, server.String())
	}
	if pool == nil {
		return app
	}
	app.Name, app.Region, app.Size, app.Image = pool.Name, pool.Template.Region, pool.Template.Size, pool.Template.Image
	app.UserData, app.HostnamePrefix, app.SSHKeys, app.Tags = pool.Template.UserData, pool.Prefix, pool.Template.SSHKeys, pool.Template.Tags
	app.PoolMore = moreOf(pool)
	if app.Scale = ConfigOf(pool.Scale); app.Scale == nil && !pool.KeepCount {
		app.Count = &pool.Count
	}
	return app
}

// parts returns the pool and the load balancer that an App asks for. The pool is nil if
// the servers are given by address. was is who may log in until now, nil if anybody.
func (app *App) parts(regions []string, was *weir.Login) (pool *weir.Pool, lb weir.LoadBalancer, err error) {
	if weir.CheckName(app.Name) != nil || len(app.Servers) == 0 && weir.CheckTag(app.Name) != nil { // it is a tag too, and a tag has no dots
		return nil, lb, invalid("name is %.80q, want letters, digits and -, beginning and ending with a letter or digit", app.Name)
	}
	if len(app.Servers) > 0 {
		err = app.refuseTemplate()
	} else {
		pool, err = app.pool(regions)
	}
	if err != nil {
		return nil, lb, err
	}
	lb, err = app.balancer(regions[0], was)
	return pool, lb, err
}

// refuseTemplate returns what of app is about machines to make, beside servers by address.
func (app *App) refuseTemplate() error {
	for _, field := range []struct {
		name string
		said bool
	}{
		{"size", app.Size != ""}, {"image", app.Image != ""}, {"user_data", app.UserData != ""}, {"hostname_prefix", app.HostnamePrefix != ""},
		{"ssh_keys", len(app.SSHKeys) > 0}, {"tags", len(app.Tags) > 0}, {"count", app.Count != nil}, {"scale", app.Scale != nil},
		{"sizes", len(app.Sizes) > 0}, {"rolling", app.Rolling != nil}, {"replace_unhealthy", app.Heal != nil}, {"exporter", app.Exporter != nil},
	} {
		if field.said {
			return invalid("%s is about machines that Weir makes, and servers says that there are others: leave one of them out", field.name)
		}
	}
	return nil
}

// pool returns the pool that an App asks for.
func (app *App) pool(regions []string) (*weir.Pool, error) {
	count := 1
	if app.Count != nil {
		count = *app.Count
	}
	pool := weir.Pool{
		Name:      app.Name,
		Prefix:    cmp.Or(app.HostnamePrefix, app.Name),
		Count:     count,
		KeepCount: app.Count == nil,
		Template: weir.Template{
			Region:   cmp.Or(app.Region, regions[0]),
			Size:     cmp.Or(app.Size, app.firstSize(), weir.DefaultNodeSize),
			Image:    cmp.Or(app.Image, weir.DefaultImage),
			UserData: app.UserData,
			SSHKeys:  app.SSHKeys,
			Tags:     join([]string{app.Name}, app.Tags),
		},
	}
	app.PoolMore.set(&pool)
	if app.Scale != nil {
		if w := app.Scale.Weir; w != nil && !reflect.DeepEqual(w.PoolMore, PoolMore{}) {
			return nil, invalid("scale.weir has sizes, rolling, replace_unhealthy or exporter, which are said beside scale: move them there")
		}
		if app.Count != nil || app.Scale.Fixed != 0 {
			return nil, invalid("scale says that the pool follows its load, and count or target_number_instances how many machines it has: leave one of them out")
		}
		var err error
		if pool.Scale, err = app.Scale.scale(); err != nil {
			return nil, fmt.Errorf("scale: %w", err)
		}
	}
	return &pool, pool.Check(regions...)
}

// firstSize returns the first of the sizes that machines may have, if any are named.
func (app *App) firstSize() string {
	if len(app.Sizes) == 0 {
		return ""
	}
	return app.Sizes[0].Size
}

// balancer returns the load balancer that an App asks for.
func (app *App) balancer(region string, was *weir.Login) (lb weir.LoadBalancer, err error) {
	w := app.LoadBalancer
	rules := []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}
	if len(w.ForwardingRules) > 0 {
		if rules, err = rulesOf(w.ForwardingRules); err != nil {
			return lb, err
		}
	}
	if w.HealthCheck == nil {
		w.HealthCheck = &HealthCheck{Protocol: string(rules[0].Target), Port: rules[0].TargetPort}
		if rules[0].Target == weir.HTTP2 {
			w.HealthCheck.Protocol = string(weir.HTTPS)
		}
	}
	health := healthOf(w.HealthCheck)
	lb = weir.LoadBalancer{
		Name:      cmp.Or(w.Name, app.Name),
		Region:    cmp.Or(app.Region, region),
		Size:      cmp.Or(w.Size, weir.DefaultNodeSize),
		Instances: weir.MinInstances,
		Algorithm: algorithmOf(w.Algorithm),
		Rules:     rules,
		Health:    health,
		Idle:      seconds(w.HTTPIdleTimeoutSeconds, weir.DefaultIdle),
		Internal:  strings.EqualFold(w.Network, networkInternal),
	}
	if w.Network != "" && !lb.Internal && !strings.EqualFold(w.Network, networkExternal) {
		return lb, invalid("load_balancer.network is %.40q, want internal or external", w.Network)
	}
	if err := w.BalancerOptions.set(&lb); err != nil {
		return lb, err
	}
	if err := w.BalancerPolicy.set(&lb, was); err != nil {
		return lb, err
	}
	if len(app.Servers) == 0 {
		lb.Tag = app.Name
	}
	for _, text := range app.Servers {
		server, err := netip.ParseAddr(text)
		if err != nil {
			return lb, invalid("servers has %.60q, want addresses such as 192.0.2.21", text)
		}
		lb.Servers = append(lb.Servers, server)
	}
	if w.Address != "" {
		if lb.Addr, err = netip.ParsePrefix(w.Address); err != nil {
			return lb, invalid("load_balancer.address is %.60q, want one with the length of its network's prefix, such as 192.0.2.10/24", w.Address)
		}
		lb.Mode = weir.OnSegment
	}
	return lb, lb.Check(region)
}

// apply makes a pool and a load balancer what the body says, in one transaction.
func (a *api) apply(w http.ResponseWriter, r *http.Request) error {
	dry, err := truth(r, "dry_run")
	if err != nil {
		return err
	}
	var app App
	if err := decodeOwn(w, r, &app); err != nil {
		return err
	}
	was, err := a.login(r.Context(), cmp.Or(app.LoadBalancer.Name, app.Name))
	if err != nil {
		return err
	}
	pool, lb, err := app.parts(a.Control.Regions(), was)
	if err != nil {
		return err
	}
	changes, err := a.Control.Apply(r.Context(), pool, lb, dry)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, Applied{some(changes), dry})
}

// login returns who may log in at the load balancer of that name, nil if anybody.
func (a *api) login(ctx context.Context, name string) (*weir.Login, error) {
	named, _, err := a.Control.LoadBalancerPage(ctx, weir.Filter{Name: name}, 0, 1)
	if err != nil || len(named) == 0 {
		return nil, err
	}
	return named[0].Policy.Handling.Login, nil
}

func (a *api) listPools(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Pools(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "pools", all, func(p weir.Pool) Pool {
		return poolWords(&p)
	})
}

func poolWords(p *weir.Pool) Pool {
	return Pool{ID: p.ID, Name: p.Name, Region: p.Template.Region, Size: p.Template.Size, Image: p.Template.Image,
		HostnamePrefix: p.Prefix, Tags: some(p.Template.Tags), Count: p.Count, Created: p.Created,
		Plan: some(p.Status.Plan), Err: cmp.Or(p.Status.Err, p.Status.Stuck)}
}

// grow makes a pool larger, and answers with the new droplets.
func (a *api) grow(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if weir.CheckName(name) != nil {
		return errNotFound
	}
	var q Growth
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if q.Count < 1 || q.Count > weir.MaxPool {
		return invalid("count is %d, want 1 to %d", q.Count, weir.MaxPool)
	}
	machines, err := a.Control.Grow(r.Context(), name, q.Count)
	if err != nil {
		return err
	}
	return a.replyDroplets(w, machines, links{})
}

// deletePool deletes a pool and its machines.
func (a *api) deletePool(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if weir.CheckName(name) != nil {
		return errNotFound
	}
	if err := a.Control.DeletePool(r.Context(), name); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// listMachines answers with the inventory. Lines count the machines that users have, in
// the order in which they were made.
func (a *api) listMachines(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Machines(r.Context())
	if err != nil {
		return err
	}
	lines := map[weir.ID]int{}
	for _, m := range all {
		if m.LoadBalancer == "" && !m.Own {
			lines[m.ID] = len(lines) + 1
		}
	}
	return list(w, r, "machines", all, func(m weir.Machine) InventoryMachine {
		status := cmp.Or(string(m.Status.Phase), string(weir.MachineNew))
		if !m.Deleting.IsZero() {
			status = "deleting"
		}
		return InventoryMachine{Line: lines[m.ID], ID: number(m.ID), Name: m.Name, Region: m.Region, Size: m.Size, Status: status,
			Public: m.Status.Public, Private: m.Status.Private, Pool: m.Pool, LoadBalancer: m.LoadBalancer, Own: m.Own,
			Tags: some(m.Tags), OnHost: m.Status.Host, HostDown: m.Status.HostDown, Drained: m.Drained, Boot: m.Status.Boot, Created: m.Created, Err: cmp.Or(m.Status.Err, m.HostTrouble())}
	})
}

// boot answers with the first boot of any machine, load balancers' instances included.
func (a *api) boot(w http.ResponseWriter, r *http.Request) error {
	id, err := numericID(r, "id")
	if err != nil {
		return err
	}
	m, err := a.Control.Machine(r.Context(), id)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"boot": m.Status.Boot})
}

// config answers with HAProxy's configuration, as text.
func (a *api) config(w http.ResponseWriter, r *http.Request) error {
	lb, err := a.loadBalancer(r)
	if err != nil {
		return err
	}
	text, live, err := a.Control.Generate(r.Context(), lb.ID)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set(LiveHeader, strconv.FormatBool(live))
	w.Write([]byte(text)) // fails if the client has left: there is nobody to tell
	return nil
}

// reload answers when every instance has loaded its configuration anew.
func (a *api) reload(w http.ResponseWriter, r *http.Request) error {
	lb, err := a.loadBalancer(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), reloadTimeout)
	defer cancel()
	if err := a.Control.Reload(ctx, lb.ID); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// loadBalancer returns the load balancer that a path below /v2/weir/ names: by its ID, or
// by its name.
func (a *api) loadBalancer(r *http.Request) (weir.LoadBalancer, error) {
	return a.findBalancer(r.Context(), r.PathValue("id"))
}

func (a *api) findBalancer(ctx context.Context, name string) (weir.LoadBalancer, error) {
	if opaque.MatchString(name) {
		lb, err := a.Control.LoadBalancer(ctx, weir.ID(name))
		if err == nil || !errors.Is(err, weir.NotFound) {
			return lb, err
		}
	}
	named, _, err := a.Control.LoadBalancerPage(ctx, weir.Filter{Name: name}, 0, 1)
	if err != nil {
		return weir.LoadBalancer{}, err
	}
	if len(named) == 0 {
		return weir.LoadBalancer{}, errNotFound
	}
	return named[0], nil
}
