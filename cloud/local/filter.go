package local

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// family is one of the gateway's two tables of nftables, which are alike: that of IPv4 and that of IPv6. As
// `ip netns exec GATEWAY nft list ruleset` shows them:
//
//	map reserved   reserved IP : anchor address     prerouting and output: dnat
//	map spread     reserved IP . slot : anchor address   likewise, of those that several machines have
//	               (an address that is reserved in the private network is in these maps with private addresses
//	               of machines, and is translated for who asks from that network alone)
//	map anchors    anchor address : reserved IP     postrouting: snat
//	map firewalls  address : jump to its machine's chain of openings
//	map confined   address : jump to its machine's chain of exits
//
// The forward and output chains let pass what is established. Then the forward chain looks
// the source up in confined: a machine's chain of exits returns for what may leave, and goes to
// chain refused. Then both look the destination up in firewalls, and let pass what has none: a
// machine's chain of openings accepts them and goes to chain refused. What a machine asks of
// the gateway itself meets neither. Chain lost answers for machines that are not there. Each
// change is one transaction, so no packet meets half of it.
//
// The slot of a flow is a hash of its source's address and port; machines that have an address take turns in its slots.
//
// Chain honest is of IPv6 alone, and what rp_filter is to IPv4: a machine that lies about its source is not heard.
type family struct {
	table                                             *nftables.Table
	reserved, spreading, anchors, firewalls, confined nftables.Set

	protocol   uint32         // its number among nftables' families
	size       uint32         // of an address, in bytes
	from, to   uint32         // where a packet has its addresses
	icmp       byte           // its protocol
	prohibited byte           // "administratively prohibited", which ends a UDP socket's wait as well: "unreachable" would not
	held       netip.Prefix   // where reserved IPs are from
	lost       []netip.Prefix // where addresses of machines are from
	private    netip.Prefix   // the private network, if it is of the family

	led    pointed           // what was set last; it and walled under gateway.filter
	walled map[weir.ID]walls // the machines that have a firewall
}

// families returns those of a region.
func (n networks) families() []*family {
	four := &family{table: &nftables.Table{Name: "weir", Family: nftables.TableFamilyIPv4}, protocol: unix.NFPROTO_IPV4, size: 4,
		from: 12, to: 16, icmp: unix.IPPROTO_ICMP, prohibited: 13, held: n.Reserved, lost: []netip.Prefix{n.Public, n.Private, n.Anchor}, private: n.Private}
	four.name(nftables.TypeIPAddr)
	if !n.hasIPv6() {
		return []*family{four}
	}
	six := &family{table: &nftables.Table{Name: "weir", Family: nftables.TableFamilyIPv6}, protocol: unix.NFPROTO_IPV6, size: 16,
		from: 8, to: 24, icmp: unix.IPPROTO_ICMPV6, prohibited: 1, held: n.Reserved6, lost: []netip.Prefix{n.Public6, n.Anchor6}}
	six.name(nftables.TypeIP6Addr)
	return []*family{four, six}
}

// name gives the maps of addresses of that type their names.
func (f *family) name(address nftables.SetDatatype) {
	slot := nftables.MustConcatSetType(address, nftables.TypeInteger)
	f.reserved = nftables.Set{Table: f.table, ID: 1, Name: "reserved", IsMap: true, KeyType: address, DataType: address}
	f.anchors = nftables.Set{Table: f.table, ID: 2, Name: "anchors", IsMap: true, KeyType: address, DataType: address}
	f.firewalls = nftables.Set{Table: f.table, ID: 3, Name: "firewalls", IsMap: true, KeyType: address, DataType: nftables.TypeVerdict}
	f.confined = nftables.Set{Table: f.table, ID: 4, Name: "confined", IsMap: true, KeyType: address, DataType: nftables.TypeVerdict}
	f.spreading = nftables.Set{Table: f.table, ID: 5, Name: "spread", IsMap: true, Concatenation: true, KeyType: slot, DataType: address}
	f.walled = map[weir.ID]walls{}
}

// has reports whether addr is of the family.
func (f *family) has(addr netip.Addr) bool { return addr.BitLen() == 8*int(f.size) }

const (
	spreadSlots = 240 // of each address, so that up to six machines get the same share, and spread ones as good as that
	spread      = 40  // how many machines an address is spread over at most
)

// refusing is the chain that says no.
const refusing = "refused"

// transact applies what change asks for, all of it or nothing.
func (g *gateway) transact(change func(*nftables.Conn) error) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(g.ns.Fd())), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetWriteBuffer(4 << 20) // a transaction is sent as one message
	}))
	if err != nil {
		return err
	}
	if err := change(conn); err != nil {
		return err
	}
	return conn.Flush()
}

// setTables makes the tables, without a reserved IP and without a firewall.
func (g *gateway) setTables() error {
	return g.transact(func(c *nftables.Conn) error {
		for _, f := range g.families {
			if err := f.setTable(c); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *family) setTable(c *nftables.Conn) error {
	c.AddTable(f.table)
	for _, s := range []nftables.Set{f.reserved, f.spreading, f.anchors, f.firewalls, f.confined} {
		if err := c.AddSet(&s, nil); err != nil {
			return err
		}
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: f.table, Name: name, Type: kind, Hooknum: hook, Priority: priority})
	}
	rule := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: slices.Concat(exprs...)})
	}
	refuse := c.AddChain(&nftables.Chain{Table: f.table, Name: refusing})
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	for _, chain := range []*nftables.Chain{
		base("arriving", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		base("dialled", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
	} {
		if f.private.IsValid() {
			rule(chain, within(f.destination(), f.private), outside(f.source(), f.private), accept)
		}
		rule(chain, f.slotted(), f.translate(expr.NATTypeDestNAT, &f.spreading))
		rule(chain, f.destination(), f.translate(expr.NATTypeDestNAT, &f.reserved))
	}
	rule(base("leaving", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
		f.source(), f.translate(expr.NATTypeSourceNAT, &f.anchors))
	ask := func(which []expr.Any, m nftables.Set) []expr.Any {
		return append(which, &expr.Lookup{SourceRegister: 1, SetName: m.Name, SetID: m.ID, IsDestRegSet: true})
	}
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	output := base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	rule(forward, established, accept)
	rule(forward, ask(f.source(), f.confined))
	rule(forward, ask(f.destination(), f.firewalls))
	rule(output, established, accept)
	rule(output, ask(f.destination(), f.firewalls))
	f.answerForLost(base("lost", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityFilter), rule)
	if f.protocol == unix.NFPROTO_IPV6 {
		rule(base("honest", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw),
			[]expr.Any{&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true}, is(0), &expr.Verdict{Kind: expr.VerdictDrop}})
	}
	// A machine is told that it may not. The gateway's own sockets do not listen to
	// that while they connect, but they know what a reset means.
	prohibited := []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.prohibited}}
	rule(refuse, forwarded, prohibited)
	rule(refuse, protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(refuse, prohibited)
	return nil
}

// answerForLost makes the chain that resets connections to machines that are not there.
// "Unreachable" would end no connection that is established, and a new one only after
// a second: a kernel that answers within connect is not heard.
func (f *family) answerForLost(chain *nftables.Chain, rule func(*nftables.Chain, ...[]expr.Any)) {
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	rule(chain, established, accept)
	rule(chain, []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, is(unix.RTN_LOCAL)}, accept)
	rule(chain, []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultOIF: true}, isNot(0)}, accept)
	for _, p := range f.lost {
		rule(chain, within(f.destination(), p), protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	}
}

// pointed says where reserved IPs lead, by the keys of the gateway's maps.
type pointed struct{ single, slots, back map[string]netip.Addr }

// pointReserved has the reserved IPs point to the addresses in want, and to
// nothing where they are not in it. Flows that are established stay where they are. The
// machine of an anchor address that several point to is seen as the first of order, and as itself
// where none of those points to it.
func (g *gateway) pointReserved(want map[netip.Addr][]netip.Addr, order []netip.Addr) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	led := make([]pointed, len(g.families))
	var changes []change
	for i, f := range g.families {
		led[i] = f.points(want, order)
		changes = append(changes, f.changes(led[i])...)
	}
	if !slices.ContainsFunc(changes, func(c change) bool { return len(c.gone)+len(c.come) > 0 }) {
		return nil
	}
	err := g.transact(func(c *nftables.Conn) error {
		for _, change := range changes {
			for chunk := range slices.Chunk(change.gone, chunkSize) {
				if err := c.SetDeleteElements(change.set, chunk); err != nil {
					return err
				}
			}
			for chunk := range slices.Chunk(change.come, chunkSize) {
				if err := c.SetAddElements(change.set, chunk); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("point reserved IPs: %w", err)
	}
	for i, f := range g.families {
		f.led = led[i]
	}
	return nil
}

// points returns what of want is the family's.
func (f *family) points(want map[netip.Addr][]netip.Addr, order []netip.Addr) pointed {
	led := pointed{map[string]netip.Addr{}, map[string]netip.Addr{}, map[string]netip.Addr{}}
	for addr, to := range want {
		slices.SortFunc(to, netip.Addr.Compare)
		key := string(addr.AsSlice())
		switch {
		case !f.has(addr):
		case len(to) == 1:
			led.single[key] = to[0]
		default:
			for slot := range spreadSlots {
				led.slots[key+string(binaryutil.NativeEndian.PutUint32(uint32(slot)))] = to[slot%len(to)]
			}
		}
	}
	for _, r := range slices.DeleteFunc(slices.Clone(order), func(r netip.Addr) bool { return !f.has(r) }) {
		for _, anchor := range want[r] {
			if key := string(anchor.AsSlice()); !led.back[key].IsValid() {
				led.back[key] = r
			}
		}
	}
	return led
}

// change is what goes out of a map, and what comes into it.
type change struct {
	set        *nftables.Set
	gone, come []nftables.SetElement
}

// changes returns those that bring the family's maps to led.
func (f *family) changes(led pointed) (all []change) {
	for _, m := range []struct {
		set        *nftables.Set
		have, want map[string]netip.Addr
	}{{&f.reserved, f.led.single, led.single}, {&f.spreading, f.led.slots, led.slots}, {&f.anchors, f.led.back, led.back}} {
		gone, come := diff(m.have, m.want)
		all = append(all, change{m.set, gone, come})
	}
	return all
}

// chunkSize is how many elements of a map go into one message, which holds 64 KiB.
const chunkSize = 500

// diff finds what to take out of have and what to put in so that it is want.
func diff(have, want map[string]netip.Addr) (gone, come []nftables.SetElement) {
	element := func(k string, v netip.Addr) nftables.SetElement {
		return nftables.SetElement{Key: []byte(k), Val: v.AsSlice()}
	}
	for k, v := range have {
		if want[k] != v {
			gone = append(gone, element(k, v))
		}
	}
	for k, v := range want {
		if have[k] != v {
			come = append(come, element(k, v))
		}
	}
	return gone, come
}

// setFirewall gives a machine the firewall f in place of the one that it has, if any. Nil
// is none.
func (g *gateway) setFirewall(r *record, f *weir.Firewall) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	if !slices.ContainsFunc(g.families, func(family *family) bool { return family.walled[r.ID] != walls{} || family.wallsOf(r, f) != walls{} }) {
		return nil
	}
	err := g.transact(func(c *nftables.Conn) error {
		for _, family := range g.families {
			if err := family.setWalls(c, r, f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("firewall of machine %s: %w", r.ID, err)
	}
	for _, family := range g.families {
		family.walled[r.ID] = family.wallsOf(r, f)
	}
	return nil
}

// wallsOf returns which walls f makes around a machine's addresses of the family.
func (f *family) wallsOf(r *record, w *weir.Firewall) walls {
	there := w != nil && slices.ContainsFunc(r.addresses(), f.has)
	return walls{in: there, out: there && w.Confined}
}

func (f *family) setWalls(c *nftables.Conn, r *record, w *weir.Firewall) error {
	had, has := f.walled[r.ID], f.wallsOf(r, w)
	in := wall{family: f, chain: "machine-" + string(r.ID), led: &f.firewalls, had: had.in, has: has.in}
	out := wall{family: f, chain: "exits-of-" + string(r.ID), led: &f.confined, had: had.out, has: has.out}
	if has.in {
		for _, o := range w.Openings {
			in.rules = append(in.rules, f.letIn(o)...)
		}
	}
	if has.out {
		for _, o := range w.Exits {
			out.rules = append(out.rules, f.letOut(o)...)
		}
	}
	return errors.Join(in.set(c, r), out.set(c, r))
}

// walls says which of its two walls a machine has.
type walls struct{ in, out bool }

// wall is a chain of a machine's that ends in refusal, and the map that leads to it.
type wall struct {
	family   *family
	chain    string
	led      *nftables.Set
	had, has bool // there is one before, and after
	rules    [][]expr.Any
}

// set makes the wall what it should be.
func (w *wall) set(c *nftables.Conn, r *record) error {
	if !w.had && !w.has {
		return nil
	}
	chain := &nftables.Chain{Table: w.family.table, Name: w.chain}
	var jumps []nftables.SetElement
	for _, a := range r.addresses() {
		if w.family.has(a) {
			jumps = append(jumps, nftables.SetElement{Key: a.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: w.chain}})
		}
	}
	if !w.has {
		if err := c.SetDeleteElements(w.led, jumps); err != nil {
			return err
		}
		c.FlushChain(chain)
		c.DelChain(chain)
		return nil
	}
	c.AddChain(chain)
	c.FlushChain(chain)
	for _, exprs := range append(w.rules, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: refusing}}) {
		c.AddRule(&nftables.Rule{Table: w.family.table, Chain: chain, Exprs: exprs})
	}
	if w.had {
		return nil
	}
	return c.SetAddElements(w.led, jumps)
}

// letIn returns the rules of an opening.
func (f *family) letIn(o weir.Opening) (rules [][]expr.Any) {
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	for _, p := range o.Peers {
		if !f.has(p.Addr()) {
			continue
		}
		rules = append(rules, slices.Concat(f.passing(o), within(f.source(), p), accept))
		if p.Overlaps(f.held) { // which the source becomes only after this
			rules = append(rules, slices.Concat(f.passing(o), within(f.translated(), p), accept))
		}
	}
	return rules
}

// letOut returns the rules of an exit.
func (f *family) letOut(o weir.Opening) (rules [][]expr.Any) {
	for _, p := range o.Peers {
		if f.has(p.Addr()) {
			rules = append(rules, slices.Concat(f.passing(o), within(addressed, p), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}))
		}
	}
	return rules
}

// passing matches the packets that an opening is for, whoever they are from.
func (f *family) passing(o weir.Opening) []expr.Any {
	switch {
	case o.ICMP:
		return protocol(f.icmp)
	case o.UDP:
		return slices.Concat(protocol(unix.IPPROTO_UDP), ports(o.Port, max(o.Port, o.Last)))
	}
	return slices.Concat(protocol(unix.IPPROTO_TCP), ports(o.Port, max(o.Port, o.Last)))
}

// What rules are made of. Each piece leaves register 1 to the next.

func (f *family) source() []expr.Any { return []expr.Any{f.payload(1, f.from)} }

func (f *family) destination() []expr.Any { return []expr.Any{f.payload(1, f.to)} }

// payload reads an address of a packet.
func (f *family) payload(register, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}
}

// translated is the reserved IP that the source of a packet is about to become, if any.
func (f *family) translated() []expr.Any {
	return append(f.source(), &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: f.anchors.Name, SetID: f.anchors.ID})
}

// slotted is the address that a packet is for, with the slot of its flow.
func (f *family) slotted() []expr.Any {
	const hashed = unix.NFT_REG32_08 // and what follows
	return []expr.Any{
		f.payload(hashed, f.from),
		&expr.Payload{DestRegister: hashed + f.size/4, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		f.payload(1, f.to),
		&expr.Hash{SourceRegister: hashed, DestRegister: unix.NFT_REG32_00 + f.size/4, Length: f.size + 4, Modulus: spreadSlots, Seed: 1, Type: expr.HashTypeJenkins},
	}
}

// translate gives a packet the address that m has for what is in the register.
func (f *family) translate(kind expr.NATType, m *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: kind, Family: f.protocol, RegAddrMin: 1}}
}

var (
	// addressed is where a flow was sent to by who began it: a reserved IP, and not the anchor
	// address that it has become.
	addressed = []expr.Any{&expr.Ct{Key: expr.CtKeyDST, Register: 1}}

	// established matches the packets of flows that were let in before.
	established = []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  binaryutil.NativeEndian.PutUint32(0)},
		isNot(0),
	}

	// forwarded matches what came in by a cable, and not what the gateway itself sends.
	forwarded = []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		isNot(0),
	}
)

// is matches if the register has that number.
func is(n uint32) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(n)}
}

// isNot matches if the register has another number.
func isNot(n uint32) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(n)}
}

// within matches packets whose address which is in p.
func within(which []expr.Any, p netip.Prefix) []expr.Any { return masked(which, p, expr.CmpOpEq) }

// outside matches packets whose address which is not in p.
func outside(which []expr.Any, p netip.Prefix) []expr.Any { return masked(which, p, expr.CmpOpNeq) }

// masked compares what is left of the address which under p's mask with p.
func masked(which []expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	n := ipNet(p)
	return append(slices.Clone(which),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(n.IP)), Mask: n.Mask, Xor: make([]byte, len(n.IP))},
		&expr.Cmp{Op: op, Register: 1, Data: n.IP})
}

func protocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}}}
}

// ports matches destination ports of TCP and UDP, from first to last.
func ports(first, last int) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Range{Op: expr.CmpOpEq, Register: 1,
			FromData: binaryutil.BigEndian.PutUint16(uint16(first)), ToData: binaryutil.BigEndian.PutUint16(uint16(last))}}
}
