package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// pairs returns the values of v by their keys, whatever those are, in the order of the file. It is an error for v to be
// no mapping, or to have a key twice.
func (v value) pairs(want string) ([]value, error) {
	said := map[string]value{}
	var all []value
	entries := v.entries()
	if entries == nil && !v.empty() {
		return nil, v.errorf("%s is %s, want %s", v.key, v.shown(), want)
	}
	for _, e := range entries {
		name, line := keyOf(e), lineOf(e.Key)
		if first, twice := said[name]; twice {
			return nil, v.file.errorf(line, "%s is said twice, first in line %d", name, first.line)
		}
		said[name] = value{v.file, name, e.Value, line}
		all = append(all, said[name])
	}
	return all, nil
}

// content returns what is in the file that v names, whatever its length: that is for the check to judge.
func (v value) content() (string, error) {
	name, err := v.text()
	if err != nil {
		return "", err
	}
	if strings.Contains(name, "\n") {
		return "", v.errorf("%s has several lines, want the name of a file", v.key)
	}
	data, err := v.file.open(name, maxFile)
	if err != nil {
		return "", v.errorf("%s: %s: %w", v.key, name, err)
	}
	return string(data), nil
}

// contents is a key that names a file.
func contents(set func(a *App, s string)) func(*App, value) error {
	return func(a *App, v value) error {
		s, err := v.content()
		if err == nil {
			set(a, s)
		}
		return err
	}
}

func split(set func(a *App, s weir.Split)) func(*App, value) error {
	return func(a *App, v value) error {
		pairs, err := v.pairs("percentages such as green: 5")
		if err != nil || len(pairs) == 0 {
			return err
		}
		s := weir.Split{}
		for _, v := range pairs {
			if s[v.key], err = v.whole("a percentage from 0 to 100"); err != nil {
				return err
			}
		}
		set(a, s)
		return nil
	}
}

func headers(of func(*App) (set *map[string]string, remove *[]string)) func(*App, value) error {
	keys := []key{
		{"set", func(a *App, v value) error {
			pairs, err := v.pairs("values by the names of headers")
			if err != nil || len(pairs) == 0 {
				return err
			}
			values := map[string]string{}
			for _, v := range pairs {
				if values[v.key], err = v.text(); err != nil {
					return err
				}
			}
			set, _ := of(a)
			*set = values
			return nil
		}},
		{"remove", texts(func(a *App, names []string) {
			_, remove := of(a)
			*remove = names
		})},
	}
	return func(a *App, v value) error { return v.mapping(a, keys) }
}

// setGroups reads groups, and then who shares their requests: any of them may.
func setGroups(a *App, v value) error {
	list, err := v.list("a list of groups")
	if err != nil {
		return err
	}
	var splits []func() error
	for i, v := range list {
		if !v.has("name") {
			return v.errorf("a target group has no name")
		}
		// Until its name is known, it has one that no other can have been given: the longest.
		a.LoadBalancer.Policy.Groups = append(a.LoadBalancer.Policy.Groups, weir.TargetGroup{Name: fmt.Sprintf("%040d", i)})
		group := func(a *App) *weir.TargetGroup { return &a.LoadBalancer.Policy.Groups[i] }
		keys := []key{
			{"name", text(func(a *App, s string) { group(a).Name = s })},
			{"tag", text(func(a *App, s string) { group(a).Tag = s })},
			{"droplet_ids", numbers(func(a *App, ids []weir.ID) { group(a).Machines = ids })},
			{"target_port", whole("from 1 to 65535", func(a *App, n int) { group(a).Port = n })},
			{"health_check", func(a *App, v value) error {
				health := a.LoadBalancer.Health
				if port := group(a).Port; port != 0 {
					health.Port = port
				}
				group(a).Health = &health
				return v.mapping(a, checkKeys(func(a *App) *weir.HealthCheck { return group(a).Health }))
			}},
			{"split", func(a *App, v value) error {
				splits = append(splits, func() error {
					if err := split(func(a *App, s weir.Split) { group(a).Split = s })(a, v); err != nil {
						return err
					}
					if err := a.check(); err != nil {
						return v.errorf("%w", err)
					}
					return nil
				})
				return nil
			}},
		}
		if err := v.mapping(a, keys); err != nil {
			return err
		}
	}
	for _, set := range splits {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

// numbers is a list of the IDs of droplets.
func numbers(set func(a *App, ids []weir.ID)) func(*App, value) error {
	return func(a *App, v value) error {
		list, err := v.list("a list of the IDs of droplets")
		if err != nil {
			return err
		}
		var ids []weir.ID
		for _, v := range list {
			n, err := v.whole("the ID of a droplet")
			if err != nil {
				return err
			}
			if n < 1 {
				return v.errorf("%s has %d, want the ID of a droplet", v.key, n)
			}
			ids = append(ids, weir.ID(strconv.Itoa(n)))
		}
		set(a, ids)
		return nil
	}
}

func setRoutes(a *App, v value) error {
	list, err := v.list("a list of routes")
	if err != nil {
		return err
	}
	for i, v := range list {
		a.LoadBalancer.Policy.Routes = append(a.LoadBalancer.Policy.Routes, weir.Route{})
		route := func(a *App) *weir.Route { return &a.LoadBalancer.Policy.Routes[i] }
		keys := []key{
			{"hosts", texts(func(a *App, s []string) { route(a).Hosts = s })},
			{"path", text(func(a *App, s string) { route(a).Path = s })},
			{"group", text(func(a *App, s string) { route(a).Group = s })},
			{"redirect", func(a *App, v value) error {
				route(a).Redirect = &weir.Redirect{}
				return v.mapping(a, redirectKeys(func(a *App) *weir.Redirect { return route(a).Redirect }))
			}},
			{"rewrite", func(a *App, v value) error {
				route(a).Rewrite = &weir.Rewrite{}
				err := v.mapping(a, rewriteKeys(func(a *App) *weir.Rewrite { return route(a).Rewrite }))
				if *route(a).Rewrite == (weir.Rewrite{}) {
					route(a).Rewrite = nil
				}
				return err
			}},
			{"request_headers", headers(func(a *App) (*map[string]string, *[]string) {
				h := &route(a).Headers
				return &h.SetRequest, &h.RemoveRequest
			})},
			{"response_headers", headers(func(a *App) (*map[string]string, *[]string) {
				h := &route(a).Headers
				return &h.SetResponse, &h.RemoveResponse
			})},
		}
		if err := v.mapping(a, keys); err != nil {
			return err
		}
	}
	return nil
}

func redirectKeys(of func(*App) *weir.Redirect) []key {
	return []key{
		{"scheme", text(func(a *App, s string) { of(a).Scheme = s })},
		{"host", text(func(a *App, s string) { of(a).Host = s })},
		{"port", whole("from 1 to 65535", func(a *App, n int) { of(a).Port = n })},
		{"path", text(func(a *App, s string) { of(a).Path = s })},
		{"path_prefix", text(func(a *App, s string) { of(a).Prefix = s })},
		{"status", whole("", func(a *App, n int) { of(a).Status = n })},
	}
}

func rewriteKeys(of func(*App) *weir.Rewrite) []key {
	return []key{
		{"host", text(func(a *App, s string) { of(a).Host = s })},
		{"path", text(func(a *App, s string) { of(a).Path = s })},
		{"path_prefix", text(func(a *App, s string) { of(a).Prefix = s })},
	}
}

// setPages reads error_pages: files by status.
func setPages(a *App, v value) error {
	pairs, err := v.pairs("files by status, such as 503: sorry.html")
	if err != nil || len(pairs) == 0 {
		return err
	}
	pages := map[int]string{}
	for _, v := range pairs {
		status, err := strconv.Atoi(v.key)
		if err != nil || strconv.Itoa(status) != v.key {
			return v.errorf("error_pages has %.40q, want statuses such as 503", v.key)
		}
		if pages[status], err = v.content(); err != nil {
			return err
		}
	}
	a.LoadBalancer.Policy.Handling.Pages = pages
	return nil
}

func setMaintenance(a *App, v value) error {
	of := func(a *App) *weir.Maintenance { return a.LoadBalancer.Policy.Handling.Maintenance }
	h := &a.LoadBalancer.Policy.Handling
	h.Maintenance = &weir.Maintenance{}
	err := v.mapping(a, []key{
		{"on", flag(func(a *App, on bool) { of(a).On = on })},
		{"page", contents(func(a *App, s string) { of(a).Page = s })},
		{"retry_after_seconds", seconds(func(a *App, d time.Duration) { of(a).RetryAfter = d })},
		{"allow", texts(func(a *App, s []string) { of(a).Allow = s })},
	})
	if m := h.Maintenance; !m.On && m.Page == "" && m.RetryAfter == 0 && len(m.Allow) == 0 {
		h.Maintenance = nil
	}
	return err
}

func setRate(a *App, v value) error {
	if v.empty() {
		return nil
	}
	of := func(a *App) *weir.RateLimit { return a.LoadBalancer.Policy.Handling.Rate }
	a.LoadBalancer.Policy.Handling.Rate = &weir.RateLimit{Requests: 1, Period: time.Second}
	err := v.mapping(a, []key{
		{"requests", whole("", func(a *App, n int) { of(a).Requests = n })},
		{"period_seconds", seconds(func(a *App, d time.Duration) { of(a).Period = d })},
	})
	if err == nil && (!v.has("requests") || !v.has("period_seconds")) {
		err = v.errorf("rate_limit has not both requests and period_seconds, want both")
	}
	return err
}

// setLogin reads who may log in.
func setLogin(a *App, v value) error {
	if v.empty() {
		return nil
	}
	if len(v.entries()) > 0 && !v.has("users") {
		return v.errorf("basic_auth has no users, want one at least")
	}
	of := func(a *App) *weir.Login { return a.LoadBalancer.Policy.Handling.Login }
	return v.mapping(a, []key{
		{"users", func(a *App, v value) error {
			a.LoadBalancer.Policy.Handling.Login = &weir.Login{}
			list, err := v.list("a list of users")
			if err != nil {
				return err
			}
			for _, v := range list {
				if err := setUser(a, v); err != nil {
					return err
				}
			}
			return nil
		}},
		{"realm", text(func(a *App, s string) { of(a).Realm = s })},
	})
}

// setUser reads one who may log in.
func setUser(a *App, v value) error {
	login := a.LoadBalancer.Policy.Handling.Login
	name, password := "", ""
	// The app is checked after each key, and is none with half a user.
	without := *a
	without.LoadBalancer.Policy.Handling.Login = nil
	err := v.mapping(&without, []key{
		{"name", text(func(_ *App, s string) { name = s })},
		{"password", func(_ *App, v value) error {
			return v.errorf("password is a secret, and a weir.yaml is no place for one: put it into a file of its own, and name that by password_file")
		}},
		{"password_file", func(_ *App, v value) error {
			s, err := v.content()
			if err != nil {
				return err
			}
			password = strings.TrimRight(s, "\r\n")
			if err := weir.CheckPassword(password); err != nil {
				return v.errorf("password_file: %w", err)
			}
			return nil
		}},
	})
	switch {
	case err != nil:
		return err
	case !v.has("name") || !v.has("password_file"):
		return v.errorf("a user has not both name and password_file, want both")
	}
	if a.Passwords == nil {
		a.Passwords = map[string]string{}
	}
	a.Passwords[name] = password
	login.Users = append(login.Users, weir.User{Name: name})
	login.Keep(nil, a.Passwords)
	if err := a.check(); err != nil {
		return v.errorf("%w", err)
	}
	return nil
}

func setClientCertificates(a *App, v value) error {
	if v.empty() {
		return nil
	}
	if len(v.entries()) > 0 && !v.has("ca") {
		return v.errorf("client_certificates has no ca, want a file with the certificates of who signs those of clients")
	}
	return v.mapping(a, []key{
		{"ca", contents(func(a *App, s string) {
			a.LoadBalancer.Policy.Handling.ClientCerts = &weir.ClientCertificates{CA: s}
		})},
		{"optional", flag(func(a *App, on bool) { a.LoadBalancer.Policy.Handling.ClientCerts.Optional = on })},
	})
}
