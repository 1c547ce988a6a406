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

// The gateway's nftables, as `ip netns exec GATEWAY nft list ruleset` shows them:
//
//	map reserved   reserved IP : anchor address     prerouting and output: dnat
//	map spread     reserved IP . slot : anchor address   likewise, of those that several machines have
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
var (
	table     = &nftables.Table{Name: "weir", Family: nftables.TableFamilyIPv4}
	reserved  = nftables.Set{Table: table, ID: 1, Name: "reserved", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeIPAddr}
	anchors   = nftables.Set{Table: table, ID: 2, Name: "anchors", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeIPAddr}
	firewalls = nftables.Set{Table: table, ID: 3, Name: "firewalls", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}
	spreading = nftables.Set{Table: table, ID: 5, Name: "spread", IsMap: true, Concatenation: true, KeyType: spreadKey, DataType: nftables.TypeIPAddr}
	confined  = nftables.Set{Table: table, ID: 4, Name: "confined", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}
)

var spreadKey = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInteger)

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

// setTable makes the table, without a reserved IP and without a firewall.
func (g *gateway) setTable() error {
	return g.transact(func(c *nftables.Conn) error {
		c.AddTable(table)
		for _, s := range []nftables.Set{reserved, spreading, anchors, firewalls, confined} {
			if err := c.AddSet(&s, nil); err != nil {
				return err
			}
		}
		base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Table: table, Name: name, Type: kind, Hooknum: hook, Priority: priority})
		}
		rule := func(chain *nftables.Chain, exprs ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(exprs...)})
		}
		refuse := c.AddChain(&nftables.Chain{Table: table, Name: refusing})
		for _, chain := range []*nftables.Chain{
			base("arriving", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
			base("dialled", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
		} {
			rule(chain, slotted, translate(expr.NATTypeDestNAT, &spreading))
			rule(chain, []expr.Any{destination}, translate(expr.NATTypeDestNAT, &reserved))
		}
		rule(base("leaving", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
			[]expr.Any{source}, translate(expr.NATTypeSourceNAT, &anchors))
		ask := func(which *expr.Payload, m nftables.Set) []expr.Any {
			return []expr.Any{which, &expr.Lookup{SourceRegister: 1, SetName: m.Name, SetID: m.ID, IsDestRegSet: true}}
		}
		accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
		forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
		output := base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
		rule(forward, established, accept)
		rule(forward, ask(source, confined))
		rule(forward, ask(destination, firewalls))
		rule(output, established, accept)
		rule(output, ask(destination, firewalls))
		g.answerForLost(base("lost", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityFilter), rule)
		// A machine is told that it may not. The gateway's own sockets do not listen to
		// that while they connect, but they know what a reset means.
		prohibited := []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpProhibited}}
		rule(refuse, forwarded, prohibited)
		rule(refuse, protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
		rule(refuse, prohibited)
		return nil
	})
}

// answerForLost makes the chain that resets connections to machines that are not there.
// "Unreachable" would end no connection that is established, and a new one only after
// a second: a kernel that answers within connect is not heard.
func (g *gateway) answerForLost(chain *nftables.Chain, rule func(*nftables.Chain, ...[]expr.Any)) {
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	rule(chain, established, accept)
	rule(chain, []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, is(unix.RTN_LOCAL)}, accept)
	rule(chain, []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultOIF: true}, isNot(0)}, accept)
	for _, p := range []netip.Prefix{g.networks.Public, g.networks.Private, g.networks.Anchor} {
		rule(chain, within([]expr.Any{destination}, p), protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	}
}

// pointed says where reserved IPs lead, by the keys of the gateway's maps.
type pointed struct{ single, slots, back map[string]netip.Addr }

// pointReserved has the reserved IPs point to the anchor addresses in want, and to
// nothing where they are not in it. Flows that are established stay where they are. The
// machine of an anchor address that several point to is seen as the first of order.
func (g *gateway) pointReserved(want map[netip.Addr][]netip.Addr, order []netip.Addr) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	led := pointed{map[string]netip.Addr{}, map[string]netip.Addr{}, seenAs(want, order)}
	for addr, to := range want {
		slices.SortFunc(to, netip.Addr.Compare)
		key := string(addr.AsSlice())
		if len(to) == 1 {
			led.single[key] = to[0]
			continue
		}
		for slot := range spreadSlots {
			led.slots[key+string(binaryutil.NativeEndian.PutUint32(uint32(slot)))] = to[slot%len(to)]
		}
	}
	type change struct {
		set        *nftables.Set
		gone, come []nftables.SetElement
	}
	changes := []change{{set: &reserved}, {set: &spreading}, {set: &anchors}}
	n := 0
	for i, maps := range [][2]map[string]netip.Addr{{g.led.single, led.single}, {g.led.slots, led.slots}, {g.led.back, led.back}} {
		changes[i].gone, changes[i].come = diff(maps[0], maps[1])
		n += len(changes[i].gone) + len(changes[i].come)
	}
	if n == 0 {
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
	g.led = led
	return nil
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

// seenAs turns points around: for each anchor address the first of order that points to it.
func seenAs(points map[netip.Addr][]netip.Addr, order []netip.Addr) map[string]netip.Addr {
	seen := map[string]netip.Addr{}
	for _, r := range order {
		for _, anchor := range points[r] {
			if key := string(anchor.AsSlice()); !seen[key].IsValid() {
				seen[key] = r
			}
		}
	}
	return seen
}

// setFirewall gives a machine the firewall f in place of the one that it has, if any. Nil
// is none.
func (g *gateway) setFirewall(r *record, f *weir.Firewall) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	had := g.walled[r.ID]
	has := walls{in: f != nil, out: f != nil && f.Confined}
	if had == (walls{}) && has == (walls{}) {
		return nil
	}
	err := g.transact(func(c *nftables.Conn) error {
		in := wall{chain: "machine-" + string(r.ID), led: &firewalls, had: had.in, has: has.in}
		out := wall{chain: "exits-of-" + string(r.ID), led: &confined, had: had.out, has: has.out}
		if has.in {
			for _, o := range f.Openings {
				in.rules = append(in.rules, g.letIn(o)...)
			}
		}
		if has.out {
			for _, o := range f.Exits {
				out.rules = append(out.rules, letOut(o)...)
			}
		}
		return errors.Join(in.set(c, r), out.set(c, r))
	})
	if err != nil {
		return fmt.Errorf("firewall of machine %s: %w", r.ID, err)
	}
	g.walled[r.ID] = has
	return nil
}

// walls says which of its two walls a machine has.
type walls struct{ in, out bool }

// wall is a chain of a machine's that ends in refusal, and the map that leads to it.
type wall struct {
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
	chain := &nftables.Chain{Table: table, Name: w.chain}
	var jumps []nftables.SetElement
	for _, a := range []netip.Addr{r.Public, r.Anchor, r.Private} {
		jumps = append(jumps, nftables.SetElement{Key: a.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: w.chain}})
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
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	if w.had {
		return nil
	}
	return c.SetAddElements(w.led, jumps)
}

// letIn returns the rules of an opening.
func (g *gateway) letIn(o weir.Opening) (rules [][]expr.Any) {
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	for _, p := range o.Peers {
		if !p.Addr().Is4() { // the region has no other
			continue
		}
		rules = append(rules, slices.Concat(passing(o), within([]expr.Any{source}, p), accept))
		if p.Overlaps(g.networks.Reserved) { // which the source becomes only after this
			rules = append(rules, slices.Concat(passing(o), within(translated, p), accept))
		}
	}
	return rules
}

// letOut returns the rules of an exit.
func letOut(o weir.Opening) (rules [][]expr.Any) {
	for _, p := range o.Peers {
		if p.Addr().Is4() {
			rules = append(rules, slices.Concat(passing(o), within(addressed, p), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}))
		}
	}
	return rules
}

// passing matches the packets that an opening is for, whoever they are from.
func passing(o weir.Opening) []expr.Any {
	switch {
	case o.ICMP:
		return protocol(unix.IPPROTO_ICMP)
	case o.UDP:
		return slices.Concat(protocol(unix.IPPROTO_UDP), ports(o.Port, max(o.Port, o.Last)))
	}
	return slices.Concat(protocol(unix.IPPROTO_TCP), ports(o.Port, max(o.Port, o.Last)))
}

// What rules are made of. Each piece leaves register 1 to the next.

// icmpProhibited is "administratively prohibited", which ends a UDP socket's wait as
// well: "unreachable" would not.
const icmpProhibited = 13

var (
	source      = &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	destination = &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}

	// translated is the reserved IP that the source of a packet is about to become, if any.
	translated = []expr.Any{source, &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: anchors.Name, SetID: anchors.ID}}

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

// slotted is the address that a packet is for, with the slot of its flow.
var slotted = []expr.Any{
	&expr.Payload{DestRegister: unix.NFT_REG32_04, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
	&expr.Payload{DestRegister: unix.NFT_REG32_05, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
	destination,
	&expr.Hash{SourceRegister: unix.NFT_REG32_04, DestRegister: unix.NFT_REG32_01, Length: 8, Modulus: spreadSlots, Seed: 1, Type: expr.HashTypeJenkins},
}

// translate gives a packet the address that m has for what is in the register.
func translate(kind expr.NATType, m *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: kind, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}}
}

// is matches if the register has that number.
func is(n uint32) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(n)}
}

// isNot matches if the register has another number.
func isNot(n uint32) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(n)}
}

// within matches packets whose address which is in p.
func within(which []expr.Any, p netip.Prefix) []expr.Any {
	n := ipNet(p)
	return append(slices.Clone(which),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: n.Mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.IP.To4()})
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
