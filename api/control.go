package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"weir/weir"
)

// Control is what the API asks of the control plane. Package control keeps it.
//
// What a call changes, it changes in one transaction: all of it or nothing. It answers
// when that is stored; the work that follows is seen in statuses and actions. Lists
// are snapshots. Errors have a kind, and a sentence for the user:
// [weir.NotFound] for the thing that an ID in the call names, [weir.Invalid] for
// anything wrong with what it should become, a machine that it refers to and that is
// not there included.
//
// What belongs to a team is there for the callers of that team alone ([weir.CallerOf]): what
// another team has is in no list, and is weir.NotFound.
type Control interface {
	// Region returns the name of the region that load balancers and addresses are in, and Regions those of all that droplets can be
	// in, beginning with that.
	Region() string
	Regions() []string

	// Machines returns all machines, by ID; with those that are being deleted, and with
	// load balancers' instances.
	Machines(ctx context.Context) ([]weir.Machine, error)
	// Machine returns one machine.
	Machine(ctx context.Context, id weir.ID) (weir.Machine, error)
	// CreateMachines makes one machine of each name, all or none. The actions are those of
	// the machines at the same index, and are in progress until the machines are active.
	CreateMachines(ctx context.Context, names []string, t weir.Template) ([]weir.Machine, []weir.Action, error)
	// DeleteMachine has a machine drained and destroyed.
	DeleteMachine(ctx context.Context, id weir.ID) error
	// DeleteMachinesByTag has every machine with the tag drained and destroyed, load
	// balancers' instances excepted. If there is none, it does nothing.
	DeleteMachinesByTag(ctx context.Context, tag string) error
	// Act does to a machine what kind says, one of [weir.Action]'s types for a machine:
	// power_on, power_off, shutdown, reboot, power_cycle; enable_private_networking and
	// disable_backups, which are done at once.
	Act(ctx context.Context, machine weir.ID, kind string) (weir.Action, error)
	// RenameMachine gives a machine another name. The action is completed.
	RenameMachine(ctx context.Context, machine weir.ID, name string) (weir.Action, error)

	// SSHKeys returns all keys that users keep, by ID.
	SSHKeys(ctx context.Context) ([]weir.SSHKey, error)
	// AddSSHKey keeps a key, and gives it an ID. One that is kept already is a weir.Invalid.
	AddSSHKey(ctx context.Context, k weir.SSHKey) (weir.SSHKey, error)
	// RenameSSHKey gives a key another name.
	RenameSSHKey(ctx context.Context, id weir.ID, name string) (weir.SSHKey, error)
	// DeleteSSHKey forgets a key. Machines that have it keep it.
	DeleteSSHKey(ctx context.Context, id weir.ID) error

	// Action returns one action.
	Action(ctx context.Context, id weir.ID) (weir.Action, error)

	// LoadBalancers returns all load balancers, the oldest first.
	LoadBalancers(ctx context.Context) ([]weir.LoadBalancer, error)
	// LoadBalancer returns one load balancer.
	LoadBalancer(ctx context.Context, id weir.ID) (weir.LoadBalancer, error)
	// CreateLoadBalancer gives lb an ID and stores it. A name that is taken is a
	// weir.Invalid.
	CreateLoadBalancer(ctx context.Context, lb weir.LoadBalancer) (weir.LoadBalancer, error)
	// CheckLoadBalancer returns lb as CreateLoadBalancer would store it, or
	// UpdateLoadBalancer if it has an ID, or why neither would. It changes nothing.
	CheckLoadBalancer(ctx context.Context, lb weir.LoadBalancer) (weir.LoadBalancer, error)
	// UpdateLoadBalancer changes a load balancer. It runs change in the transaction, on the
	// stored row, so that no other update is lost; change may run several times, and its
	// error ends the transaction. A change that changes nothing does nothing, and neither
	// does one of the order of droplets, rules or tags alone.
	UpdateLoadBalancer(ctx context.Context, id weir.ID, change func(*weir.LoadBalancer) error) (weir.LoadBalancer, error)
	// DeleteLoadBalancer has a load balancer, its instances and its address taken down.
	DeleteLoadBalancer(ctx context.Context, id weir.ID) error

	// CreateTag makes a tag. If there is one of that name, it does nothing.
	CreateTag(ctx context.Context, name string) error
	// DeleteTag takes a tag off everything and forgets it. A load balancer whose servers go by
	// it has none then, until a machine has that tag again.
	DeleteTag(ctx context.Context, name string) error
	// Tag puts a tag, which must be there, on machines and load balancers.
	Tag(ctx context.Context, name string, machines, loadBalancers []weir.ID) error
	// Untag takes a tag, which must be there, off machines and load balancers.
	Untag(ctx context.Context, name string, machines, loadBalancers []weir.ID) error

	// Firewalls returns all firewalls of the caller's team, the oldest first, each with how far
	// it is at this moment.
	Firewalls(ctx context.Context) ([]weir.CloudFirewall, error)
	// Firewall returns one firewall, likewise.
	Firewall(ctx context.Context, id weir.ID) (weir.CloudFirewall, error)
	// CreateFirewall gives f an ID and stores it. A name that is taken is a weir.Conflict.
	CreateFirewall(ctx context.Context, f weir.CloudFirewall) (weir.CloudFirewall, error)
	// UpdateFirewall changes a firewall, as UpdateLoadBalancer does a load balancer.
	UpdateFirewall(ctx context.Context, id weir.ID, change func(*weir.CloudFirewall) error) (weir.CloudFirewall, error)
	// DeleteFirewall forgets a firewall. A machine that no other is for is open again.
	DeleteFirewall(ctx context.Context, id weir.ID) error

	// Addresses returns the reserved IPs that users have, by address.
	Addresses(ctx context.Context) ([]weir.Address, error)
	// Address returns one reserved IP.
	Address(ctx context.Context, addr netip.Addr) (weir.Address, error)
	// ReserveAddress reserves an IP of a family in a project, the default one if that is empty, and assigns it
	// to machine unless that is empty.
	ReserveAddress(ctx context.Context, family weir.Family, machine, project weir.ID) (weir.Address, error)
	// AssignAddress gives an IP to machine, from whoever has it; to nobody if machine is
	// empty.
	AssignAddress(ctx context.Context, addr netip.Addr, machine weir.ID) (weir.Action, error)
	// ReleaseAddress gives a reserved IP back.
	ReleaseAddress(ctx context.Context, addr netip.Addr) error

	// Certificates returns the caller's certificates, the oldest first.
	Certificates(ctx context.Context) ([]weir.Certificate, error)
	// Certificate returns one certificate.
	Certificate(ctx context.Context, id weir.ID) (weir.Certificate, error)
	// AddCertificate gives a certificate an ID and keeps it, with its private key (PEM), which
	// nobody who reads the store can read. A name that is taken is a weir.Invalid.
	AddCertificate(ctx context.Context, c weir.Certificate, key []byte) (weir.Certificate, error)
	// IssueCertificate has a certificate for names got from an authority, which is shown by challenge who has them, and
	// renewed. It is pending at first.
	IssueCertificate(ctx context.Context, name string, names []string, challenge weir.ChallengeType) (weir.Certificate, error)
	// DeleteCertificate forgets a certificate. One that a load balancer uses is a weir.Denied.
	DeleteCertificate(ctx context.Context, id weir.ID) error

	// Projects returns the caller's projects, the oldest first. One of them is the default. Where
	// an ID of a project is asked for below, an empty one is the default's.
	Projects(ctx context.Context) ([]weir.Project, error)
	// Project returns one project.
	Project(ctx context.Context, id weir.ID) (weir.Project, error)
	// CreateProject gives a project an ID and keeps it. A name that is taken is a weir.Conflict.
	CreateProject(ctx context.Context, p weir.Project) (weir.Project, error)
	// UpdateProject changes a project as UpdateLoadBalancer does a load balancer. One that becomes the
	// default takes over from the one that was.
	UpdateProject(ctx context.Context, id weir.ID, change func(*weir.Project) error) (weir.Project, error)
	// DeleteProject forgets a project. The default one is a weir.Denied, and one that has something
	// in it is a weir.Conflict.
	DeleteProject(ctx context.Context, id weir.ID) error
	// ProjectResources returns what is in a project: machines, load balancers, reserved IPs.
	ProjectResources(ctx context.Context, id weir.ID) ([]weir.Resource, error)
	// AssignResources puts things in a project, from whichever they were in, and returns what
	// became of each.
	AssignResources(ctx context.Context, id weir.ID, urns []weir.URN) ([]weir.Resource, error)

	// Network returns what the caller's team says about the region's private network.
	Network(ctx context.Context) (weir.Network, error)
	// UpdateNetwork changes that, as UpdateLoadBalancer does a load balancer.
	UpdateNetwork(ctx context.Context, change func(*weir.Network) error) (weir.Network, error)

	// DestroyMachine is DeleteMachine, and gives reserved IPs of the machine back in the same
	// transaction.
	DestroyMachine(ctx context.Context, id weir.ID, with []netip.Addr) error
	// Destruction returns how far that is.
	Destruction(ctx context.Context, id weir.ID) (weir.Destruction, error)

	// Pools returns all pools, by name.
	Pools(ctx context.Context) ([]weir.Pool, error)
	// Apply makes pool and lb, found by their names, what they are here, or creates them, and
	// returns what that changes, a sentence each. With dry it only says so. A pool with
	// KeepCount stays as large as it is; nil stands for none.
	Apply(ctx context.Context, pool *weir.Pool, lb weir.LoadBalancer, dry bool) (changes []string, err error)
	// Grow makes the pool of that name n machines larger and returns the new machines.
	Grow(ctx context.Context, pool string, n int) ([]weir.Machine, error)
	// DeletePool has the pool of that name deleted, with its machines.
	DeletePool(ctx context.Context, name string) error

	// PoolReport returns the pool of that name or ID, with what it bears and what was decided of its size.
	PoolReport(ctx context.Context, name string) (weir.PoolReport, error)
	// PoolTold returns how the size of the pool of that name or ID has changed, the newest first; nothing of
	// one that is no autoscale pool and does not follow its load.
	PoolTold(ctx context.Context, name string) ([]weir.Scaling, error)
	// PoolLoads returns what pools bear at the moment, as far as this member knows, by ID.
	PoolLoads(ctx context.Context, all []weir.Pool) (map[weir.ID]weir.PoolLoad, error)

	// AutoscalePools returns all autoscale pools, the oldest first. One that is being deleted is
	// none any more.
	AutoscalePools(ctx context.Context) ([]weir.Pool, error)
	// AutoscalePool returns one autoscale pool.
	AutoscalePool(ctx context.Context, id weir.ID) (weir.Pool, error)
	// CreateAutoscalePool gives p an ID and stores it, with its machines. Its Count is that of its
	// Scale if it has one. A name that is taken is a weir.Invalid.
	CreateAutoscalePool(ctx context.Context, p weir.Pool) (weir.Pool, error)
	// UpdateAutoscalePool makes an autoscale pool what p desires, and its size what it must be then.
	// Machines that were made from another template are replaced. If it is so already, it does nothing.
	UpdateAutoscalePool(ctx context.Context, id weir.ID, p weir.Pool) (weir.Pool, error)
	// DeleteAutoscalePool deletes an autoscale pool, and its machines if machines is true; otherwise
	// they stay.
	DeleteAutoscalePool(ctx context.Context, id weir.ID, machines bool) error
	// PoolMembers returns the machines of an autoscale pool, by ID.
	PoolMembers(ctx context.Context, id weir.ID) ([]weir.Member, error)
	// PoolHistory returns how an autoscale pool has changed, the newest first; of what was long ago
	// nothing is remembered.
	PoolHistory(ctx context.Context, id weir.ID) ([]weir.Scaling, error)

	// Nodes returns the machines of one's own, by name.
	Nodes(ctx context.Context) ([]weir.NodeOverview, error)
	// AddNode lets a machine of one's own join under a name, by the token that is returned. One
	// that has not joined yet gets another token; a name of one that has is weir.Conflict.
	AddNode(ctx context.Context, name string) (weir.Machine, string, error)
	// RemoveNode forgets the machine of one's own of that name, which is weir.Conflict while
	// it is the active instance of a load balancer.
	RemoveNode(ctx context.Context, name string) error
	// NodeURLs returns the URLs at which nodes reach the members of the control plane.
	NodeURLs() []string

	// Generate returns the HAProxy configuration of a load balancer as its active instance
	// has it, or, with live false, as it would be.
	Generate(ctx context.Context, lb weir.ID) (config string, live bool, err error)
	// Reload has every instance of a load balancer load its configuration anew, and returns
	// when all of them say that they have, or ctx ends.
	Reload(ctx context.Context, lb weir.ID) error
	// Failover hands a load balancer over to another of its instances, on purpose, and returns
	// when the address has moved. An empty to is the best one that stands by. It is a
	// weir.Conflict if there is none that could take over, or if to cannot. If ctx ends first, it is
	// weir.Unavailable and the address may still move.
	Failover(ctx context.Context, lb, to weir.ID) (weir.Failover, error)
	// Split has groups get percentages of the requests that routes send to a group of a load balancer, or with "" of
	// those that no route takes, instead of what had a share of them.
	Split(ctx context.Context, lb weir.ID, group string, split weir.Split) (weir.LoadBalancer, error)
	// Maintain changes the maintenance of a load balancer, as UpdateLoadBalancer does all of it. It is none, and off,
	// where there was none.
	Maintain(ctx context.Context, lb weir.ID, change func(*weir.Maintenance)) (weir.LoadBalancer, error)
	// DrainTarget keeps a target of a load balancer from getting requests until UndrainTarget. It may finish those that
	// it has for a time: nil is the load balancer's. alone reports that nothing else serves some of the requests that
	// it would get. A machine that is no target is a weir.Invalid.
	DrainTarget(ctx context.Context, lb, machine weir.ID, finish *time.Duration) (is weir.LoadBalancer, alone bool, err error)
	// UndrainTarget lets a target get requests again. If it does already, it does nothing.
	UndrainTarget(ctx context.Context, lb, machine weir.ID) (weir.LoadBalancer, error)
	// DrainMachine keeps a machine, a load balancer's instance included, from serving, or lets
	// it serve again. If it is so already, it does nothing.
	DrainMachine(ctx context.Context, machine weir.ID, drained bool) error
	// Events returns what happened after the event with that ID, at most limit of the newest,
	// the oldest of them first; of one load balancer unless lb is empty. A limit of 0 is none.
	Events(ctx context.Context, lb, after weir.ID, limit int) ([]weir.Event, error)
	// AccessLog gives tell what q asks of the access log of a load balancer, in lines, the last ones of all instances in
	// order of time, and if q says so those that come; now and then an empty line. It ends when ctx does, tell fails, or
	// there is no access log any more. Where there was none it is weir.Invalid.
	AccessLog(ctx context.Context, lb weir.ID, q weir.LogQuery, tell func(lines []byte) error) error

	// LoadBalancerFigure returns a figure of a load balancer after start and until end, one series for
	// each class of responses or each server where the figure is of those. A figure that is not
	// known has none; one that there is not is weir.NotFound.
	LoadBalancerFigure(ctx context.Context, lb weir.ID, figure weir.Figure, start, end time.Time) ([]weir.Series, error)
	// MachineFigure returns a figure of a machine, likewise.
	MachineFigure(ctx context.Context, machine weir.ID, figure weir.Figure, start, end time.Time) ([]weir.Series, error)

	// Status returns the region at a glance: all of it to who operates it, and to others what
	// their team has.
	Status(ctx context.Context) (weir.RegionStatus, error)

	// Tokens returns all tokens of all teams, the oldest first, with those that have expired.
	Tokens(ctx context.Context) ([]weir.Token, error)
	// CreateToken makes a token, and returns the secret that its bearer shows. A name that is
	// taken is a weir.Conflict.
	CreateToken(ctx context.Context, t weir.Token) (made weir.Token, secret string, err error)
	// RevokeToken makes a token worthless, as soon as it returns.
	RevokeToken(ctx context.Context, id weir.ID) error

	// Of what follows each call returns a page: at most n of what is meant, those after the first from, or
	// from the end if from is below 0, and how many there are in all. It costs the same however many that is.

	// MachinePage returns the machines that users have made, by ID.
	MachinePage(ctx context.Context, f weir.Filter, from, n int) ([]weir.Machine, int, error)
	// LoadBalancerPage returns load balancers, the oldest first.
	LoadBalancerPage(ctx context.Context, f weir.Filter, from, n int) ([]weir.LoadBalancer, int, error)
	// ActionPage returns actions, the newest first.
	ActionPage(ctx context.Context, from, n int) ([]weir.Action, int, error)
	// ActionPageOf returns the actions on one thing, the newest first.
	ActionPageOf(ctx context.Context, kind weir.ResourceKind, on weir.ID, from, n int) ([]weir.Action, int, error)
	// TagPage returns tags, sorted, with how many have them. A tag is there once it was created or put on
	// something, until it is deleted.
	TagPage(ctx context.Context, from, n int) ([]weir.Tag, int, error)
	// TagNamed returns one tag, likewise.
	TagNamed(ctx context.Context, name string) (weir.Tag, error)

	// BeginAudit gives a its ID and its time. What is changed in a context that has it by
	// weir.WithAudit is changed together with a record of it, that has no result yet.
	BeginAudit(a weir.Audit) weir.Audit
	// EndAudit records a with its result.
	EndAudit(ctx context.Context, a weir.Audit) error
	// Costs returns all that costs money: machines and addresses that the cloud has or is to make.
	Costs(ctx context.Context) (weir.Costs, error)

	// Audits returns what f means of what was recorded before the request with that ID (of
	// all for ""), at most limit of the newest, the newest first.
	Audits(ctx context.Context, f weir.AuditFilter, before weir.ID, limit int) ([]weir.Audit, error)
}

// Metrics are what a program reads that watches Weir. Package metrics has them.
type Metrics interface {
	http.Handler
	// Answered is told of each answer: on which route, and how long that took.
	Answered(route string, status int, took time.Duration)
}

// Limiter says how often a caller may call. Package edge has one.
type Limiter interface {
	// Take counts a request of c, the bearer of token, unless it would be one too many: then
	// the allowance has a Wait. here says that it was made on this machine.
	Take(ctx context.Context, token string, c weir.Caller, here bool) (weir.Allowance, error)
	// Unused returns the allowance of somebody whose requests are not counted.
	Unused() weir.Allowance
}

// Authorizer says who may call. Package edge has one.
type Authorizer interface {
	// Authorize returns who the bearer of token is, and a weir.Denied if nobody who may call. A
	// weir.Unavailable says that it cannot be told at this moment.
	Authorize(ctx context.Context, token string) (weir.Caller, error)
	// Lacks returns the scope that c would need for a route, such as "GET /v2/droplets/{id}",
	// and lacks, or "" if c may.
	Lacks(c weir.Caller, route string) weir.Scope
}
