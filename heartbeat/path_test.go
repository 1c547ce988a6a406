package heartbeat

import (
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// pair is two namespaces that are joined by two cables: 10.77.0.x and fd77::x on one,
// 10.78.0.x on the other. x is 1 and 2.
type pair struct {
	testing.TB
	ns [2]string
}

func newPair(t testing.TB) *pair {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	id := strings.ToLower(rand.Text()[:8])
	p := &pair{TB: t, ns: [2]string{"weir-test-" + id + "a", "weir-test-" + id + "b"}}
	for _, ns := range p.ns {
		p.do("ip", "netns", "add", ns)
		t.Cleanup(func() { p.do("ip", "netns", "del", ns) })
		p.do("ip", "-n", ns, "link", "set", "lo", "up")
	}
	for _, eth := range []string{"eth0", "eth1"} {
		p.do("ip", "-n", p.ns[0], "link", "add", eth, "type", "veth", "peer", "name", eth, "netns", p.ns[1])
	}
	for i, ns := range p.ns {
		host := string(rune('1' + i))
		p.do("ip", "-n", ns, "addr", "add", "10.77.0."+host+"/24", "dev", "eth0")
		p.do("ip", "-n", ns, "addr", "add", "fd77::"+host+"/64", "dev", "eth0", "nodad")
		p.do("ip", "-n", ns, "addr", "add", "10.78.0."+host+"/24", "dev", "eth1")
		p.do("ip", "-n", ns, "link", "set", "eth0", "up")
		p.do("ip", "-n", ns, "link", "set", "eth1", "up")
	}
	return p
}

func (p *pair) do(args ...string) {
	p.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		p.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// nft runs commands of nft in namespace i.
func (p *pair) nft(i int, text string) {
	p.Helper()
	p.do("ip", "netns", "exec", p.ns[i], "nft", text)
}

// drop drops what arrives in namespace i from the other, over eth0.
func (p *pair) drop(i int) {
	p.Helper()
	p.nft(i, `add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in iifname "eth0" udp dport 4711 drop`)
}

// start starts an instance in each, each asking the other at all of its addresses.
func (p *pair) start() (a, b *process) {
	a = start(p.TB, p.ns[0], "a", "4711", "any", "b", "10.77.0.2", "fd77::2", "10.78.0.2")
	b = start(p.TB, p.ns[1], "b", "4711", "any", "a", "10.77.0.1", "fd77::1", "10.78.0.1")
	for _, addr := range []string{"10.77.0.2", "fd77::2", "10.78.0.2"} {
		a.wait(addr, weir.PathUp)
	}
	for _, addr := range []string{"10.77.0.1", "fd77::1", "10.78.0.1"} {
		b.wait(addr, weir.PathUp)
	}
	return a, b
}

func TestALinkThatIsCutOneWayIsSilentAtBothEnds(t *testing.T) {
	p := newPair(t)
	a, b := p.start()
	p.drop(1) // b hears nothing; a hears b's questions, but no answers
	for _, end := range []struct {
		*process
		other string
	}{{a, "2"}, {b, "1"}} {
		end.wait("10.77.0."+end.other, weir.PathSilent)
		end.wait("fd77::"+end.other, weir.PathSilent)
		end.wait("10.78.0."+end.other, weir.PathUp) // the other cable is whole
	}
	p.nft(1, "delete table inet cut")
	for _, addr := range []string{"10.77.0.2", "fd77::2"} {
		a.wait(addr, weir.PathUp)
	}
}

func TestAPeerThatDiesOnALinkRefuses(t *testing.T) {
	p := newPair(t)
	a, b := p.start()
	b.signal(os.Kill)
	for _, addr := range []string{"10.77.0.2", "fd77::2", "10.78.0.2"} {
		a.wait(addr, weir.PathRefused)
	}
	// The kernel answers once a second from now on: the path does not flap.
	before := a.said()
	time.Sleep(2500 * ms)
	if after := a.said(); after != before {
		t.Errorf("of a dead peer it was said: %s; then: %s", before, after)
	}
}

func TestAPathWithoutARouteIsUnreachable(t *testing.T) {
	p := newPair(t)
	a, b := p.start()
	p.do("ip", "-n", p.ns[0], "route", "replace", "unreachable", "10.77.0.2")
	a.wait("10.77.0.2", weir.PathUnreachable)
	a.wait("10.78.0.2", weir.PathUp)
	b.wait("10.77.0.1", weir.PathSilent)
	p.do("ip", "-n", p.ns[0], "route", "del", "unreachable", "10.77.0.2")
	a.wait("10.77.0.2", weir.PathUp)

	// A firewall that rejects.
	p.nft(1, `add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in iifname "eth0" udp dport 4711 reject with icmpx admin-prohibited`)
	a.wait("10.77.0.2", weir.PathUnreachable)
	a.wait("fd77::2", weir.PathUnreachable)
}

func TestALinkThatGoesDownIsSilent(t *testing.T) {
	p := newPair(t)
	a, b := p.start()
	p.do("ip", "-n", p.ns[1], "link", "set", "eth0", "down")
	eventuallyDown := func(q *process, addr string) {
		t.Helper()
		eventually(t, addr+" silent or unreachable, not only ", q.said, func() bool {
			return strings.Contains(q.said(), addr+" "+string(weir.PathSilent)) || strings.Contains(q.said(), addr+" "+string(weir.PathUnreachable))
		})
	}
	eventuallyDown(a, "10.77.0.2")
	eventuallyDown(b, "10.77.0.1")
	a.wait("10.78.0.2", weir.PathUp)
}

// An address that comes later is answered from, too, though another is the one that a
// route would choose.
func TestAnswersLeaveFromTheAddressThatWasAsked(t *testing.T) {
	p := newPair(t)
	p.start()
	c := start(t, p.ns[0], "c", "4712", "any", "d", "10.77.0.99", "fd77::99")
	d := start(t, p.ns[1], "d", "4712", "any", "c", "10.77.0.1")
	d.wait("10.77.0.1", weir.PathUp)
	p.do("ip", "-n", p.ns[1], "addr", "add", "10.77.0.99/32", "dev", "eth0")
	p.do("ip", "-n", p.ns[1], "addr", "add", "fd77::99/128", "dev", "eth0", "nodad")
	c.wait("10.77.0.99", weir.PathUp)
	c.wait("fd77::99", weir.PathUp)
}
