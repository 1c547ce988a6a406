package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"weir/store"
	"weir/weir"
)

// enrolment is the right of one machine to become a node. The token itself is in the
// machine's user-data alone.
type enrolment struct {
	Token weir.ID `json:"token"` // its hash, and the row's key
	Node  weir.ID `json:"node"`
	Key   string  `json:"key,omitempty"` // hash of the public key that used the token first
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// newEnrolment returns a token with which machine can become a node.
func newEnrolment(tx *store.Tx, machine weir.ID) (token string) {
	token = rand.Text()
	putEnrolment(tx, machine, token)
	return token
}

// putEnrolment lets machine become a node by token.
func putEnrolment(tx *store.Tx, machine weir.ID, token string) {
	key := weir.ID(hash([]byte(token)))
	enrolments.Put(tx, key, enrolment{Token: key, Node: machine})
}

// newKey returns a key for the heartbeats of a load balancer's instances.
func newKey() []byte {
	key := make([]byte, 32)
	rand.Read(key) // it never fails
	return key
}

// Enrol lets the holder of token become the node that it was made for, and returns
// that node's ID. The first public key that uses a token owns it: the same key may ask
// again, since the first answer may have been lost; any other is weir.Denied.
func (c *Control) Enrol(ctx context.Context, token string, publicKey []byte) (node weir.ID, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		key := weir.ID(hash([]byte(token)))
		e, err := enrolments.Get(ctx, tx, key)
		if errors.Is(err, weir.NotFound) {
			return weir.Errorf(weir.Denied, "enrol node: the token is unknown, or its machine is gone")
		}
		if err != nil {
			return err
		}
		if e.Key != "" && e.Key != hash(publicKey) {
			return weir.Errorf(weir.Denied, "enrol node %s: its token is used already, by another key", e.Node)
		}
		e.Key = hash(publicKey)
		node = e.Node
		enrolments.Put(tx, key, e)
		return nil
	})
	return node, err
}

// enrolled reports whether a machine has become a node.
func enrolled(ctx context.Context, tx *store.Tx, machine weir.ID) (bool, error) {
	all, err := enrolments.All(ctx, tx)
	return slices.ContainsFunc(all, func(e enrolment) bool { return e.Node == machine && e.Key != "" }), err
}

// nodes is what this member holds in memory for the nodes: every NodeConfig as it is
// in the store, and what each node last reported here.
type nodes struct {
	mu       sync.Mutex
	configs  map[weir.ID]weir.NodeConfig
	waits    map[weir.ID]chan struct{} // closed and forgotten when a node's configuration changes
	reported map[weir.ID]weir.NodeStatus
	count    func(*weir.NodeStatus, *weir.NodeConfig) // told of each report of a node that has a configuration
	hear     func(was, is weir.NodeStatus)            // told of each report while this member leads; nil otherwise

	// Who may send requests to a server.
	serving map[weir.ID][]weir.ID // by server, the nodes whose configuration has it
	dropped []drop                // those that had one until lately, the oldest first
	kept    time.Duration         // how long that is: for as long as any node may let a server finish its requests
	since   time.Time             // since when drops are noted; zero before all configurations are here
	at      int64                 // the revision up to which they are
	moved   chan struct{}         // closed, and replaced, when at rises
}

// drop is that a node's configuration has no more a server that it had.
type drop struct {
	server, node weir.ID
	at           time.Time
}

func newNodes(kept time.Duration) *nodes {
	return &nodes{configs: map[weir.ID]weir.NodeConfig{}, waits: map[weir.ID]chan struct{}{}, reported: map[weir.ID]weir.NodeStatus{},
		serving: map[weir.ID][]weir.ID{}, kept: kept, moved: make(chan struct{})}
}

// follow keeps configs as they are in the store until ctx ends.
func (n *nodes) follow(ctx context.Context, db *store.Store, log *slog.Logger) {
	for change, err := range nodeConfigs.Follow(ctx, db) {
		if err != nil && ctx.Err() == nil {
			log.Warn("watch broken", "err", err) // Follow itself lists anew
		}
		n.mu.Lock()
		switch {
		case err != nil || change.Key == "" && !change.Synced:
		case change.Synced:
			n.since = time.Now()
		case change.Deleted:
			n.noteServers(change.Key, n.configs[change.Key], weir.NodeConfig{})
			delete(n.configs, change.Key)
			delete(n.reported, change.Key)
		default:
			n.noteServers(change.Key, n.configs[change.Key], change.Row)
			n.configs[change.Key] = change.Row
		}
		if change.Whole {
			n.at = change.Revision
			close(n.moved)
			n.moved = make(chan struct{})
		}
		if wait := n.waits[change.Key]; wait != nil {
			close(wait)
			delete(n.waits, change.Key)
		}
		n.mu.Unlock()
	}
}

// noteServers notes which servers a node's configuration has now, and has no more.
func (n *nodes) noteServers(node weir.ID, was, is weir.NodeConfig) {
	had, has := serversOf(was), serversOf(is)
	now := time.Now()
	if longest := max(finishing(was), finishing(is)); longest > 0 {
		n.kept = max(n.kept, longest+drainGrace)
	}
	for id := range had {
		if has[id] {
			continue
		}
		if n.serving[id] = slices.DeleteFunc(n.serving[id], func(other weir.ID) bool { return other == node }); len(n.serving[id]) == 0 {
			delete(n.serving, id)
		}
		n.dropped = append(n.dropped, drop{id, node, now})
	}
	for id := range has {
		if !had[id] {
			n.serving[id] = append(n.serving[id], node)
		}
	}
	old := 0
	for old < len(n.dropped) && now.Sub(n.dropped[old].at) > n.kept {
		old++
	}
	n.dropped = slices.Delete(n.dropped, 0, old)
}

// finishing returns how long a node lets servers finish their requests, at most.
func finishing(c weir.NodeConfig) time.Duration {
	longest := c.Proxy.Drain
	for _, d := range c.Proxy.Drains {
		longest = max(longest, d)
	}
	return longest
}

func serversOf(c weir.NodeConfig) map[weir.ID]bool {
	all := map[weir.ID]bool{}
	for _, b := range c.Proxy.Backends {
		for _, s := range b.Servers {
			all[s.ID] = true
		}
	}
	return all
}

// mayServe returns the nodes whose configuration has a server, or had it until lately, as of a moment after the call.
// Not all says that this member has not known for long enough.
func (n *nodes) mayServe(ctx context.Context, db *store.Store, server weir.ID) (ids []weir.ID, all bool, err error) {
	last, err := db.Touched(ctx, "node_configs")
	if err != nil {
		return nil, false, err
	}
	for {
		n.mu.Lock()
		moved := n.moved
		if n.since.IsZero() || time.Since(n.since) <= n.kept {
			n.mu.Unlock()
			return nil, false, nil
		}
		if n.at >= last {
			break
		}
		n.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	defer n.mu.Unlock()
	ids = slices.Clone(n.serving[server])
	for _, d := range n.dropped {
		if d.server == server && !slices.Contains(ids, d.node) {
			ids = append(ids, d.node)
		}
	}
	return ids, true, nil
}

// NodeConfig returns the configuration of node, with the private keys that it needs, as soon as its revision is not after,
// or ctx's error.
func (c *Control) NodeConfig(ctx context.Context, node weir.ID, after int64) (weir.NodeConfig, error) {
	for {
		config, ok, changed := c.nodes.config(node)
		if ok && config.Revision != after {
			return c.withKeys(ctx, config)
		}
		select {
		case <-ctx.Done():
			return weir.NodeConfig{}, ctx.Err()
		case <-changed:
		}
	}
}

// config returns the configuration of node, if it has one, and what is closed when that changes: a change
// wakes those alone whom it concerns.
func (n *nodes) config(node weir.ID) (config weir.NodeConfig, ok bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	config, ok = n.configs[node]
	wait := n.waits[node]
	if wait == nil {
		wait = make(chan struct{})
		n.waits[node] = wait
	}
	return config, ok, wait
}

// Report takes what a node says of itself. Only what is of consequence is stored;
// counters and the time are kept in memory, so that a heartbeat writes nothing. A leader hears it
// before it is stored: it may say that another instance has fallen silent.
//
// It returns the revision of the node's NodeConfig at the moment of the commit, 0 if it has none.
func (c *Control) Report(ctx context.Context, s weir.NodeStatus) (revision int64, err error) {
	s.Seen = time.Now().UTC()
	stored := s
	stored.Seen = time.Time{}
	stored.Servers = make([]weir.ServerStatus, len(s.Servers))
	stored.HAProxy.Counts = nil
	for i, server := range s.Servers {
		stored.Servers[i] = weir.ServerStatus{Backend: server.Backend, ID: server.ID, State: server.State, Why: server.Why}
	}
	c.nodes.heard(&s)
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Get(ctx, tx, s.Node)
		if errors.Is(err, weir.NotFound) {
			return weir.Errorf(weir.Denied, "node %s: there is no such machine any more", s.Node)
		}
		if err != nil {
			return err
		}
		stored.LoadBalancer = m.LoadBalancer
		was, err := nodeStatuses.Get(ctx, tx, s.Node)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		if !reflect.DeepEqual(was, stored) {
			nodeStatuses.Put(tx, s.Node, stored)
		}
		config, err := nodeConfigs.Get(ctx, tx, s.Node)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		revision = config.Revision
		return observeHost(ctx, tx, m, s.Host)
	})
	if err == nil {
		c.nodes.remember(s)
	}
	return revision, err
}

// heard remembers the report of a node that has a configuration, and tells the leader, if that
// is this member.
func (n *nodes) heard(s *weir.NodeStatus) {
	n.mu.Lock()
	config, ok := n.configs[s.Node]
	s.LoadBalancer = config.Proxy.LoadBalancer
	was, hear := n.reported[s.Node], n.hear
	if ok {
		n.reported[s.Node] = *s
	}
	n.mu.Unlock()
	if ok && hear != nil {
		hear(was, *s)
	}
	if ok {
		n.count(s, &config)
	}
}

// remember remembers the report of a node that was found to be one.
func (n *nodes) remember(s weir.NodeStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reported[s.Node].Seen.Before(s.Seen) {
		n.reported[s.Node] = s
	}
}

// heardBy has hear told of each report from now on; nil ends it.
func (n *nodes) heardBy(hear func(was, is weir.NodeStatus)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hear = hear
}

// userDataOf returns the user-data with which a machine becomes a load balancer's
// instance. It needs Debian's haproxy, which it installs, and the weir binary: where a cloud's machines have none, the control plane has it.
func (c *Control) userDataOf(token string) string {
	return fmt.Sprintf(nodeUserData, token, c.NodeCA, c.NodeURL+weir.ProgramPath, c.NodeURL)
}

const nodeUserData = `#!/bin/sh
# Makes this machine an instance of a Weir load balancer.
set -e
export DEBIAN_FRONTEND=noninteractive
command -v haproxy >/dev/null && command -v curl >/dev/null || {
	apt-get -y update
	apt-get -y install haproxy curl
	systemctl disable --now haproxy || true # the agent runs its own
}
umask 077
mkdir -p /etc/weir
echo '%s' >/etc/weir/token
cat >/etc/weir/ca.pem <<'END'
%sEND
[ -x /usr/local/bin/weir ] || {
	curl --silent --show-error --fail --cacert /etc/weir/ca.pem --retry 20 --retry-delay 3 --retry-connrefused --output /usr/local/bin/weir.new %s
	chmod 755 /usr/local/bin/weir.new
	mv /usr/local/bin/weir.new /usr/local/bin/weir
}
cat >/etc/init.d/weir-node <<'END'
#!/bin/sh
### BEGIN INIT INFO
# Provides:          weir-node
# Required-Start:    $network $local_fs
# Required-Stop:     $network $local_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Weir's agent, which keeps HAProxy as the control plane says
### END INIT INFO
pid=/run/weir-node.pid
export log=/var/log/weir-node.log
case "$1" in
start)
	start-stop-daemon --start --background --make-pidfile --pidfile $pid --startas /bin/sh -- -c '
		while :; do
			[ ! -e $log ] || mv -f $log $log.1
			/usr/local/bin/weir node --join %s --token /etc/weir/token --ca /etc/weir/ca.pem >$log 2>&1
			sleep 1
		done'
	;;
stop)
	start-stop-daemon --stop --oknodo --pidfile $pid --remove-pidfile
	;;
restart)
	$0 stop
	$0 start
	;;
esac
END
chmod 755 /etc/init.d/weir-node
update-rc.d weir-node defaults
service weir-node start
`
