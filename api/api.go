// Package api is Weir's door for programs: DigitalOcean's REST API v2, so that
// DigitalOcean's own clients (godo, doctl, Terraform's provider …) work here by a
// changed URL alone, and below /v2/weir/ what only Weir has.
//
// [New] returns the handler. It decodes requests into the domain's types, refuses what
// cannot be with a sentence that names the field, the value and the rule, asks a
// [Control] for the rest, and writes the answer in DigitalOcean's words: lists with
// links and meta, errors as {id, message, request_id}, no field null that clients read.
// It is liberal in what it takes (unknown fields, but for those of weir, and nulls are ignored, a field that
// has DigitalOcean's default value is accepted although Weir has no such thing) and
// strict in what it gives: what an answer says is what Weir does, so a field that Weir
// cannot honour is refused and never forgotten.
//
// A token gives the scopes that it was made for, and one that lacks what a route needs gets
// 403. [Authorizer] says which scope that is, of a new route too.
//
// All of it is described in an OpenAPI document, which GET /openapi.yaml answers with: see [OpenAPI].
//
// Every answer has an ID, and says how often its caller may call. Every request for a change
// is in the audit log, what is refused included; of those without a known token, and of those who ask too
// often, as many as are no flood.
//
// DigitalOcean's wire types are in wire.go, the files whose names begin with wire_, and beside the handlers of
// the smaller resources; those of /v2/weir/ are exported, in weirwire.go, for the CLI to use with godo's NewRequest and Do.
//
// The droplets of this API are the machines that users have: the instances of load
// balancers, and the addresses of those, are seen below /v2/weir/ only.
package api

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/time/rate"
)

// Options are what an API is made of.
type Options struct {
	Control Control
	Users   Authorizer
	Limits  Limiter      // how often they may call; as often as they like if nil
	Log     *slog.Logger // of what is our fault; none if nil

	// Faults breaks machines on purpose. Nil: this cloud cannot.
	Faults Faults

	// Page answers GET /. Callers on this machine need no token for it. Nil: there is none.
	Page http.Handler

	// Docs answers GET /docs, with what GET /openapi.yaml says for people to read. Neither needs a
	// token. Nil: there is no such page.
	Docs http.Handler

	// Metrics answers GET /metrics, and is told of each answer. Callers on this machine need no token
	// for it; others need that of an operator, as it tells of all teams. Nil: there is none.
	Metrics Metrics

	// Public and Private are the region's networks, from which droplets are told their netmasks
	// and gateways (the first address). A zero prefix leaves them out.
	Public, Private netip.Prefix

	// Reserved is the network that reserved IPs are from. A zero prefix says that there are none.
	Reserved netip.Prefix

	// Public6 is the public network of IPv6. The private one is of IPv4 alone.
	Public6 netip.Prefix

	// Further are the regions beside it that droplets can be in, by name.
	Further map[string]Further

	// OneHost says that all droplets run on one host.
	OneHost bool
}

// Further is what a further region has, as [Options] has it of the first.
type Further struct {
	Public, Private, Public6 netip.Prefix
	Faults                   Faults
}

// New returns the API.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &api{Options: o, catalog: newCatalog(o.Control.Regions()), mux: http.NewServeMux(), autoscale: http.NewServeMux(), strangers: newSparse(), hasty: newSparse()}
	for pattern, h := range a.routes() {
		_, path, _ := strings.Cut(pattern, " ")
		a.muxOf(path).Handle(pattern, a.told(pattern, a.answer(h)))
	}
	if o.Metrics != nil {
		a.mux.Handle("GET /metrics", a.page(o.Metrics))
	}
	a.mux.HandleFunc("GET /openapi.yaml", describe)
	if o.Docs != nil {
		a.mux.Handle("GET /docs", o.Docs)
	}
	if o.Page != nil {
		a.mux.Handle("GET /{$}", a.page(o.Page))
	}
	return a.guard(http.HandlerFunc(a.route))
}

type api struct {
	Options
	catalog   catalog
	mux       *http.ServeMux
	autoscale *http.ServeMux // see muxOf

	// How many are recorded of those who ask for changes without a known token, and of
	// those who ask too often.
	strangers, hasty *rate.Limiter
}

// handler answers one request, by [reply]; what it returns is answered as statusOf says.
type handler func(w http.ResponseWriter, r *http.Request) error

// routes returns all that is served below /v2.
func (a *api) routes() map[string]handler {
	return map[string]handler{
		"GET /v2/account":              a.account,
		"GET /v2/account/keys":         a.listKeys,
		"POST /v2/account/keys":        a.createKey,
		"GET /v2/account/keys/{id}":    a.getKey,
		"PUT /v2/account/keys/{id}":    a.renameKey,
		"DELETE /v2/account/keys/{id}": a.deleteKey,

		"GET /v2/regions":     a.regions,
		"GET /v2/sizes":       a.sizes,
		"GET /v2/images":      a.images,
		"GET /v2/images/{id}": a.image,

		"GET /v2/droplets":                       a.listDroplets,
		"POST /v2/droplets":                      a.createDroplets,
		"DELETE /v2/droplets":                    a.deleteDroplets,
		"GET /v2/droplets/{id}":                  a.getDroplet,
		"DELETE /v2/droplets/{id}":               a.deleteDroplet,
		"GET /v2/droplets/{id}/actions":          a.listDropletActions,
		"POST /v2/droplets/{id}/actions":         a.actOnDroplet,
		"GET /v2/droplets/{id}/actions/{action}": a.getDropletAction,
		"POST /v2/droplets/actions":              a.actOnDroplets,

		"GET /v2/actions":      a.listActions,
		"GET /v2/actions/{id}": a.getAction,

		"GET /v2/load_balancers":                          a.listLoadBalancers,
		"POST /v2/load_balancers":                         a.createLoadBalancer,
		"GET /v2/load_balancers/{id}":                     a.getLoadBalancer,
		"PUT /v2/load_balancers/{id}":                     a.replaceLoadBalancer,
		"DELETE /v2/load_balancers/{id}":                  a.deleteLoadBalancer,
		"POST /v2/load_balancers/{id}/droplets":           a.addDroplets,
		"DELETE /v2/load_balancers/{id}/droplets":         a.removeDroplets,
		"POST /v2/load_balancers/{id}/forwarding_rules":   a.addRules,
		"DELETE /v2/load_balancers/{id}/forwarding_rules": a.removeRules,
		"DELETE /v2/load_balancers/{id}/cache":            a.purgeCache,

		"GET /v2/tags":                     a.listTags,
		"POST /v2/tags":                    a.createTag,
		"GET /v2/tags/{name}":              a.getTag,
		"DELETE /v2/tags/{name}":           a.deleteTag,
		"POST /v2/tags/{name}/resources":   a.tagResources,
		"DELETE /v2/tags/{name}/resources": a.untagResources,

		"GET /v2/reserved_ips":                       a.listAddresses(reservedIPs),
		"POST /v2/reserved_ips":                      a.reserveAddress(reservedIPs),
		"GET /v2/reserved_ips/{ip}":                  a.getAddress(reservedIPs),
		"DELETE /v2/reserved_ips/{ip}":               a.releaseAddress(reservedIPs),
		"GET /v2/reserved_ips/{ip}/actions":          a.listAddressActions(reservedIPs),
		"POST /v2/reserved_ips/{ip}/actions":         a.actOnAddress(reservedIPs),
		"GET /v2/reserved_ips/{ip}/actions/{action}": a.getAddressAction(reservedIPs),

		"GET /v2/reserved_ipv6":               a.listAddresses(reservedIPv6),
		"POST /v2/reserved_ipv6":              a.reserveIPv6,
		"GET /v2/reserved_ipv6/{ip}":          a.getAddress(reservedIPv6),
		"DELETE /v2/reserved_ipv6/{ip}":       a.releaseAddress(reservedIPv6),
		"POST /v2/reserved_ipv6/{ip}/actions": a.actOnAddress(reservedIPv6),

		"GET /v2/floating_ips":                       a.listAddresses(floatingIPs),
		"POST /v2/floating_ips":                      a.reserveAddress(floatingIPs),
		"GET /v2/floating_ips/{ip}":                  a.getAddress(floatingIPs),
		"DELETE /v2/floating_ips/{ip}":               a.releaseAddress(floatingIPs),
		"GET /v2/floating_ips/{ip}/actions":          a.listAddressActions(floatingIPs),
		"POST /v2/floating_ips/{ip}/actions":         a.actOnAddress(floatingIPs),
		"GET /v2/floating_ips/{ip}/actions/{action}": a.getAddressAction(floatingIPs),

		"GET /v2/certificates":         a.listCertificates,
		"POST /v2/certificates":        a.createCertificate,
		"GET /v2/certificates/{id}":    a.getCertificate,
		"DELETE /v2/certificates/{id}": a.deleteCertificate,

		"GET /v2/projects":                 a.listProjects,
		"POST /v2/projects":                a.createProject,
		"GET /v2/projects/{id}":            a.getProject,
		"PUT /v2/projects/{id}":            a.changeProject(true),
		"PATCH /v2/projects/{id}":          a.changeProject(false),
		"DELETE /v2/projects/{id}":         a.deleteProject,
		"GET /v2/projects/{id}/resources":  a.listProjectResources,
		"POST /v2/projects/{id}/resources": a.assignResources,

		"GET /v2/vpcs":                a.listVPCs,
		"POST /v2/vpcs":               a.createVPC,
		"GET /v2/vpcs/{id}":           a.getVPC,
		"PUT /v2/vpcs/{id}":           a.changeVPC(true),
		"PATCH /v2/vpcs/{id}":         a.changeVPC(false),
		"DELETE /v2/vpcs/{id}":        a.deleteVPC,
		"GET /v2/vpcs/{id}/members":   a.listVPCMembers,
		"GET /v2/vpcs/{id}/peerings":  a.listVPCPeerings,
		"POST /v2/vpcs/{id}/peerings": a.createVPCPeering,
		"GET /v2/vpc_peerings":        a.none("vpc_peerings"),
		"POST /v2/vpc_peerings":       a.createVPCPeering,

		"GET /v2/droplets/{id}/destroy_with_associated_resources":              a.listAssociated,
		"DELETE /v2/droplets/{id}/destroy_with_associated_resources/selective": a.destroySelected,
		"DELETE /v2/droplets/{id}/destroy_with_associated_resources/dangerous": a.destroyAll,
		"GET /v2/droplets/{id}/destroy_with_associated_resources/status":       a.getDestruction,
		"POST /v2/droplets/{id}/destroy_with_associated_resources/retry":       a.retryDestruction,

		"GET /v2/droplets/{id}/neighbors":             a.neighbors,
		"GET /v2/reports/droplet_neighbors_ids":       a.allNeighbors,
		"GET /v2/droplets/{id}/kernels":               a.noneOf("kernels"),
		"GET /v2/droplets/{id}/snapshots":             a.noneOf("snapshots"),
		"GET /v2/droplets/{id}/backups":               a.noneOf("backups"),
		"GET /v2/droplets/{id}/backups/policy":        a.backupPolicy,
		"GET /v2/droplets/backups/policies":           a.backupPolicies,
		"GET /v2/droplets/backups/supported_policies": a.supportedBackupPolicies,
		"GET /v2/snapshots":                           a.none("snapshots"),
		"GET /v2/volumes":                             a.none("volumes"),
		"POST /v2/volumes":                            a.createVolume,
		"POST /v2/images":                             a.createImage,

		"GET /v2/monitoring/metrics/load_balancer/{figure}": a.loadBalancerFigure,
		"GET /v2/monitoring/metrics/droplet/{figure}":       a.dropletFigure,
		"GET /v2/monitoring/alerts":                         a.listAlertPolicies,
		"POST /v2/monitoring/alerts":                        a.createAlertPolicy,
		"GET /v2/monitoring/alerts/{id}":                    a.noAlertPolicy,
		"PUT /v2/monitoring/alerts/{id}":                    a.noAlertPolicy,
		"DELETE /v2/monitoring/alerts/{id}":                 a.noAlertPolicy,

		"GET /v2/firewalls":                  a.listFirewalls,
		"POST /v2/firewalls":                 a.createFirewall,
		"GET /v2/firewalls/{id}":             a.getFirewall,
		"PUT /v2/firewalls/{id}":             a.replaceFirewall,
		"DELETE /v2/firewalls/{id}":          a.deleteFirewall,
		"POST /v2/firewalls/{id}/droplets":   a.changeFirewall(addFirewallDroplets),
		"DELETE /v2/firewalls/{id}/droplets": a.changeFirewall(removeFirewallDroplets),
		"POST /v2/firewalls/{id}/tags":       a.changeFirewall(addFirewallTags),
		"DELETE /v2/firewalls/{id}/tags":     a.changeFirewall(removeFirewallTags),
		"POST /v2/firewalls/{id}/rules":      a.changeFirewall(addFirewallRules),
		"DELETE /v2/firewalls/{id}/rules":    a.changeFirewall(removeFirewallRules),
		"GET /v2/droplets/{id}/firewalls":    a.listDropletFirewalls,

		"GET /v2/droplets/autoscale":                   a.listAutoscalePools,
		"POST /v2/droplets/autoscale":                  a.createAutoscalePool,
		"GET /v2/droplets/autoscale/{id}":              aboutPool(a.getAutoscalePool),
		"PUT /v2/droplets/autoscale/{id}":              aboutPool(a.replaceAutoscalePool),
		"DELETE /v2/droplets/autoscale/{id}":           aboutPool(a.deleteAutoscalePool),
		"DELETE /v2/droplets/autoscale/{id}/dangerous": aboutPool(a.destroyAutoscalePool),
		"GET /v2/droplets/autoscale/{id}/members":      aboutPool(a.listPoolMembers),
		"GET /v2/droplets/autoscale/{id}/history":      aboutPool(a.listPoolHistory),

		"GET /v2/weir/status":                        a.status,
		"GET /v2/weir/events":                        a.events,
		"PUT /v2/weir/app":                           a.apply,
		"GET /v2/weir/pools":                         a.listPools,
		"GET /v2/weir/pools/{name}":                  a.showPool,
		"GET /v2/weir/pools/{name}/history":          a.tellPool,
		"DELETE /v2/weir/pools/{name}":               a.deletePool,
		"POST /v2/weir/pools/{name}/machines":        a.grow,
		"GET /v2/weir/machines":                      a.listMachines,
		"POST /v2/weir/machines/{id}/drain":          a.drain,
		"POST /v2/weir/machines/{id}/faults":         a.fault,
		"POST /v2/weir/hosts/{name}/faults":          a.faultHost,
		"GET /v2/weir/nodes":                         a.listNodes,
		"POST /v2/weir/nodes":                        a.addNode,
		"DELETE /v2/weir/nodes/{name}":               a.removeNode,
		"GET /v2/weir/droplets/{id}/boot":            a.boot,
		"GET /v2/weir/load_balancers/{id}/logs":      a.accessLog,
		"GET /v2/weir/load_balancers/{id}/config":    a.config,
		"POST /v2/weir/load_balancers/{id}/reload":   a.reload,
		"POST /v2/weir/load_balancers/{id}/failover": a.failover,

		"PUT /v2/weir/load_balancers/{id}/split":       a.split,
		"PUT /v2/weir/load_balancers/{id}/maintenance": a.maintain,
		"POST /v2/weir/load_balancers/{id}/drain":      a.drainTarget,
		"POST /v2/weir/load_balancers/{id}/undrain":    a.undrainTarget,

		"GET /v2/weir/tokens":         a.listTokens,
		"POST /v2/weir/tokens":        a.createToken,
		"DELETE /v2/weir/tokens/{id}": a.revokeToken,

		"GET /v2/weir/audit":       a.audit,
		"GET /v2/weir/audit/costs": a.costs,
	}
}
