// Package control is the control plane: the verbs of users and one controller for
// each kind of thing.
//
// A verb ([Control.Grow], [Control.DeleteMachine], …) writes what is desired in one
// transaction and returns; it never waits for a machine. The controllers, which run
// under leadership in [Control.Run], bring the cloud and the nodes to what is desired:
// each looks at the rows and the cloud, plans in a pure function, and takes steps that
// can be repeated. What they are still to do, and why it is not done yet, is in the
// Status of the row.
//
//	pools          count machines: add rows, mark rows for deletion; autoscale pools also
//	               replace what was made from an older template, and tell what they did
//	machines       bring each machine's row to the cloud, and its state back
//	addresses      reserve, point and release reserved IPs
//	loadBalancers  give each load balancer instances, an address, firewalls and the
//	               NodeConfig of each instance
//	rules          give each machine the rules of its users' firewalls
//	pairs          judge the instances of each load balancer, and move its address when the
//	               one that has it cannot serve
//	follow         has pools that scale be as large as package scale says, every 15 s
//	watches        ask the instances whether they live and serve
//	certificates   get those from an authority that users have asked for, and renew them
//
// What users list comes a page at a time from memory; see lists.
//
// Nodes take part by three calls, [Control.Enrol], [Control.NodeConfig] and
// [Control.Report], which package nodeapi serves to them.
package control

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"weir/cloud"
	"weir/reconcile"
	"weir/scale"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

// The tables of the control plane.
var (
	machines      = newTeamed("machines", func(m weir.Machine) weir.ID { return m.Team })
	pools         = newTeamed("pools", func(p weir.Pool) weir.ID { return p.Team })
	loadBalancers = newTeamed("load_balancers", func(lb weir.LoadBalancer) weir.ID { return lb.Team })
	addresses     = newTeamed("addresses", func(a weir.Address) weir.ID { return a.Team }) // by owner
	actions       = newTeamed("actions", func(a weir.Action) weir.ID { return a.Team })
	blobs         = store.NewTable[string]("blobs")                          // user-data by its hash
	tags          = newTeamed("tags", func(t tag) weir.ID { return t.Team }) // by tagKey
	nodeConfigs   = store.NewTable[weir.NodeConfig]("node_configs")
	nodeStatuses  = store.NewTable[weir.NodeStatus]("node_statuses")
	enrolments    = store.NewTable[enrolment]("enrolments") // by hash of the token
	tokens        = store.NewTable[userToken]("tokens")     // by hash too
)

// IDs begin where no line number of an inventory gets.
const (
	firstMachine = 100_001
	firstAction  = 500_001
)

// Options are what a control plane needs.
type Options struct {
	Region string
	Store  *store.Store
	Cloud  cloud.Cloud
	Log    *slog.Logger

	// Further are regions beside Region, by name, in which droplets and machines of pools can be. Load balancers and
	// addresses are in Region, from which the private networks of all are reached.
	Further map[string]cloud.Region

	// NodeURL is where nodes reach the control plane, and NodeCA (PEM) the authority
	// that its certificate is from. Both go into the user-data of each instance.
	NodeURL string
	NodeCA  []byte

	// Members are the URLs of all members of the control plane, as nodes reach them; only
	// NodeURL if empty.
	Members []string

	// Prober asks instances whether they live, and From is where it asks from: firewalls let it
	// in. Without one, what nodes report is all that is known of them.
	Prober Prober
	From   []netip.Addr

	// Dial opens connections to machines, to ask the exporters of those whose pools have them; From is where that comes from
	// too. Without it what they use is not known.
	Dial Dial

	// Secrets seals the private keys of certificates. Without it there can be no certificates.
	Secrets *secrets.Keys

	// Authority issues the certificates that Weir gets by itself, and writes to Email; without one there are none. What it has
	// refused is tried again after Retry, then less and less often; 1 min if zero.
	Authority Authority
	Email     string
	Retry     time.Duration

	// Records are in the DNS of domains that belong to who operates the region: certificates of the first team are got by them
	// where they are for names of these domains. An authority is asked to look at one once it is Spread old; 20 s if zero.
	Records Records
	Spread  time.Duration

	Drain time.Duration // how long a server that leaves may finish its requests; 30 s if zero
	Poll  time.Duration // how often to look for what changed in the cloud by itself; 1 s if zero
	Look  time.Duration // how often to look at loads, and how large pools should be; scale.Every if zero
}

// Control is one member of the control plane.
type Control struct {
	Options
	nodes   *nodes
	figures *figures
	asks    *asks
	leads   atomic.Pointer[term] // nil while another member does
	tokens  tokenBook
	lists   mirrored
	numbers chan struct{} // full while numbers are taken; see numbered
}

// New returns a control plane; it does nothing by itself until Run.
func New(o Options) *Control {
	if o.Drain == 0 {
		o.Drain = 30 * time.Second
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	if o.Spread == 0 {
		o.Spread = 20 * time.Second
	}
	if o.Look == 0 {
		o.Look = scale.Every
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Store != nil {
		o.Store = o.Store.Witnessed(witness)
	}
	c := &Control{Options: o, nodes: newNodes(o.Drain + drainGrace), figures: newFigures(), asks: newAsks(), numbers: make(chan struct{}, 1)}
	c.nodes.count = c.figures.hear
	c.lists = newMirrored(c.Store)
	return c
}

// Region returns the name of the region that c runs.
func (c *Control) Region() string { return c.Options.Region }

// NodeURLs returns the URLs at which nodes reach the members of the control plane.
func (c *Control) NodeURLs() []string {
	if len(c.Members) > 0 {
		return c.Members
	}
	return []string{c.NodeURL}
}

// Serve serves nodes their configuration and has lists ready for users, until ctx ends.
func (c *Control) Serve(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.nodes.follow(ctx, c.Store, c.Log) })
	wg.Go(func() { c.lists.run(ctx, c.Log) })
	wg.Go(func() { c.meter(ctx) })
	wg.Go(func() { c.askExporters(ctx) })
}

// Run does what Serve does, and whenever c is the leader runs the controllers, until ctx ends, or the store does
// with an error.
func (c *Control) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	wg.Go(func() { c.Serve(ctx) })
	for {
		err := c.Store.Lead(ctx, seat, func(ctx context.Context, led *store.Store) error {
			t := newTerm(c, led)
			c.leads.Store(t)
			defer c.leads.Store(nil)
			t.run(ctx)
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		c.Log.Warn("leadership lost", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-c.Store.Done():
			return c.Store.Err()
		case <-time.After(time.Second): // not to spin while the store is away
		}
	}
}

// term is the time for which one member leads: the controllers, and the store
// through which only a leader can write.
type term struct {
	*Control
	db *store.Store

	machines, pools, addresses, loadBalancers, pairs, watches, rules, certificates *reconcile.Loop

	watching *watch

	ruled   sync.Map // the IDs of machines whose rows have rules
	waiting sync.Map // the IDs of certificates that wait for a load balancer to answer the authority
	leaving sync.Map // the IDs of machines that finish their requests before they go

	rests atomic.Pointer[time.Time] // until when the cloud wants to be asked nothing; nil if it has never said so
}

// rest has the cloud asked nothing for as long as it wanted, if err is of that.
func (t *term) rest(err error) {
	if wait := weir.WaitOf(err); wait > 0 && wait > t.resting() {
		until := time.Now().Add(wait)
		t.rests.Store(&until)
		t.Log.Warn("cloud wants to be left alone", "for", wait, "err", err)
	}
}

// resting returns for how long the cloud wants to be asked nothing.
func (t *term) resting() time.Duration {
	if until := t.rests.Load(); until != nil {
		return time.Until(*until)
	}
	return 0
}

// asking is do, which asks the cloud, for when that may be.
func (t *term) asking(do reconcile.Func) reconcile.Func {
	return func(ctx context.Context, id weir.ID) (time.Duration, error) {
		if wait := t.resting(); wait > 0 {
			return wait, nil
		}
		again, err := do(ctx, id)
		t.rest(err)
		return again, err
	}
}

func newTerm(c *Control, led *store.Store) *term {
	t := &term{Control: c, db: led, watching: newWatch()}
	loop := func(kind string, workers int, do reconcile.Func, failed func(context.Context, weir.ID, error) error) *reconcile.Loop {
		return reconcile.New(kind, func(ctx context.Context, id weir.ID) (time.Duration, error) {
			again, err := do(ctx, id)
			if err != nil && ctx.Err() == nil {
				// The row shows why it is not done yet; the loop logs and tries again.
				err = errors.Join(err, failed(ctx, id, err))
			}
			return again, err
		}, reconcile.Options{Workers: workers, Log: c.Log})
	}
	t.machines = loop("machine", 16, t.asking(t.reconcileMachine), t.machineFailed)
	t.pools = loop("pool", 2, t.reconcilePool, t.poolFailed)
	t.addresses = loop("address", 4, t.asking(t.reconcileAddress), t.addressFailed)
	t.loadBalancers = loop("lb", 16, t.reconcileLoadBalancer, t.loadBalancerFailed)
	t.pairs = loop("pair", 64, t.reconcilePair, t.loadBalancerFailed)
	t.certificates = reconcile.New("certificate", t.reconcileCertificate, reconcile.Options{Workers: 4, Log: c.Log})
	t.rules = reconcile.New("rules", t.reconcileRules, reconcile.Options{Log: c.Log})
	t.watches = reconcile.New("watch", t.reconcileWatch, reconcile.Options{Workers: 512, Log: c.Log})
	return t
}

func (t *term) loops() []*reconcile.Loop {
	return []*reconcile.Loop{t.machines, t.pools, t.addresses, t.loadBalancers, t.pairs, t.watches, t.rules, t.certificates}
}

// Work returns what the controllers do, nothing if this member does not lead.
func (c *Control) Work() (all []weir.Work) {
	t := c.leads.Load()
	if t == nil {
		return nil
	}
	for _, loop := range t.loops() {
		all = append(all, loop.Work())
	}
	return all
}

// run runs the controllers until ctx ends. Each is touched by changes of the rows
// that it reads, and by what changes in the cloud without us.
func (t *term) run(ctx context.Context) {
	t.nodes.heardBy(t.hear)
	defer t.nodes.heardBy(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, loop := range t.loops() {
		wg.Go(func() { loop.Run(ctx) })
	}
	wg.Go(func() {
		touch(ctx, t, machines.Table, func(id weir.ID, was, m weir.Machine, listed bool) {
			t.machines.Touch(id)
			t.noteRules(was, m)
			if m.Pool != "" {
				t.pools.Touch(m.Pool)
			}
			if !listed { // all load balancers are touched then anyway
				t.touchConcerned(ctx, was, m)
			}
		})
	})
	wg.Go(func() { touch(ctx, t, pools.Table, func(id weir.ID, _, _ weir.Pool, _ bool) { t.pools.Touch(id) }) })
	wg.Go(func() {
		touch(ctx, t, addresses.Table, func(id weir.ID, _, _ weir.Address, _ bool) {
			t.addresses.Touch(id)
			t.pairs.Touch(id)
			t.loadBalancers.Touch(id) // an address of a load balancer has its ID
		})
	})
	wg.Go(func() {
		touch(ctx, t, loadBalancers.Table, func(id weir.ID, was, lb weir.LoadBalancer, _ bool) {
			t.touchDropped(ctx, was, lb)
			if was.Status.Address != lb.Status.Address || was.Status.Addr6 != lb.Status.Addr6 {
				t.rules.Touch(allRules)
			}
			t.pairs.Touch(id)
			t.loadBalancers.Touch(id)
			t.touchWaiting()
		})
	})
	wg.Go(func() {
		touch(ctx, t, nodeStatuses, func(_ weir.ID, _, s weir.NodeStatus, _ bool) {
			t.touchWaiting()
			t.pairs.Touch(s.LoadBalancer)
			t.loadBalancers.Touch(s.LoadBalancer)
			t.leaving.Range(func(id, _ any) bool {
				if !s.Has(id.(weir.ID)) {
					t.machines.Touch(id.(weir.ID))
				}
				return true
			})
		})
	})
	wg.Go(func() {
		touch(ctx, t, cloudFirewalls.Table, func(weir.ID, weir.CloudFirewall, weir.CloudFirewall, bool) { t.rules.Touch(allRules) })
	})
	wg.Go(func() {
		touch(ctx, t, certificates.Table, func(id weir.ID, was, cert weir.Certificate, listed bool) {
			t.certificates.Touch(id)
			if !listed && (was.Fingerprint != cert.Fingerprint || waitFor(was) != waitFor(cert) || !sameAnswers(was, cert)) {
				t.touchBalancers(ctx, certificateList(id))
			}
		})
	})
	wg.Go(func() {
		touch(ctx, t, acmeAccounts, func(_ weir.ID, was, a acmeAccount, listed bool) {
			if !listed && was.Thumbprint != a.Thumbprint {
				t.touchBalancers(ctx, listOf(a.Team))
			}
		})
	})
	wg.Go(func() {
		touch(ctx, t, snippets, func(_ weir.ID, _, s operatorSnippets, listed bool) {
			if !listed {
				t.touchBalancers(ctx, listOf("", "name", s.Name))
			}
		})
	})
	wg.Go(func() {
		touch(ctx, t, leftRecords, func(id weir.ID, _, _ []weir.Record, _ bool) { t.certificates.Touch(id) })
	})
	wg.Go(func() { t.watchCloud(ctx) })
	wg.Go(func() { t.sweep(ctx) })
	wg.Go(func() { t.follow(ctx) })
}

// touch calls do for each row of a table, and again whenever one changes, until ctx
// ends, with the row as it was and as it is, and whether it is one of those that there are at first. For one that was
// deleted, that is as it was.
func touch[T any](ctx context.Context, t *term, table store.Table[T], do func(id weir.ID, was, is T, listed bool)) {
	last, listed := map[weir.ID]T{}, true
	for change, err := range table.Follow(ctx, t.db) {
		switch {
		case err != nil:
			if ctx.Err() == nil {
				t.Log.Warn("watch broken", "err", err)
			}
		case change.Synced:
			listed = false
		case change.Key == "":
		case change.Deleted:
			do(change.Key, last[change.Key], last[change.Key], listed)
			delete(last, change.Key)
		default:
			do(change.Key, last[change.Key], change.Row, listed)
			last[change.Key] = change.Row
		}
	}
}

// watchCloud looks at the cloud every Poll, or less often among very many machines, and touches what is not as its row shows
// it. It compares with the rows, not with what it saw before: what changed, was acted
// on and changed again between two looks would seem never to have changed.
func (t *term) watchCloud(ctx context.Context) {
	strangers, silent := map[weir.ID]bool{}, silence{}
	failed := false
	for ctx.Err() == nil {
		began := time.Now()
		err := errors.Join(t.touchMachines(ctx, strangers, silent), t.touchAddresses(ctx))
		if err != nil && ctx.Err() == nil && !failed {
			t.Log.Warn("cloud not seen", "err", err)
		}
		failed = err != nil
		t.rest(err)
		select {
		case <-ctx.Done():
		case <-time.After(max(t.Poll, 10*time.Since(began), t.resting())): // it may not be all that this member does
		}
	}
}

// touchMachines touches each machine that is not as its row shows it, and each that has
// no row. Only one whose ID we gave out is ours: it was deleted, and its creation came
// late. Any other is a stranger, which is logged once: the store is not the one that the
// cloud was run with.
func (t *term) touchMachines(ctx context.Context, strangers map[weir.ID]bool, silent silence) error {
	unknown, unseen, failed := map[weir.ID]cloud.Machine{}, map[string]error{}, error(nil)
	for _, region := range t.Regions() {
		seen, err := t.machinesIn(ctx, region)
		if err != nil {
			unseen[region], failed = err, errors.Join(failed, err)
		}
		for _, m := range seen {
			unknown[m.ID] = m
		}
	}
	if ctx.Err() == nil {
		failed = errors.Join(failed, t.noteOutages(ctx, silent, unseen))
	}
	// A page at a time, so that nobody who lists waits for all. A row that this misses, since others went
	// meanwhile, is seen the next time.
	for from, total := 0, 1; from < total; from += pageOf {
		err := t.lists.machines.view(ctx, func(p store.Pages[weir.Machine]) {
			total = p.Each(everyList, from, pageOf, func(row *weir.Machine) {
				m, ok := unknown[row.ID]
				delete(unknown, row.ID)
				gone := !ok && unseen[row.Region] == nil && row.Status.Phase != weir.MachineNew && row.Status.Err == "" && !row.Own
				if gone || ok && differs(*row, m) {
					t.machines.Touch(row.ID)
				}
			})
		})
		if err != nil {
			return err
		}
	}
	last, err := store.Last(ctx, t.db, "machines")
	if err != nil {
		return err
	}
	for id, m := range unknown {
		switch {
		case number(id) <= last:
			t.machines.Touch(id)
		case !strangers[id]:
			strangers[id] = true
			t.Log.Warn("machine unknown, left alone", "machine", id, "name", m.Name)
		}
	}
	return failed
}

// differs reports whether a machine is not as its row has it. One with an error is being
// tried again already, less and less often.
func differs(row weir.Machine, seen cloud.Machine) bool {
	return row.Status.Err == "" &&
		(row.Status != observed(seen) || seen.On == row.Off && !seen.HostDown || !reflect.DeepEqual(seen.Firewall, row.Wall()))
}

func (t *term) touchAddresses(ctx context.Context) error {
	all, err := t.Cloud.Addresses(ctx)
	for _, a := range all {
		t.addresses.Touch(a.Owner)
	}
	return err
}
