package local

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/weir"
)

func TestPrivateAddressesAreGivenHighestFirst(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.8/29")
	taken := map[netip.Addr]bool{}
	var got []string
	for {
		addr, err := vacantAbove(p, func(a netip.Addr) bool { return taken[a] })
		if err != nil {
			if !errors.Is(err, weir.Exhausted) || !strings.Contains(err.Error(), "5 addresses in 10.0.0.8/29") {
				t.Errorf("error %v, want that 5 addresses are exhausted", err)
			}
			break
		}
		taken[addr] = true
		got = append(got, addr.String())
	}
	if want := "10.0.0.14 10.0.0.13 10.0.0.12 10.0.0.11 10.0.0.10"; strings.Join(got, " ") != want {
		t.Errorf("addresses %v, want %s", got, want)
	}
}

// Machines and what is reserved share a network, and no address.
func TestPrivateNetworkIsUsedUp(t *testing.T) {
	c := open(t, Config{Private: netip.MustParsePrefix("10.110.0.0/29")})
	var last netip.Addr
	for n := range 3 {
		addr, err := c.ReservePrivate(t.Context(), weir.ID(fmt.Sprint("lb-", n)))
		must(t, err)
		last = addr
	}
	create(t, c, spec(1, ""))
	m := create(t, c, spec(2, ""))
	if want := "10.110.0.3 10.110.0.4"; m.Private.String()+" "+last.String() != want {
		t.Errorf("the second machine has %s, and the third address is %s, want %s", m.Private, last, want)
	}
	if _, err := c.CreateMachine(t.Context(), spec(3, "")); !errors.Is(err, weir.Exhausted) {
		t.Errorf("one machine too many: %v, want that there is no room", err)
	}
	if _, err := c.ReservePrivate(t.Context(), "lb"); !errors.Is(err, weir.Exhausted) {
		t.Errorf("one address too many: %v, want that there is no room", err)
	}
	must(t, c.Release(t.Context(), last))
	if m := create(t, c, spec(3, "")); m.Private != last {
		t.Errorf("a machine has %s, want %s, which was given back", m.Private, last)
	} else if !pings(t, c, "100001", look(t, c, "100001").Private, m.Private) {
		t.Error("it is not reached there")
	}
}

func TestPrivateAddressMovesIsSpreadAndIsReachedFromThePrivateNetworkAlone(t *testing.T) {
	c := open(t, Config{})
	first, second := create(t, c, spec(1, serve(80)+echoing(7))), create(t, c, spec(2, serve(80)+echoing(7)))
	client := create(t, c, spec(3, echoing(7)))
	public, err := c.Reserve(t.Context(), "public", weir.IPv4)
	must(t, err)
	must(t, c.Assign(t.Context(), public, first.ID))
	addr, err := c.ReservePrivate(t.Context(), "lb")
	must(t, err)
	curl := func(args ...string) (string, error) {
		return try(c, client.ID, append([]string{"curl", "-sS", "--max-time", "2"}, append(args, fmt.Sprintf("http://%s/", addr))...)...)
	}
	answers := func(when string, want ...string) {
		t.Helper()
		for who, asks := range map[string]func() (string, error){
			"a machine":   func() (string, error) { return curl() },
			"the gateway": func() (string, error) { return ask(c, addr, 80) },
		} {
			shares := map[string]int{}
			for range 30 {
				got, err := asks()
				if err != nil {
					t.Fatalf("%s: %s is answered %q, %v", when, who, got, err)
				}
				shares[got]++
			}
			for _, name := range want {
				if shares[name] < 3 {
					t.Errorf("%s: of 30 requests of %s %v, want some at each of %v", when, who, shares, want)
				}
				delete(shares, name)
			}
			if len(shares) > 0 {
				t.Errorf("%s: %s is answered by %v, want %v", when, who, shares, want)
			}
		}
	}
	refused := func(when string) {
		t.Helper()
		if _, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 80).String()); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s: the gateway gets %v, want that it is refused", when, err)
		}
		if out, err := curl(); err == nil || !strings.Contains(out, "(7)") { // and not that it waited in vain
			t.Errorf("%s: a machine gets %q, %v, want that it is refused", when, out, err)
		}
	}
	refused("assigned to nobody")
	must(t, c.Assign(t.Context(), addr, first.ID))
	eventually(t, "it echoes", func() error { return greets(t, c, client.ID, "tcp", addr) })
	answers("assigned", "web-1")
	old, err := dialFrom(t, c, client.ID, "tcp", addr)
	must(t, err)
	t.Cleanup(func() { old.Close() })
	goesOn := func(when string) {
		t.Helper()
		_, err := io.WriteString(old, "still")
		if err := errors.Join(err, hear(old, "still", 5*time.Second)); err != nil {
			t.Errorf("%s: a flow from before ends: %v", when, err)
		}
	}
	goesOn("assigned")
	must(t, c.Assign(t.Context(), addr, second.ID))
	answers("moved", "web-2")
	goesOn("moved")
	must(t, c.Assign(t.Context(), addr, first.ID, second.ID))
	answers("spread", "web-1", "web-2")
	goesOn("spread")
	must(t, c.PowerOff(t.Context(), second.ID))
	answers("spread, one of them off", "web-1")
	goesOn("spread, one of them off")

	// A machine is seen as itself, and is told of no reserved IP that it could have in public.
	in(t, c, client.ID, "sh", "-c", "cat >/etc/nginx/nginx.conf <<END\nevents {}\nhttp { server { listen 80; location / { return 200 \\$remote_addr; } } }\nEND\nnginx >/dev/null 2>&1")
	if got := in(t, c, first.ID, "curl", "-sS", "--max-time", "20", fmt.Sprintf("http://%s/", client.Private)); got != first.Private.String() {
		t.Errorf("the machine that has it comes from %s, want its own private address %s", got, first.Private)
	}
	must(t, c.Assign(t.Context(), public))
	if got := in(t, c, first.ID, "curl", "-sS", "--max-time", "20", "http://169.254.169.254/metadata/v1/reserved_ip/ipv4/active"); got != "false" {
		t.Errorf("the metadata service says of a reserved IP: %q, want that there is none", got)
	}
	must(t, c.Assign(t.Context(), public, first.ID))

	// Who speaks by its public link is outside, though the gateway knows the way.
	in(t, c, client.ID, "ip", "route", "add", addr.String()+"/32", "via", gatewayOf(c.networks.Public).String(), "dev", "eth0", "onlink", "src", client.Public.String())
	if out, err := curl(); err == nil || !strings.Contains(out, "(7)") {
		t.Errorf("by its public link a machine gets %q, %v, want that it is refused", out, err)
	}
	for _, from := range []netip.Addr{client.Anchor, client.Private} { // the latter is a lie there
		if out, err := curl("--interface", from.String()); err == nil {
			t.Errorf("from %s by its public link a machine gets %q, want nothing", from, out)
		}
	}
	in(t, c, client.ID, "ip", "route", "del", addr.String()+"/32", "dev", "eth0")
	answers("with its route as it was", "web-1")

	// Its firewall is what counts behind it.
	must(t, c.SetFirewall(t.Context(), first.ID, &weir.Firewall{Openings: []weir.Opening{{Port: 80, Peers: []netip.Prefix{c.PrivateNetwork()}}}}))
	answers("open to the private network", "web-1")
	if _, err := try(c, client.ID, "curl", "-sS", "--max-time", "2", fmt.Sprintf("http://%s/", public)); err == nil {
		t.Error("a machine that is open to the private network is reached in public")
	}

	must(t, c.Release(t.Context(), addr))
	refused("given back")
	var reset net.Error
	if err := hear(old, "still", 100*time.Millisecond); !errors.As(err, &reset) || !reset.Timeout() {
		t.Errorf("a flow from before: %v, want that it is still open", err)
	}
}

func TestPrivateAddressIsTheSameAfterTheRegionCameBack(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	m, client := create(t, c, spec(1, serve(80))), create(t, c, spec(2, ""))
	addr, err := c.ReservePrivate(t.Context(), "lb")
	must(t, err)
	must(t, c.Assign(t.Context(), addr, m.ID))
	must(t, c.Close())
	c = open(t, Config{Dir: dir})
	in(t, c, m.ID, "sh", "-c", "nginx >/dev/null 2>&1 || true")
	eventually(t, "it is answered again", func() error {
		if out, err := try(c, client.ID, "curl", "-sS", "--max-time", "2", fmt.Sprintf("http://%s/", addr)); err != nil || out != "web-1" {
			return fmt.Errorf("%q, %v", out, err)
		}
		_, err := ask(c, addr, 80)
		return err
	})
}
