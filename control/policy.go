package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// Split has groups get percentages of the requests that routes send to a group of a load balancer, or with "" of those that
// no route takes, instead of whatever had a share of them. Servers get other weights by it, and nothing is reloaded.
func (c *Control) Split(ctx context.Context, id weir.ID, group string, split weir.Split) (weir.LoadBalancer, error) {
	return c.changePolicy(ctx, id, "", func(lb *weir.LoadBalancer, _ weir.Machine) (string, error) {
		if len(split) == 0 {
			split = nil
		}
		if group == "" {
			lb.Policy.Split = split
			return "splits requests: " + split.Among(weir.OwnTargets), nil
		}
		groups := slices.Clone(lb.Policy.Groups)
		i := slices.IndexFunc(groups, func(g weir.TargetGroup) bool { return g.Name == group })
		if i < 0 {
			return "", weir.Errorf(weir.Invalid, "load balancer %q: group is %.60q, and target_groups has no such group", lb.Name, group)
		}
		groups[i].Split, lb.Policy.Groups = split, groups
		return fmt.Sprintf("splits requests of group %s: %s", group, split.Among(group)), nil
	})
}

// Maintain changes the maintenance of a load balancer, which is none, and off, where there was none.
func (c *Control) Maintain(ctx context.Context, id weir.ID, change func(*weir.Maintenance)) (weir.LoadBalancer, error) {
	return c.changePolicy(ctx, id, "", func(lb *weir.LoadBalancer, _ weir.Machine) (string, error) {
		var m weir.Maintenance
		if was := lb.Policy.Handling.Maintenance; was != nil {
			m = *was
		}
		change(&m)
		lb.Policy.Handling.Maintenance = &m
		if m.On {
			return "is in maintenance: requests are answered with 503", nil
		}
		return "is no longer in maintenance", nil
	})
}

// DrainTarget keeps a machine from getting requests of a load balancer until [Control.UndrainTarget]. It stays one of its
// targets, and may finish the requests that it has for a time: nil is the load balancer's. alone reports that nothing
// else serves some of the requests that it would have got.
func (c *Control) DrainTarget(ctx context.Context, id, machine weir.ID, finish *time.Duration) (lb weir.LoadBalancer, alone bool, err error) {
	lb, err = c.changePolicy(ctx, id, machine, func(lb *weir.LoadBalancer, m weir.Machine) (string, error) {
		d := cmp.Or(lb.Policy.Drain, c.Drain)
		if finish != nil {
			d = *finish
		}
		drained := maps.Clone(lb.Policy.Drained)
		if drained == nil {
			drained = map[weir.ID]time.Duration{}
		}
		drained[machine], lb.Policy.Drained = d, drained
		return fmt.Sprintf("drains %s: no new requests, and %s to finish those that it has", m.Name, d), nil
	})
	if err != nil {
		return lb, false, err
	}
	v, err := c.viewBalancer(ctx, id)
	return lb, v.alone(machine), err
}

// UndrainTarget lets a drained target of a load balancer get requests again. One that is not drained is left as it is.
func (c *Control) UndrainTarget(ctx context.Context, id, machine weir.ID) (weir.LoadBalancer, error) {
	return c.changePolicy(ctx, id, machine, func(lb *weir.LoadBalancer, m weir.Machine) (string, error) {
		drained := maps.Clone(lb.Policy.Drained)
		delete(drained, machine)
		if lb.Policy.Drained = drained; len(drained) == 0 {
			lb.Policy.Drained = nil
		}
		return "lets " + m.Name + " serve again", nil
	})
}

// changePolicy has change change a load balancer, and tells of it in the words that change returns, if it is another then.
// machine is the one that it is about, if it is about one, and must be among its targets.
func (c *Control) changePolicy(ctx context.Context, id, machine weir.ID, change func(*weir.LoadBalancer, weir.Machine) (string, error)) (lb weir.LoadBalancer, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		var said string
		var changed bool
		lb, changed, err = c.changeBalancer(ctx, tx, id, func(lb *weir.LoadBalancer) error {
			m, err := targetOf(ctx, tx, lb, machine)
			if err == nil {
				said, err = change(lb, m)
			}
			return err
		})
		if err == nil && changed {
			tellOf(tx, &lb, weir.Machine{ID: machine}, weir.EventRequest, said)
		}
		return err
	})
	return lb, err
}

// targetOf returns a target of a load balancer, or one that was and is still drained; nothing of "".
func targetOf(ctx context.Context, tx *store.Tx, lb *weir.LoadBalancer, machine weir.ID) (m weir.Machine, err error) {
	if machine == "" {
		return m, nil
	}
	m, err = machines.Own(ctx, tx, machine)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return m, err
	}
	if _, drained := lb.Policy.Drained[machine]; err != nil || !drained && !lb.Targets(&m) {
		return m, weir.Errorf(weir.Invalid, "load balancer %q: droplet_id is %s, which is none of its targets", lb.Name, machine)
	}
	return m, nil
}

// alone reports whether nobody else gets some of the requests that a target would get if it were not drained.
func (v *balancerView) alone(target weir.ID) bool {
	for _, g := range append([]weir.TargetGroup{{Split: v.lb.Policy.Split}}, v.lb.Policy.Groups...) {
		is, others := false, false
		for _, name := range append(slices.Collect(maps.Keys(g.Split)), g.Name) {
			for i := range v.machines {
				switch m := &v.machines[i]; {
				case m.ID == target:
					is = is || v.lb.TargetsIn(name, m)
				case v.inRotation(name, m):
					others = true
				}
			}
		}
		if is && !others {
			return true
		}
	}
	return false
}

// changedPolicy returns a sentence for each part of a policy that differs. None has a secret, or a page.
func changedPolicy(of string, was, want *weir.Policy) (changes []string) {
	w, h := &was.Handling, &want.Handling
	changes = changed(of, []field{
		{"split", was.Split.String(), want.Split.String()},
		{"target_groups", grouped(was.Groups), grouped(want.Groups)},
		{"routes", routed(was.Routes), routed(want.Routes)},
		{"request_headers", headed(w.Headers.SetRequest, w.Headers.RemoveRequest), headed(h.Headers.SetRequest, h.Headers.RemoveRequest)},
		{"response_headers", headed(w.Headers.SetResponse, w.Headers.RemoveResponse), headed(h.Headers.SetResponse, h.Headers.RemoveResponse)},
		{"compression", w.Compress, h.Compress},
		{"error_pages", slices.Sorted(maps.Keys(w.Pages)), slices.Sorted(maps.Keys(h.Pages))},
		{"maintenance", maintained(w.Maintenance), maintained(h.Maintenance)},
		{"rate_limit", limited(w.Rate), limited(h.Rate)},
		{"connection_limit", w.Connections, h.Connections},
		{"basic_auth", entitled(w.Login), entitled(h.Login)},
		{"client_certificates", certified(w.ClientCerts), certified(h.ClientCerts)},
		{"access_log", logged(was.Log), logged(want.Log)},
		{"slow_start_seconds", int(was.SlowStart / time.Second), int(want.SlowStart / time.Second)},
		{"drain_seconds", int(was.Drain / time.Second), int(want.Drain / time.Second)},
	})
	// What is changed and looks the same as a person says it: texts, and secrets.
	for _, part := range [...]struct {
		name      string
		was, want any
	}{
		{"target_groups", was.Groups, want.Groups}, {"routes", was.Routes, want.Routes}, {"request_headers", w.Headers.SetRequest, h.Headers.SetRequest},
		{"response_headers", w.Headers.SetResponse, h.Headers.SetResponse}, {"error_pages", w.Pages, h.Pages}, {"maintenance", w.Maintenance, h.Maintenance},
		{"basic_auth", w.Login, h.Login}, {"client_certificates", w.ClientCerts, h.ClientCerts},
	} {
		start := fmt.Sprintf("%s: %s: ", of, part.name)
		said := slices.ContainsFunc(changes, func(c string) bool { return strings.HasPrefix(c, start) })
		if said || reflect.DeepEqual(part.was, part.want) {
			continue
		}
		if part.name == "basic_auth" {
			changes = append(changes, start+otherPasswords(w.Login, h.Login))
			continue
		}
		changes = append(changes, start+"what it says is another")
	}
	return changes
}

// otherPasswords says whose passwords are others, of the same users.
func otherPasswords(was, want *weir.Login) string {
	var others []string
	for i, u := range want.Users {
		if was.Users[i] != u {
			others = append(others, u.Name)
		}
	}
	return "another password of " + strings.Join(others, ", ")
}

// orNone joins what is said of several things.
func orNone(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// grouped says what groups there are: "green by the tag green, split: none".
func grouped(all []weir.TargetGroup) string {
	var said []string
	for _, g := range all {
		words := g.Name
		switch {
		case g.Tag != "":
			words += " by the tag " + g.Tag
		case len(g.Machines) > 0:
			words += fmt.Sprintf(" of droplets %v", g.Machines)
		}
		if g.Port != 0 {
			words += fmt.Sprintf(" at port %d", g.Port)
		}
		if g.Health != nil {
			words += " checked by " + spoken(*g.Health)
		}
		if len(g.Split) > 0 {
			words += " shared with " + g.Split.String()
		}
		said = append(said, words)
	}
	return orNone(said)
}

// routed says where routes lead: "api.shop.example/v1 to group api".
func routed(all []weir.Route) string {
	var said []string
	for _, r := range all {
		from := strings.Join(r.Hosts, "|") + r.Path
		if from == "" {
			from = "all"
		}
		switch {
		case r.Redirect != nil:
			from += " redirected"
		case r.Group != "":
			from += " to group " + r.Group
		}
		if r.Rewrite != nil {
			from += " rewritten"
		}
		said = append(said, from)
	}
	return orNone(said)
}

// headed says which headers are set and removed, without their values, of which some are secret.
func headed(set map[string]string, remove []string) string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		said = append(said, "set "+name)
	}
	for _, name := range remove {
		said = append(said, "remove "+name)
	}
	return orNone(said)
}

// maintained says whether a load balancer answers by itself.
func maintained(m *weir.Maintenance) string {
	switch {
	case m == nil:
		return "none"
	case m.On:
		return "on"
	}
	return "off"
}

func limited(r *weir.RateLimit) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%d requests in %s", r.Requests, r.Period)
}

// entitled says who may log in.
func entitled(l *weir.Login) string {
	if l == nil {
		return "anybody"
	}
	var names []string
	for _, u := range l.Users {
		names = append(names, u.Name)
	}
	return fmt.Sprintf("%s, for %q", strings.Join(names, ", "), cmp.Or(l.Realm, "Restricted"))
}

func certified(c *weir.ClientCertificates) string {
	switch {
	case c == nil:
		return "none"
	case c.Optional:
		return "asked for"
	}
	return "demanded"
}

// logged returns what becomes of an access log, in words.
func logged(l *weir.AccessLog) string {
	if l == nil {
		return "none"
	}
	said := "on"
	if l.File {
		said += ", in files"
	}
	if l.Syslog != "" {
		said += ", to " + l.Syslog
	}
	if l.Sample > 1 {
		said += fmt.Sprintf(", one request of %d", l.Sample)
	}
	return said
}
