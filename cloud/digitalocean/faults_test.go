package digitalocean_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/cloud/cloudtest"
	"weir/cloud/digitalocean"
	"weir/weir"
)

var errLost = errors.New("connection reset by peer")

func spec(id weir.ID) cloud.Spec {
	return cloud.Spec{ID: id, Name: "web-" + string(id), Template: weir.Template{Region: cloudtest.Region, Size: "s-1vcpu-1gb", Image: "debian-12-x64"}}
}

// refusal is an answer that is no success.
func refusal(status int, text string, header ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(fmt.Sprintf(`{"id":"x","message":%q}`, text)))}
}

// on is a fault of requests whose method and path begin so: instead of what they ask, or after it.
func on(what string, before, after func() *http.Response) func(*http.Request) (*http.Response, *http.Response) {
	return func(r *http.Request) (b, a *http.Response) {
		if !strings.HasPrefix(r.Method+" "+r.URL.Path, what) {
			return nil, nil
		}
		if before != nil {
			b = before()
		}
		if after != nil {
			a = after()
		}
		return b, a
	}
}

// unlisted answers that there are no droplets, if that is what is asked.
func unlisted(r *http.Request) *http.Response {
	if r.Method != http.MethodGet || r.URL.Path != "/v2/droplets" {
		return nil
	}
	resp := refusal(http.StatusOK, "")
	resp.Body = io.NopCloser(strings.NewReader(`{"droplets":[],"links":{},"meta":{"total":0}}`))
	return resp
}

func lost() *http.Response { return &http.Response{} }

// droplets returns the account's droplets.
func (p *provider) droplets() []godo.Droplet {
	p.t.Helper()
	all, _, err := p.do.Droplets.List(p.t.Context(), &godo.ListOptions{PerPage: 200})
	if err != nil {
		p.t.Fatal(err)
	}
	return all
}

// stranger makes a droplet that is not ours.
func (p *provider) stranger(name string, tags ...string) godo.Droplet {
	p.t.Helper()
	d, _, err := p.do.Droplets.Create(p.t.Context(), &godo.DropletCreateRequest{Name: name, Region: cloudtest.Region, Size: "s-1vcpu-1gb",
		Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, Tags: tags})
	if err != nil {
		p.t.Fatal(err)
	}
	return *d
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestCreationWhoseAnswerIsLostMakesOneDroplet(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func() *http.Response
	}{
		{"no answer", lost},
		{"502", func() *http.Response { return refusal(502, "bad gateway") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newProvider(t, cloud.FakeOptions{})
				c := p.open()
				// Meanwhile no list shows it, as DigitalOcean's lag behind.
				p.set(func(r *http.Request) (before, after *http.Response) {
					if before := unlisted(r); before != nil {
						return before, nil
					}
					return on("POST /v2/droplets", nil, test.answer)(r)
				})
				if _, err := c.CreateMachine(t.Context(), spec("7")); !errors.Is(err, weir.Unavailable) {
					t.Errorf("created: %v, want unavailable", err)
				}
				go func() {
					time.Sleep(20 * time.Second)
					p.set(nil)
				}()
				m, err := c.CreateMachine(t.Context(), spec("7"))
				if err != nil || m.ID != "7" || !m.On {
					t.Errorf("created again: %+v, %v", m, err)
				}
				if all := p.droplets(); len(all) != 1 {
					t.Errorf("%d droplets, want 1", len(all))
				}
			})
		})
	}
}

func TestMachineThatListsDoNotShowYetIsNotMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		c := p.open()
		p.set(func(r *http.Request) (before, after *http.Response) { return unlisted(r), nil })
		must(c.CreateMachine(t.Context(), spec("7")))(t)
		must(c.CreateMachine(t.Context(), spec("7")))(t)
		if all := must(c.Machines(t.Context()))(t); len(all) != 1 || all[0].ID != "7" {
			t.Errorf("machines %+v, want the one that was made", all)
		}
		p.set(nil)
		if all := p.droplets(); len(all) != 1 {
			t.Errorf("%d droplets, want 1", len(all))
		}
	})
}

// A process that dies between a creation and its answer may have the next one make the machine again.
func TestMachineThatWasMadeTwiceIsOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		first := p.stranger("web-7", "weir:test", "weir:test:7")
		time.Sleep(time.Second)
		p.stranger("web-7", "weir:test", "weir:test:7")
		other := p.stranger("mine", "weir:test", "weir:test:7") // by somebody's hand
		time.Sleep(10 * time.Second)
		c := p.open()
		all := must(c.Machines(t.Context()))(t)
		if len(all) != 1 || all[0].ID != "7" || all[0].Name != "web-7" {
			t.Errorf("machines %+v, want one", all)
		}
		time.Sleep(10 * time.Second)
		var left []int
		for _, d := range p.droplets() {
			left = append(left, d.ID)
		}
		slices.Sort(left)
		if !slices.Equal(left, []int{first.ID, other.ID}) {
			t.Errorf("droplets %v are left, want the older one, %d, and the one of another name, %d", left, first.ID, other.ID)
		}
	})
}

func TestWhatIsSomebodyElsesIsLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		ctx := t.Context()
		for _, tags := range [][]string{{"weir:tester", "weir:tester:7"}, {"weir:test"}, {"weir:test:7"}, {"weir:test", "weir:test:07"},
			{"weir:test", "weir:test:7x"}, {"weir:test", "weir:test:7", "weir:test:8"}, {"web"}} {
			p.stranger("theirs", tags...)
		}
		ip := must2(p.do.ReservedIPs.Create(ctx, &godo.ReservedIPCreateRequest{Region: cloudtest.Region}))(t)
		wall := must2(p.do.Firewalls.Create(ctx, &godo.FirewallRequest{Name: "weir-test-7x", Tags: []string{"web"},
			InboundRules: []godo.InboundRule{{Protocol: "tcp", PortRange: "22", Sources: &godo.Sources{Addresses: []string{"0.0.0.0/0"}}}}}))(t)
		time.Sleep(time.Minute)
		c := p.open()
		for _, id := range []weir.ID{"7", "8"} {
			if err := c.DeleteMachine(ctx, id); err != nil {
				t.Error(err)
			}
			if err := c.PowerOff(ctx, id); !errors.Is(err, weir.NotFound) {
				t.Errorf("power off machine %s: %v, want not found", id, err)
			}
		}
		own := must(c.Reserve(ctx, "lb", weir.IPv4))(t)
		if own.String() == ip.IP {
			t.Errorf("reserved %s, which is somebody else's", own)
		}
		must(c.CreateMachine(ctx, spec("7")))(t)
		if all := must(c.Machines(ctx))(t); len(all) != 1 {
			t.Errorf("machines %+v, want the one that was made", all)
		}
		theirs := netip.MustParseAddr(ip.IP)
		if err := c.Assign(ctx, theirs, "7"); !errors.Is(err, weir.NotFound) {
			t.Errorf("assign: %v, want not found", err)
		}
		if err := errors.Join(c.Release(ctx, theirs), c.DeleteMachine(ctx, "7"), c.Release(ctx, own)); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Minute)
		must(c.Addresses(ctx))(t)
		if all := p.droplets(); len(all) != 7 {
			t.Errorf("%d droplets are left, want the 7 of others", len(all))
		}
		if _, _, err := p.do.ReservedIPs.Get(ctx, ip.IP); err != nil {
			t.Errorf("the reserved IP of others: %v", err)
		}
		if _, _, err := p.do.Firewalls.Get(ctx, wall.ID); err != nil {
			t.Errorf("the firewall of others: %v", err)
		}
		tags, _, err := p.do.Tags.List(ctx, &godo.ListOptions{PerPage: 200})
		for _, tag := range tags {
			if strings.HasPrefix(tag.Name, "weir:test:address:") {
				t.Errorf("the tag %s is left over", tag.Name)
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func prefixes(texts []string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func must2[T any](v T, _ *godo.Response, err error) func(*testing.T) T { return must(v, err) }

func TestTooManyRequestsAreAskedForLater(t *testing.T) {
	for _, test := range []struct {
		header []string
		wait   time.Duration
	}{
		{[]string{"Retry-After", "90"}, 90 * time.Second},
		{[]string{"Retry-After", "0", "RateLimit-Reset", "2000000000"}, time.Second},
		{[]string{"RateLimit-Reset", "946684980"}, 3 * time.Minute}, // the bubble's time begins at 946684800
		{[]string{"RateLimit-Reset", "2000000000"}, time.Hour},
		{nil, time.Minute},
	} {
		inBubble(t, func(t *testing.T) {
			p := newProvider(t, cloud.FakeOptions{})
			c := p.open()
			p.set(on("GET /v2/droplets", func() *http.Response { return refusal(429, "API Rate limit exceeded.", test.header...) }, nil))
			_, err := c.Machines(t.Context())
			if wait := weir.WaitOf(err); wait.Round(time.Second) != test.wait || !errors.Is(err, weir.Unavailable) {
				t.Errorf("with %q: %v, to wait %v, want %v", test.header, err, wait, test.wait)
			}
			p.set(nil)
			_, err = c.Reserve(t.Context(), "lb", weir.IPv4)
			if weir.WaitOf(err) == 0 || len(p.requests()) != 0 {
				t.Errorf("asked %q meanwhile, and got %v", p.requests(), err)
			}
			time.Sleep(test.wait)
			if _, err := c.Reserve(t.Context(), "lb", weir.IPv4); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestErrorsHaveKinds(t *testing.T) {
	for _, test := range []struct {
		answer *http.Response
		kind   weir.Kind
		text   string
	}{
		{refusal(401, "Unable to authenticate you"), weir.Denied, "DigitalOcean refuses the token (401): Unable to authenticate you"},
		{refusal(403, "You are not authorized"), weir.Denied, "the token may not do this at DigitalOcean (403)"},
		{refusal(422, "creating this/these droplet(s) will exceed your droplet limit"), weir.Exhausted, "DigitalOcean says 422: creating this"},
		{refusal(422, "Size is currently unavailable in this region"), weir.Exhausted, "DigitalOcean says 422"},
		{refusal(422, "You specified an invalid image for Droplet creation."), weir.Invalid, "invalid image"},
		{refusal(422, "Droplet already has a pending event."), weir.Unavailable, "pending event"},
		{refusal(409, "conflict"), weir.Conflict, "409"},
		{refusal(500, "Server Error"), weir.Unavailable, "DigitalOcean says 500: Server Error"},
		{refusal(503, ""), weir.Unavailable, "Service Unavailable"},
		{lost(), weir.Unavailable, "connection reset by peer"},
	} {
		inBubble(t, func(t *testing.T) {
			p := newProvider(t, cloud.FakeOptions{})
			c := p.open()
			p.set(on("POST /v2/droplets", func() *http.Response { return test.answer }, nil))
			_, err := c.CreateMachine(t.Context(), spec("7"))
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) || !strings.HasPrefix(err.Error(), "create droplet for machine 7: ") {
				t.Errorf("%d: %v, want %q with %q", test.answer.StatusCode, err, test.kind, test.text)
			}
		})
	}
}

// Each address costs money: one whose owner could not be noted is the next owner's, or is released.
func TestReservationThatIsCutShortLeaksNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		ctx := t.Context()
		count := func() int {
			t.Helper()
			return len(must2(p.do.ReservedIPs.List(ctx, &godo.ListOptions{PerPage: 200}))(t))
		}
		for _, fault := range []func(*http.Request) (*http.Response, *http.Response){
			on("POST /v2/reserved_ips", nil, lost), on("POST /v2/tags", lost, nil), on("POST /v2/tags", nil, lost),
		} {
			c := p.open()
			p.set(fault)
			if _, err := c.Reserve(ctx, "lb", weir.IPv4); !errors.Is(err, weir.Unavailable) {
				t.Errorf("reserve: %v, want unavailable", err)
			}
			p.set(nil)
			again := p.open() // as after a restart
			addr := must(again.Reserve(ctx, "lb", weir.IPv4))(t)
			if all := must(again.Addresses(ctx))(t); len(all) != 1 || all[0].Addr != addr || all[0].Owner != "lb" || count() != 1 {
				t.Errorf("addresses %+v of %d, want %s of lb alone", all, count(), addr)
			}
			if err := again.Release(ctx, addr); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		c := p.open()
		p.set(on("POST /v2/tags", lost, nil))
		c.Reserve(ctx, "lb", weir.IPv4)
		p.set(nil)
		for range 12 {
			if all := must(c.Addresses(ctx))(t); len(all) != 0 {
				t.Errorf("addresses %+v, want none that is nobody's", all)
			}
			time.Sleep(time.Minute)
		}
		if n := count(); n != 0 {
			t.Errorf("%d addresses are left, want none", n)
		}
	})
}

func TestOwnersAndWallsOutliveAProcess(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		ctx := t.Context()
		c := p.open()
		must(c.CreateMachine(ctx, spec("7")))(t)
		addr := must(c.Reserve(ctx, "lb", weir.IPv4))(t)
		peers := []string{"10.0.0.0/8", "192.0.2.7/32"}
		wall := &weir.Firewall{Openings: []weir.Opening{{Port: 80, Peers: prefixes(peers)}, {Port: 8000, Last: 9000, UDP: true, Peers: prefixes(peers[1:])}}}
		if err := errors.Join(c.Assign(ctx, addr, "7"), c.SetFirewall(ctx, "7", wall)); err != nil {
			t.Fatal(err)
		}
		again := p.open()
		m := must(again.Machines(ctx))(t)
		if len(m) != 1 || m[0].Firewall.Digest() != wall.Digest() {
			t.Errorf("after a restart: %+v, want 7 with the firewall %+v", m, wall)
		}
		as := must(again.Addresses(ctx))(t)
		if len(as) != 1 || as[0].Addr != addr || as[0].Owner != "lb" || !slices.Equal(as[0].Machines, []weir.ID{"7"}) {
			t.Errorf("after a restart: %+v, want %s of lb at 7", as, addr)
		}
	})
}

func TestAllPagesAreRead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		c := p.open()
		var wg sync.WaitGroup
		for i := range 205 {
			wg.Go(func() {
				if _, err := c.CreateMachine(t.Context(), spec(weir.ID(fmt.Sprint(i+1)))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		p.set(nil)
		if all := must(p.open().Machines(t.Context()))(t); len(all) != 205 {
			t.Errorf("%d machines, want 205", len(all))
		}
		lists := 0
		for _, asked := range p.requests() {
			if strings.HasPrefix(asked, "GET /v2/droplets?") {
				lists++
			}
		}
		if lists != 2 {
			t.Errorf("asked for %d pages of droplets, want 2", lists)
		}
	})
}

// Whoever looks at once has one answer, and a look that has an answer already asks nothing.
func TestLooksAreShared(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		c := p.open()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { must(c.Machines(t.Context()))(t) })
		}
		wg.Wait()
		if n := len(p.requests()); n != 2 {
			t.Errorf("%d requests for 50 looks at once, want one for droplets and one for firewalls", n)
		}
		must(c.CreateMachine(t.Context(), spec("7")))(t)
		if all := must(c.Machines(t.Context()))(t); len(all) != 1 {
			t.Errorf("machines %+v right after one was made", all)
		}
	})
}

func TestFiguresAreAskedForNoMoreOftenThanThereAreNewOnes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		c := p.open()
		must(c.CreateMachine(t.Context(), spec("7")))(t)
		droplet := weir.ID(fmt.Sprint(p.droplets()[0].ID))
		work, done := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for work.Err() == nil {
				time.Sleep(time.Second)
				p.cloud.Work(droplet, func(l *cloud.Load) {
					l.User += 500 * time.Millisecond
					l.Memory.Available = l.Memory.Total / 4
				})
			}
		})
		defer wg.Wait()
		defer done()
		time.Sleep(5 * time.Minute)
		p.set(nil)
		var first, last cloud.Load
		for range 80 { // 20 minutes, as a control plane looks
			time.Sleep(15 * time.Second)
			all := must(c.Loads(t.Context()))(t)
			if len(all) != 1 || time.Since(all[0].Taken) > 3*time.Minute {
				t.Fatalf("loads %+v at %s, want one that is not old", all, time.Now())
			}
			if last = all[0]; first.Taken.IsZero() {
				first = last
			}
		}
		busy := (last.User + last.System - first.User - first.System).Seconds() / last.Taken.Sub(first.Taken).Seconds()
		if busy < 0.45 || busy > 0.55 || last.Memory.Available*4 != last.Memory.Total {
			t.Errorf("busy %.2f, memory %+v, want half of the CPU and a quarter of the memory free", busy, last.Memory)
		}
		figures := 0
		for _, asked := range p.requests() {
			if strings.Contains(asked, "/monitoring/") {
				figures++
			}
		}
		if figures > 2*20+3 {
			t.Errorf("%d requests for figures in 20 minutes, want 2 a minute and one for all of the memory", figures)
		}
	})
}

// A token has 5,000 requests in an hour and 250 in a minute, and others than figures need some.
func TestFiguresOfManyMachinesComeLessOften(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		c := p.open()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { must(c.CreateMachine(t.Context(), spec(weir.ID(fmt.Sprint(i+1)))))(t) })
		}
		wg.Wait()
		most, hour := 0, 0
		for range 60 {
			p.set(nil)
			for range 4 {
				time.Sleep(15 * time.Second)
				must(c.Loads(t.Context()))(t)
			}
			minute := 0
			for _, asked := range p.requests() {
				if strings.Contains(asked, "/monitoring/") {
					minute++
				}
			}
			most, hour = max(most, minute), hour+minute
		}
		if every := c.Every(); every != 4*time.Minute || most > 150 || hour > 3000+40+100 {
			t.Errorf("every %v, at most %d requests in a minute and %d in an hour, want 4 minutes and no more than 3000", every, most, hour)
		}
		old := 0
		for _, l := range must(c.Loads(t.Context()))(t) {
			if time.Since(l.Taken) > 2*c.Every()+45*time.Second {
				old++
			}
		}
		if old > 0 {
			t.Errorf("the figures of %d machines are older than is said", old)
		}
	})
}

func TestWrongOptionsAreRefusedWithASentence(t *testing.T) {
	good := digitalocean.Options{Token: "x", Name: "a", Region: "nyc3"}
	for want, change := range map[string]func(*digitalocean.Options){
		"the token of DigitalOcean's API is empty":        func(o *digitalocean.Options) { o.Token = " \n" },
		"the token of DigitalOcean's API is not one word": func(o *digitalocean.Options) { o.Token = "a b" },
		`the URL of the API is "ftp://x"`:                 func(o *digitalocean.Options) { o.URL = "ftp://x" },
		`the URL of the API is "https://x/y"`:             func(o *digitalocean.Options) { o.URL = "https://x/y" },
		`the name is "Own Name", want 1 to 63`:            func(o *digitalocean.Options) { o.Name = "Own Name" },
		`the region is "n.c", want one`:                   func(o *digitalocean.Options) { o.Region = "n.c" },
	} {
		o := good
		change(&o)
		if _, err := digitalocean.New(o); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	inBubble(t, func(t *testing.T) {
		p := newProvider(t, cloud.FakeOptions{})
		if err := p.open().Check(t.Context()); err != nil {
			t.Error(err)
		}
		for _, test := range []struct {
			change func(*digitalocean.Options)
			kind   weir.Kind
			text   string
		}{
			{func(o *digitalocean.Options) { o.Token = "wrong" }, weir.Denied, "DigitalOcean refuses the token (401)"},
			{func(o *digitalocean.Options) { o.Region = "nyc3" }, weir.Invalid, `DigitalOcean has no region "nyc3" that makes droplets, want one of lab`},
			{func(o *digitalocean.Options) { o.VPC = "5a4981aa-9653-4bd1-bef5-d6bff52042e4" }, weir.Invalid, "DigitalOcean has no VPC"},
		} {
			o := digitalocean.Options{Token: token, URL: "http://provider.invalid", Name: "test", Region: cloudtest.Region, Transport: p}
			test.change(&o)
			c := must(digitalocean.New(o))(t)
			if err := c.Check(t.Context()); !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, want %q with %q", err, test.kind, test.text)
			}
		}
	})
}
