package api

import (
	"reflect"

	"weir/weir"
)

// reference is what the OpenAPI document says of each route beside what follows from the
// wire types: its groups are the document's, and so is its order.
var reference = []group{
	{"Account", "Who calls.", []route{
		{at: "GET /v2/account", says: "Show whose the token is, and how much there may be.", ok: one("account", accountReply{})},
	}},
	{"SSH keys", "Public keys by which users log in to droplets.", []route{
		{at: "GET /v2/account/keys", says: "List the keys.", ok: page("ssh_keys", keyWire{})},
		{at: "POST /v2/account/keys", says: "Add a key.", body: keyRequest{}, ok: made(201, "ssh_key", keyWire{})},
		{at: "GET /v2/account/keys/{id}", says: "Show a key, by its ID or its fingerprint.", ok: one("ssh_key", keyWire{})},
		{at: "PUT /v2/account/keys/{id}", says: "Rename a key.", body: keyName{}, ok: one("ssh_key", keyWire{})},
		{at: "DELETE /v2/account/keys/{id}", says: "Forget a key. Droplets that have it keep it.", ok: nothing},
	}},
	{"Catalog", "What droplets can be made of.", []route{
		{at: "GET /v2/regions", says: "List the regions, of which a Weir is one.", ok: page("regions", regionWire{})},
		{at: "GET /v2/sizes", says: "List the sizes of droplets.", ok: page("sizes", sizeWire{})},
		{at: "GET /v2/images", says: "List the images of droplets.", ok: page("images", imageWire{}),
			query: []parameter{{"type", "string", "Only those of this type; all of Weir's are distribution."}, {"private", "string", "With true, the user's own, of which there are none."},
				{"tag_name", "string", "Only those with this tag; no image has one."}}},
		{at: "GET /v2/images/{id}", says: "Show an image, by its number or its slug.", ok: one("image", imageWire{})},
	}},
	{"Droplets", "The machines that users have.", []route{
		{at: "GET /v2/droplets", says: "List the droplets.", ok: page("droplets", dropletWire{}),
			query: []parameter{{"name", "string", "Only those of this name, in any case."}, {"tag_name", "string", "Only those with this tag. It excludes the other filters."}, {"type", "string", "droplets, or gpus, of which there are none."}}},
		{at: "POST /v2/droplets", says: "Make one droplet, by name, or several, by names.", body: dropletRequest{},
			ok: answer{202, either{object{{"droplet", dropletWire{}}, {"links", links{}}}, object{{"droplets", []dropletWire{}}, {"links", links{}}, {"meta", meta{}}}}, false}},
		{at: "DELETE /v2/droplets", says: "Delete all droplets that have a tag.", ok: nothing, query: []parameter{{"tag_name", "string!", "The tag of the droplets that are meant."}}},
		{at: "GET /v2/droplets/{id}", says: "Show a droplet.", ok: one("droplet", dropletWire{})},
		{at: "DELETE /v2/droplets/{id}", says: "Delete a droplet. It finishes the requests that it has, 30 s at most.", ok: nothing},
		{at: "GET /v2/droplets/{id}/destroy_with_associated_resources", says: "List what can be destroyed together with a droplet.", ok: answer{200, object{
			{"reserved_ips", []associatedWire{}}, {"floating_ips", []associatedWire{}}, {"snapshots", []associatedWire{}}, {"volumes", []associatedWire{}}, {"volume_snapshots", []associatedWire{}}}, false}},
		{at: "DELETE /v2/droplets/{id}/destroy_with_associated_resources/selective", says: "Destroy a droplet together with what the body names.", body: destroyRequest{}, ok: answer{202, object{}, false}},
		{at: "DELETE /v2/droplets/{id}/destroy_with_associated_resources/dangerous", says: "Destroy a droplet with all its reserved IPs.", header: "X-Dangerous", ok: answer{202, object{}, false}},
		{at: "GET /v2/droplets/{id}/destroy_with_associated_resources/status", says: "Show how far such a destruction is.", ok: answer{200, object{{"droplet", destroyedWire{}},
			{"resources", object{{"reserved_ips", []destroyedWire{}}, {"floating_ips", []destroyedWire{}}, {"snapshots", []destroyedWire{}}, {"volumes", []destroyedWire{}}, {"volume_snapshots", []destroyedWire{}}}},
			{"completed_at", (*string)(nil)}, {"failures", 0}}, false}},
		{at: "POST /v2/droplets/{id}/destroy_with_associated_resources/retry", says: "Weir tries again by itself: this says whether there is something left.", ok: answer{202, object{}, false}, errs: []int{409}},
		{at: "GET /v2/droplets/{id}/neighbors", says: "List the droplets that share a host with one.", ok: answer{200, listOf("droplets", dropletWire{}), false}},
		{at: "GET /v2/reports/droplet_neighbors_ids", says: "List the groups of droplets that share a host.", ok: one("neighbor_ids", [][]int64{})},
		{at: "GET /v2/droplets/{id}/firewalls", says: "List the firewalls that are for a droplet.", ok: page("firewalls", cloudFirewallWire{})},
		{at: "GET /v2/droplets/{id}/kernels", says: "List kernels, of which there are none to choose.", ok: page("kernels", nobody{})},
		{at: "GET /v2/droplets/{id}/snapshots", says: "List snapshots, of which there are none.", ok: page("snapshots", nobody{})},
		{at: "GET /v2/droplets/{id}/backups", says: "List backups, of which there are none.", ok: page("backups", nobody{})},
		{at: "GET /v2/droplets/{id}/backups/policy", says: "Say that a droplet has no backups.", ok: one("policy", backupPolicyReply{})},
		{at: "GET /v2/droplets/backups/policies", says: "List the policies of backups, of which there are none.", ok: answer{200, object{{"policies", map[string]any{}}, {"links", links{}}, {"meta", meta{}}}, false}},
		{at: "GET /v2/droplets/backups/supported_policies", says: "List the policies that could be, of which there are none.", ok: one("supported_policies", []any{})},
	}},
	{"Actions", "What was done to droplets and addresses. An action is in progress until what it asks for is so.", []route{
		{at: "GET /v2/actions", says: "List all actions, the newest first.", ok: page("actions", actionWire{})},
		{at: "GET /v2/actions/{id}", says: "Show an action.", ok: one("action", actionWire{})},
		{at: "GET /v2/droplets/{id}/actions", says: "List the actions of a droplet, the newest first.", ok: page("actions", actionWire{})},
		{at: "POST /v2/droplets/{id}/actions", says: "Do something to a droplet: power_on, power_off, shutdown, reboot, power_cycle, enable_ipv6, rename; enable_private_networking and disable_backups are so already.",
			body: actRequest{}, ok: made(201, "action", actionWire{}), errs: []int{409}},
		{at: "GET /v2/droplets/{id}/actions/{action}", says: "Show an action of a droplet.", ok: one("action", actionWire{})},
		{at: "POST /v2/droplets/actions", says: "Do something to all droplets that have a tag.", body: actRequest{}, ok: answer{201, listOf("actions", actionWire{}), false},
			query: []parameter{{"tag_name", "string!", "The tag of the droplets that are meant."}}},
	}},
	{"Load balancers", "Two instances and one address, in front of droplets.", []route{
		{at: "GET /v2/load_balancers", says: "List the load balancers.", ok: page("load_balancers", loadBalancerWire{}),
			query: []parameter{{"names", "strings", "Only those of these names."}, {"uuids", "strings", "Only those with these IDs."}}},
		{at: "POST /v2/load_balancers", says: "Make a load balancer.", more: "With validate_only it is answered with what would be made, and with 200.", body: loadBalancerRequest{}, ok: made(202, "load_balancer", loadBalancerWire{}), also: made(200, "load_balancer", loadBalancerWire{})},
		{at: "GET /v2/load_balancers/{id}", says: "Show a load balancer.", ok: one("load_balancer", loadBalancerWire{})},
		{at: "PUT /v2/load_balancers/{id}", says: "Make a load balancer what the body says, all of it.", body: loadBalancerRequest{}, ok: one("load_balancer", loadBalancerWire{})},
		{at: "DELETE /v2/load_balancers/{id}", says: "Delete a load balancer.", ok: nothing},
		{at: "POST /v2/load_balancers/{id}/droplets", says: "Put droplets behind a load balancer.", body: dropletIDs{}, ok: nothing},
		{at: "DELETE /v2/load_balancers/{id}/droplets", says: "Take droplets from behind a load balancer.", body: dropletIDs{}, ok: nothing},
		{at: "POST /v2/load_balancers/{id}/forwarding_rules", says: "Add forwarding rules.", body: forwardingRules{}, ok: nothing},
		{at: "DELETE /v2/load_balancers/{id}/forwarding_rules", says: "Remove forwarding rules.", body: forwardingRules{}, ok: nothing},
		{at: "DELETE /v2/load_balancers/{id}/cache", says: "Purge a cache. A regional load balancer has none, so that this is refused.", ok: refused},
	}},
	{"Autoscale pools", "Droplets that are made, and replaced, from a template.", []route{
		{at: "GET /v2/droplets/autoscale", says: "List the autoscale pools.", ok: page("autoscale_pools", autoscaleWire{}), query: []parameter{{"name", "string", "Only the one of this name."}}},
		{at: "POST /v2/droplets/autoscale", says: "Make an autoscale pool.", body: autoscaleRequest{}, ok: made(202, "autoscale_pool", autoscaleWire{})},
		{at: "GET /v2/droplets/autoscale/{id}", says: "Show an autoscale pool.", ok: one("autoscale_pool", autoscaleWire{})},
		{at: "PUT /v2/droplets/autoscale/{id}", says: "Make an autoscale pool what the body says, all of it.", body: autoscaleRequest{}, ok: one("autoscale_pool", autoscaleWire{})},
		{at: "DELETE /v2/droplets/autoscale/{id}", says: "Delete an autoscale pool. Its droplets stay.", ok: answer{202, nil, false}},
		{at: "DELETE /v2/droplets/autoscale/{id}/dangerous", says: "Delete an autoscale pool with its droplets.", header: "X-Dangerous", ok: answer{202, nil, false}},
		{at: "GET /v2/droplets/autoscale/{id}/members", says: "List the droplets of an autoscale pool.", ok: page("droplets", memberWire{})},
		{at: "GET /v2/droplets/autoscale/{id}/history", says: "List how an autoscale pool has changed.", ok: page("history", scalingWire{})},
	}},
	{"Tags", "Words by which droplets and load balancers are found.", []route{
		{at: "GET /v2/tags", says: "List the tags.", ok: page("tags", tagWire{})},
		{at: "POST /v2/tags", says: "Make a tag.", body: tagRequest{}, ok: made(201, "tag", tagWire{})},
		{at: "GET /v2/tags/{name}", says: "Show a tag, with what has it.", ok: one("tag", tagWire{})},
		{at: "DELETE /v2/tags/{name}", says: "Take a tag from all that has it.", ok: nothing},
		{at: "POST /v2/tags/{name}/resources", says: "Give a tag to droplets and load balancers.", body: taggingRequest{}, ok: nothing},
		{at: "DELETE /v2/tags/{name}/resources", says: "Take a tag from droplets and load balancers.", body: taggingRequest{}, ok: nothing},
	}},
	{"Reserved IPs", "Addresses that can be moved between droplets. Floating IPs are the same by an older name.", append(
		append(addressRoutes("reserved_ip", "reserved IP"), addressRoutes("floating_ip", "floating IP")...),
		route{at: "GET /v2/reserved_ipv6", says: "List the reserved IPs of IPv6.", ok: page("reserved_ipv6s", address6Wire{})},
		route{at: "POST /v2/reserved_ipv6", says: "Reserve an IP of IPv6.", body: address6Request{}, ok: made(201, "reserved_ipv6", address6Wire{})},
		route{at: "GET /v2/reserved_ipv6/{ip}", says: "Show a reserved IP of IPv6.", ok: one("reserved_ipv6", address6Wire{})},
		route{at: "DELETE /v2/reserved_ipv6/{ip}", says: "Give a reserved IP of IPv6 back.", ok: nothing},
		route{at: "POST /v2/reserved_ipv6/{ip}/actions", says: "Assign a reserved IP to a droplet that has IPv6, or unassign it.", body: addressActRequest{}, ok: made(201, "action", actionWire{})})},
	{"Certificates", "Certificates with their private keys, which are never shown.", []route{
		{at: "GET /v2/certificates", says: "List the certificates.", ok: page("certificates", certificateWire{}), query: []parameter{{"name", "string", "Only the one of this name."}}},
		{at: "POST /v2/certificates", says: "Upload a certificate with its private key, or have Weir get one for dns_names and renew it.", body: certificateRequest{}, ok: made(201, "certificate", certificateWire{})},
		{at: "GET /v2/certificates/{id}", says: "Show a certificate.", ok: one("certificate", certificateWire{})},
		{at: "DELETE /v2/certificates/{id}", says: "Forget a certificate.", ok: nothing, errs: []int{403}},
	}},
	{"Firewalls", "Rules of what may reach droplets, and what they may reach.", []route{
		{at: "GET /v2/firewalls", says: "List the firewalls.", ok: page("firewalls", cloudFirewallWire{})},
		{at: "POST /v2/firewalls", says: "Make a firewall.", body: firewallRequest{}, ok: made(202, "firewall", cloudFirewallWire{})},
		{at: "GET /v2/firewalls/{id}", says: "Show a firewall.", ok: one("firewall", cloudFirewallWire{})},
		{at: "PUT /v2/firewalls/{id}", says: "Make a firewall what the body says, all of it.", body: firewallRequest{}, ok: one("firewall", cloudFirewallWire{})},
		{at: "DELETE /v2/firewalls/{id}", says: "Delete a firewall.", ok: nothing},
		{at: "POST /v2/firewalls/{id}/droplets", says: "Have a firewall be for more droplets.", more: "Of the body only droplet_ids is read.", body: firewallRequest{}, ok: nothing},
		{at: "DELETE /v2/firewalls/{id}/droplets", says: "Have a firewall be for fewer droplets.", more: "Of the body only droplet_ids is read.", body: firewallRequest{}, ok: nothing},
		{at: "POST /v2/firewalls/{id}/tags", says: "Have a firewall be for the droplets of more tags.", more: "Of the body only tags is read.", body: firewallRequest{}, ok: nothing},
		{at: "DELETE /v2/firewalls/{id}/tags", says: "Have a firewall be for the droplets of fewer tags.", more: "Of the body only tags is read.", body: firewallRequest{}, ok: nothing},
		{at: "POST /v2/firewalls/{id}/rules", says: "Add rules to a firewall.", more: "Of the body only the rules are read.", body: firewallRequest{}, ok: nothing},
		{at: "DELETE /v2/firewalls/{id}/rules", says: "Remove rules from a firewall.", more: "Of the body only the rules are read.", body: firewallRequest{}, ok: nothing},
	}},
	{"VPCs", "A region has one private network, which is its VPC.", []route{
		{at: "GET /v2/vpcs", says: "List the networks.", ok: page("vpcs", vpcWire{})},
		{at: "POST /v2/vpcs", says: "Make a network. It is refused: there is one.", ok: refused},
		{at: "GET /v2/vpcs/{id}", says: "Show the network.", ok: one("vpc", vpcWire{})},
		{at: "PUT /v2/vpcs/{id}", says: "Give the network a name and a description.", body: vpcRequest{}, ok: one("vpc", vpcWire{})},
		{at: "PATCH /v2/vpcs/{id}", says: "Change what the body has of the network's name and description.", body: vpcRequest{}, ok: one("vpc", vpcWire{})},
		{at: "DELETE /v2/vpcs/{id}", says: "Delete the network. It is refused with 403.", ok: refused},
		{at: "GET /v2/vpcs/{id}/members", says: "List what is in the network.", ok: page("members", vpcMemberWire{}), query: []parameter{{"resource_type", "string", "Only droplets, with droplet, or load balancers, with load_balancer."}}},
		{at: "GET /v2/vpcs/{id}/peerings", says: "List the network's peerings, of which there are none.", ok: page("peerings", nobody{})},
		{at: "POST /v2/vpcs/{id}/peerings", says: "Peer the network with another one. It is refused: there is no other.", ok: refused},
		{at: "GET /v2/vpc_peerings", says: "List all peerings, of which there are none.", ok: page("vpc_peerings", nobody{})},
		{at: "POST /v2/vpc_peerings", says: "Peer two networks. It is refused: there is one.", ok: refused},
	}},
	{"Projects", "Groups of things that belong together. The ID default is that of the default project.", []route{
		{at: "GET /v2/projects", says: "List the projects.", ok: page("projects", projectWire{})},
		{at: "POST /v2/projects", says: "Make a project.", body: projectRequest{}, ok: made(201, "project", projectWire{})},
		{at: "GET /v2/projects/{id}", says: "Show a project.", ok: one("project", projectWire{})},
		{at: "PUT /v2/projects/{id}", says: "Make a project what the body says, all of it.", body: projectRequest{}, ok: one("project", projectWire{})},
		{at: "PATCH /v2/projects/{id}", says: "Change what the body has of a project.", body: projectRequest{}, ok: one("project", projectWire{})},
		{at: "DELETE /v2/projects/{id}", says: "Delete a project. One that has something in it is refused with 412.", ok: nothing, errs: []int{412}},
		{at: "GET /v2/projects/{id}/resources", says: "List what is in a project.", ok: page("resources", projectResourceWire{})},
		{at: "POST /v2/projects/{id}/resources", says: "Put things into a project.", body: projectResources{}, ok: answer{200, listOf("resources", projectResourceWire{}), false}},
	}},
	{"Monitoring", "Figures over the last hours, as Prometheus answers the query of a range.", []route{
		{at: "GET /v2/monitoring/metrics/load_balancer/{figure}", says: "Show a figure of a load balancer.", ok: answer{200, figureWire{}, false}, query: append([]parameter{{"lb_id", "string!", "The ID of the load balancer."}}, ofWindow[:]...)},
		{at: "GET /v2/monitoring/metrics/droplet/{figure}", says: "Show a figure of a droplet.", ok: answer{200, figureWire{}, false}, query: append([]parameter{{"host_id", "string!", "The ID of the droplet."},
			{"interface", "string", "Of bandwidth: public or private."}, {"direction", "string", "Of bandwidth: inbound or outbound."}}, ofWindow[:]...)},
		{at: "GET /v2/monitoring/alerts", says: "List alert policies, of which there are none.", ok: page("policies", nobody{})},
		{at: "POST /v2/monitoring/alerts", says: "Make an alert policy. It is refused: a Prometheus that reads /metrics does this.", ok: refused},
		{at: "GET /v2/monitoring/alerts/{id}", says: "Show an alert policy, of which there are none.", ok: refused},
		{at: "PUT /v2/monitoring/alerts/{id}", says: "Change an alert policy, of which there are none.", ok: refused},
		{at: "DELETE /v2/monitoring/alerts/{id}", says: "Delete an alert policy, of which there are none.", ok: refused},
	}},
	{"Not there", "Of what Weir does not have there is nothing, which clients may ask.", []route{
		{at: "GET /v2/snapshots", says: "List snapshots, of which there are none.", ok: page("snapshots", nobody{})},
		{at: "GET /v2/volumes", says: "List volumes, of which there are none.", ok: page("volumes", nobody{})},
		{at: "POST /v2/volumes", says: "Make a volume. It is refused: there are none.", ok: refused},
		{at: "POST /v2/images", says: "Bring an image. It is refused: there are only those that are listed.", ok: refused},
	}},

	{"Weir: status and events", "What Weir does, and why it is not done yet.", []route{
		{at: "GET /v2/weir/status", says: "Show the region at a glance.", more: "It has what the token's team has. With a token of the scope admin it has all teams' things, and the members of the control plane. The versions of Weir and HAProxy on each instance are in its node.",
			query: []parameter{{"team", "string", "With own, what the token's team has even if the token is of the scope admin."}}, ok: one("status", weir.RegionStatus{})},
		{at: "GET /v2/weir/events", says: "Show what happened, the oldest first: what was seen, what was decided because of it, what was done.",
			query: []parameter{{"limit", "integer", "How many, of the newest: 1 to 1000; 100 if left out."}, {"after", "string", "The ID of an event: only those that came after it."},
				{"load_balancer", "string", "Only those of the load balancer with this ID or name, which may be deleted by now."}}, ok: one("events", []weir.Event{})},
		{at: "GET /v2/weir/audit", says: "Show who asked for which change, and what came of it, the newest first.",
			query: []parameter{{"limit", "integer", "How many: 1 to 1000; 100 if left out."}, {"before", "string", "The ID of a request in the log: only those before it."}, {"token", "string", "Only those by the token with this ID."},
				{"user", "string", "Only those of this user."}, {"path", "string", "Only those whose path begins so."}, {"since", "string", "Only those since this time, as in RFC 3339."}}, ok: one("audit", []weir.Audit{})},
		{at: "GET /v2/weir/audit/costs", says: "Show all that costs money: the machines and the addresses that the cloud has, or is still to make.", more: "What the cloud has and nothing here says that it should is unknown. If the cloud does not answer, it is what was last seen, and error says why.", ok: one("costs", weir.Costs{})},
	}},
	{"Weir: applications and pools", "Servers that are the same, and the load balancer in front of them.", []route{
		{at: "PUT /v2/weir/app", says: "Make an application what the body says, in one transaction: its servers and its load balancer.", more: "What is as asked already is not touched.", body: App{},
			query: []parameter{{"dry_run", "boolean", "Only say what would be changed."}}, ok: answer{200, Applied{}, false}},
		{at: "GET /v2/weir/pools", says: "List the pools.", ok: page("pools", Pool{})},
		{at: "GET /v2/weir/pools/{name}", says: "Show a pool, what it bears, and what was decided of its size.", ok: one("pool", PoolState{})},
		{at: "GET /v2/weir/pools/{name}/history", says: "List how the size of a pool has changed, and why, the newest first.", ok: page("history", weir.Scaling{})},
		{at: "POST /v2/weir/pools/{name}/machines", says: "Add machines to a pool.", body: Growth{}, ok: answer{202, listOf("droplets", dropletWire{}), false}},
		{at: "DELETE /v2/weir/pools/{name}", says: "Delete a pool and its machines.", ok: nothing},
	}},
	{"Weir: load balancers", "What DigitalOcean has no word for. A load balancer is named by its ID or its name.", []route{
		{at: "POST /v2/weir/load_balancers/{id}/failover", says: "Hand a load balancer over to another instance, and answer when its address has moved.", more: "No request is lost. After 30 s without success the answer is 504, and it may be done later. The body may be left out.",
			body: Handover{}, ok: one("failover", weir.Failover{}), errs: []int{409, 504}},
		{at: "PUT /v2/weir/load_balancers/{id}/split", says: "Have target groups share the requests of others: a canary, or a switch from blue to green.", more: "Servers get other weights by it. Nothing is reloaded, and no request is lost.",
			body: Splitting{}, ok: one("load_balancer", loadBalancerWire{})},
		{at: "PUT /v2/weir/load_balancers/{id}/maintenance", says: "Answer every request with 503, or end that. What is left out stays as it was.", body: Maintaining{}, ok: one("load_balancer", loadBalancerWire{})},
		{at: "POST /v2/weir/load_balancers/{id}/drain", says: "Keep a target from getting requests. It may finish those that it has, and stays a target.", more: "alone is true if nothing else serves some of the requests that it would get.",
			body: TargetDrain{}, ok: answer{200, object{{"load_balancer", loadBalancerWire{}}, {"alone", true}}, false}},
		{at: "POST /v2/weir/load_balancers/{id}/undrain", says: "Let a drained target get requests again.", body: TargetDrain{}, ok: one("load_balancer", loadBalancerWire{})},
		{at: "GET /v2/weir/load_balancers/{id}/logs", says: "Show the access log: the last requests, in the order in which they began, one JSON object on each line.",
			more: "With follow=true those that end from now on come too, whichever instance serves them, until the caller leaves; now and then there is an empty line, and {\"left_out\": N} where more lines came than are sent (500 a second and instance). Requests that no weir.access_log has logged are not there. The fields are those of AccessLine. Four may read a load balancer's log at a time, at each member.",
			query: []parameter{{"lines", "integer", "How many of the last: 0 to 1000; 100 if left out."}, {"follow", "boolean", "Go on with those that come."},
				{"status", "string", "Only those with this status: 404, 5xx, >=500, 500-503."}, {"method", "string", "Only those with this method."}, {"host", "string", "Only those for this host."},
				{"path", "string", "Only those whose path begins so."}, {"client", "string", "Only those of this address or network."}, {"server", "string", "Only those that the droplet of this ID or name was sent."},
				{"slower_than_ms", "integer", "Only those that took at least so long in all."}, {"request_id", "string", "Only the one with this ID."}}, ok: answer{200, lines{weir.AccessLine{}}, false}, errs: []int{429}},
		{at: "GET /v2/weir/load_balancers/{id}/config", says: "Show HAProxy's configuration.", more: "The header X-Weir-Live says whether it is live (true), or would be (false).", ok: answer{200, text(""), false}},
		{at: "POST /v2/weir/load_balancers/{id}/reload", says: "Have every instance load its configuration anew, and answer when all have.", ok: nothing, errs: []int{409, 504}},
	}},
	{"Weir: machines", "Droplets, and the instances of load balancers.", []route{
		{at: "GET /v2/weir/machines", says: "List the machines, in the order in which they were made.", ok: page("machines", InventoryMachine{})},
		{at: "GET /v2/weir/droplets/{id}/boot", says: "Show how the first boot of a machine went.", ok: one("boot", weir.Boot{})},
		{at: "POST /v2/weir/machines/{id}/drain", says: "Keep a machine from serving, or let it serve again.", body: Draining{}, ok: nothing, errs: []int{409}},
		{at: "POST /v2/weir/machines/{id}/faults", says: "Break a machine on purpose, and answer when it is done.", more: "Only the local cloud of weir dev can do this.", body: Fault{}, ok: nothing, errs: []int{409}},
		{at: "POST /v2/weir/hosts/{name}/faults", says: "Take the power of a host away, or give it back, and answer when it is done.", more: "Only the local cloud of weir dev can do this, if it has several hosts.", body: HostFault{}, ok: nothing},
	}},
	{"Weir: nodes", "Machines of one's own that run load balancers, with the versions on them.", []route{
		{at: "GET /v2/weir/nodes", says: "List the nodes.", ok: page("nodes", weir.NodeOverview{})},
		{at: "POST /v2/weir/nodes", says: "Make a token by which a machine may join.", body: NewNode{}, ok: answer{201, NodeToken{}, false}},
		{at: "DELETE /v2/weir/nodes/{name}", says: "Remove a node.", ok: nothing, errs: []int{409}},
	}},
	{"Weir: tokens", "Who may call, and what.", []route{
		{at: "GET /v2/weir/tokens", says: "List the tokens.", ok: page("tokens", Token{})},
		{at: "POST /v2/weir/tokens", says: "Make a token. Its secret is in the answer, and never again.", body: NewToken{}, ok: made(201, "token", Token{})},
		{at: "DELETE /v2/weir/tokens/{id}", says: "Revoke a token.", ok: nothing},
	}},
}

// addressRoutes are those of one of the two names of reserved IPs.
func addressRoutes(word, name string) []route {
	at := " /v2/" + word + "s"
	return []route{
		{at: "GET" + at, says: "List the " + name + "s.", ok: page(word+"s", addressWire{})},
		{at: "POST" + at, says: "Reserve a " + name + ", for a region or at once for a droplet.", body: addressRequest{}, ok: answer{202, object{{word, addressWire{}}, {"links", links{}}}, false}},
		{at: "GET" + at + "/{ip}", says: "Show a " + name + ".", ok: one(word, addressWire{})},
		{at: "DELETE" + at + "/{ip}", says: "Give a " + name + " up.", ok: nothing},
		{at: "GET" + at + "/{ip}/actions", says: "List the actions of a " + name + ", the newest first.", ok: page("actions", actionWire{})},
		{at: "POST" + at + "/{ip}/actions", says: "Assign a " + name + " to a droplet (assign), or to none (unassign).", body: addressActRequest{}, ok: made(201, "action", actionWire{})},
		{at: "GET" + at + "/{ip}/actions/{action}", says: "Show an action of a " + name + ".", ok: one("action", actionWire{})},
	}
}

// What is answered without a type of its own.
type (
	accountReply struct {
		DropletLimit    int       `json:"droplet_limit"`
		FloatingIPLimit int       `json:"floating_ip_limit"`
		ReservedIPLimit int       `json:"reserved_ip_limit"`
		VolumeLimit     int       `json:"volume_limit"`
		Email           string    `json:"email"`
		Name            string    `json:"name"`
		UUID            string    `json:"uuid"`
		EmailVerified   bool      `json:"email_verified"`
		Status          string    `json:"status"`
		StatusMessage   string    `json:"status_message"`
		Team            teamReply `json:"team"`
	}
	teamReply struct {
		UUID string `json:"uuid"`
		Name string `json:"name"`
	}
	backupPolicyReply struct {
		DropletID        int64     `json:"droplet_id"`
		BackupEnabled    bool      `json:"backup_enabled"`
		NextBackupWindow *struct{} `json:"next_backup_window"`
	}
	nobody struct{} // what there is none of
)

var ofWindow = [2]parameter{{"start", "integer!", "Since when, in seconds since 1970."}, {"end", "integer!", "Until when, in seconds since 1970."}}

// pathParameters say what is in a path, by its name and the first path that fits.
var pathParameters = []struct{ name, below, kind, says string }{
	{"id", "/v2/droplets/autoscale/", "string", "The ID of an autoscale pool."},
	{"id", "/v2/droplets/", "integer", "The ID of a droplet."},
	{"id", "/v2/weir/droplets/", "integer", "The ID of a machine, which may be a load balancer's instance."},
	{"id", "/v2/weir/machines/", "integer", "The ID of a machine, which may be a load balancer's instance."},
	{"id", "/v2/weir/load_balancers/", "string", "The ID or the name of a load balancer."},
	{"id", "/v2/weir/tokens/", "string", "The ID of a token."},
	{"id", "/v2/account/keys/", "string", "The ID or the fingerprint of a key."},
	{"id", "/v2/actions/", "integer", "The ID of an action."},
	{"id", "/v2/images/", "string", "The number or the slug of an image."},
	{"id", "/v2/load_balancers/", "string", "The ID of a load balancer."},
	{"id", "/v2/certificates/", "string", "The ID of a certificate."},
	{"id", "/v2/firewalls/", "string", "The ID of a firewall."},
	{"id", "/v2/vpcs/", "string", "The ID of the network."},
	{"id", "/v2/projects/", "string", "The ID of a project, or default."},
	{"id", "/v2/monitoring/alerts/", "string", "The ID of an alert policy."},
	{"action", "/v2/", "integer", "The ID of an action."},
	{"name", "/v2/tags/", "string", "The name of a tag, in any case."},
	{"name", "/v2/weir/pools/", "string", "The name of a pool; to show it, its ID does too."},
	{"name", "/v2/weir/nodes/", "string", "The name of a node."},
	{"name", "/v2/weir/hosts/", "string", "The name of a host of the local cloud, such as host-2."},
	{"ip", "/v2/", "string", "The address."},
	{"figure", "/v2/monitoring/metrics/load_balancer/", "string", "The name of a figure, such as frontend_http_requests_per_second."},
	{"figure", "/v2/monitoring/metrics/droplet/", "string", "The name of a figure, such as cpu or bandwidth."},
}

// called are the types whose names in the document do not follow from their own.
var called = map[reflect.Type]string{
	reflect.TypeFor[keyWire]():           "SSHKey",
	reflect.TypeFor[addressWire]():       "ReservedIP",
	reflect.TypeFor[memberWire]():        "AutoscaleMember",
	reflect.TypeFor[scalingWire]():       "AutoscaleEvent",
	reflect.TypeFor[autoscaleWire]():     "AutoscalePool",
	reflect.TypeFor[Firewall]():          "LoadBalancerFirewall",
	reflect.TypeFor[cloudFirewallWire](): "Firewall",
	reflect.TypeFor[firewallWeir]():      "FirewallWeir",
	reflect.TypeFor[accountReply]():      "Account",
	reflect.TypeFor[teamReply]():         "Team",
	reflect.TypeFor[backupPolicyReply](): "BackupPolicy",
	reflect.TypeFor[nobody]():            "Nothing",
	reflect.TypeFor[resourcesWire]():     "TagResources",
	reflect.TypeFor[utilization]():       "AutoscaleUtilization",
	reflect.TypeFor[scalingWeir]():       "AutoscaleEventWeir",
	reflect.TypeFor[errorBody]():         "Error",
	reflect.TypeFor[StickySessions]():    "StickySessions",
}

// must are the fields without which a body is refused.
var must = map[string][]string{
	"keyRequest": {"name", "public_key"}, "keyName": {"name"}, "dropletRequest": {"size", "image"}, "actRequest": {"type"},
	"loadBalancerRequest": {"name", "forwarding_rules"}, "ForwardingRule": {"entry_protocol", "entry_port", "target_protocol", "target_port"},
	"dropletIDs": {"droplet_ids"}, "forwardingRules": {"forwarding_rules"}, "autoscaleRequest": {"name", "config", "droplet_template"},
	"tagRequest": {"name"}, "taggingRequest": {"resources"}, "taggingResource": {"resource_id", "resource_type"}, "addressActRequest": {"type"},
	"certificateRequest": {"name"}, "firewallRuleWire": {"protocol"},
	"App": {"name"}, "Growth": {"count"}, "NewNode": {"name"}, "NewToken": {"name", "scopes"}, "Draining": {"drained"}, "Splitting": {"split"}, "Maintaining": {"on"}, "TargetDrain": {"droplet_id"}, "Fault": {"type"}, "HostFault": {"type"},
	"AutoscaleSchedule": {"cron", "minutes", "min_instances"},
}

// said is what the document says of types and their fields in place of their comments, which are for who
// reads the program.
var said = map[string]string{
	"App":                     "An application: its servers, and the load balancer in front of them. The servers have the application's name as a tag. Or they are no machines of Weir's, and are given by servers: then nothing is said of how to make one (size, image, user_data, hostname_prefix, ssh_keys, tags, count).",
	"App.region":              "the one that answers, if left out",
	"App.size":                "of a server: s-1vcpu-1gb if left out",
	"App.image":               "of a server: debian-12-x64 if left out",
	"App.user_data":           "a script, or what cloud-init reads: none if left out",
	"App.hostname_prefix":     "of the servers' names: the application's name if left out",
	"App.tags":                "of the servers, beside the application's name",
	"App.count":               "how many servers: as many as there are if left out, 1 for a new application",
	"App.servers":             "the addresses of servers that are not Weir's",
	"App.load_balancer":       "what is in front of the servers",
	"AppLoadBalancer.name":    "the application's name if left out",
	"AppLoadBalancer.size":    "of an instance: s-1vcpu-1gb if left out",
	"AppLoadBalancer.address": "with the length of its network's prefix, such as 192.0.2.10/24, for nodes of one's own; one that the cloud reserves if left out",

	"AppLoadBalancer.network":                   "internal for one that the private network alone reaches: external if left out; it stays as it was created",
	"AppLoadBalancer.algorithm":                 "how requests are spread: round_robin if left out, or least_connections",
	"AppLoadBalancer.forwarding_rules":          "HTTP from port 80 to port 80 if left out",
	"AppLoadBalancer.health_check":              "of the first rule's target if left out",
	"AppLoadBalancer.http_idle_timeout_seconds": "60 if left out",

	"BalancerPolicy":             "What a load balancer does that DigitalOcean's do not. What is left out is not done.",
	"LoadBalancerRequest.weir":   "what the load balancer does that DigitalOcean's do not, all of it: {} is nothing; as it is if left out. Droplets stay drained",
	"TargetGroup":                "Servers beside a load balancer's own droplets.",
	"Route":                      "What becomes of requests for some hosts and paths.",
	"Redirect":                   "The URL that a request is answered with. What is left out stays as it was asked for.",
	"Rewrite":                    "What servers are asked for. What is left out stays as clients asked for it.",
	"HeaderChanges":              "Changes of headers.",
	"Maintenance":                "Every request is answered with 503.",
	"RateLimit":                  "How often each client may ask.",
	"BasicAuth":                  "Clients log in by HTTP's basic scheme.",
	"BasicAuthUser":              "Who may log in.",
	"BasicAuthUser.name":         "without spaces and colons",
	"ClientCertificates":         "Clients show a certificate when they speak TLS.",
	"Drained":                    "A droplet that gets no requests of a load balancer.",
	"Drained.droplet_id":         "the ID of the droplet",
	"TargetGroup.name":           "by which routes and splits mean it",
	"RateLimit.requests":         "1 to 1000000",
	"Redirect.path":              "instead of all of the path",
	"Redirect.path_prefix":       "instead of what the route's path fits",
	"Rewrite.path":               "instead of all of the path",
	"Rewrite.path_prefix":        "instead of what the route's path fits",
	"TargetGroup.tag":            "which its droplets have; or they are named by droplet_ids",
	"TargetGroup.droplet_ids":    "the IDs of its droplets; or they are those with a tag",
	"TargetGroup.split":          "percentage of the requests that routes send here, by other groups; its own droplets have the rest",
	"Route.path":                 "what paths begin with, by whole segments: /api fits /api and /api/users, not /apis; any if left out",
	"LoadBalancerWeir.drained":   "droplets that get no requests, until they are undrained; a call of its own changes that",
	"Applied.changes":            "a sentence for each change; none if all was as asked",
	"Growth":                     "How many machines a pool gets.",
	"Growth.count":               "1 to 1000",
	"NewNode":                    "A machine of one's own that may join.",
	"NodeToken":                  "By what it joins. Nobody can read the token again.",
	"Token":                      "A right to call.",
	"NewToken":                   "A token that is to be made.",
	"NewToken.team":              "the first one if left out",
	"NewToken.expires_at":        "as in RFC 3339; never if left out",
	"Splitting":                  "Who shares requests.",
	"Splitting.split":            "percentage of the requests, by group; the rest is its own. {} ends the split",
	"Maintaining":                "Whether a load balancer is in maintenance. What is left out stays as it was.",
	"TargetDrain":                "Which target is drained.",
	"Handover":                   "To whom a load balancer is handed over.",
	"Draining":                   "Whether a machine is kept from serving.",
	"Fault":                      "What is broken of a machine.",
	"Fault.type":                 "kill (a power cut), freeze and thaw, partition and heal, reboot",
	"Fault.link":                 "that a partition cuts: both if left out",
	"Fault.direction":            "that a partition cuts: both if left out",
	"Fault.silent":               "whether neither end of a partition is told: true if left out; false takes the link down",
	"MachineOverview.on_host":    "the host of its cloud that it is on; left out if its cloud does not say",
	"NodeOverview.on_host":       "left out: no cloud knows it",
	"InventoryMachine.on_host":   "the host of its cloud that it is on; left out if its cloud does not say",
	"HostFault":                  "What a host of the local cloud should suffer.",
	"HostFault.type":             "fail (a power cut of all its machines) or restore",
	"Applied":                    "What was changed.",
	"Pool":                       "A pool of servers that are the same.",
	"InventoryMachine":           "A machine, which may be an instance of a load balancer.",
	"RegionStatus":               "A region at a glance.",
	"RegionStatus.problems":      "what a person should look at, as sentences, the worst first",
	"RegionStatus.counts":        "how many of the machines are in each state",
	"RegionStatus.versions":      "what runs",
	"InstanceOverview.wants":     "the newest revision of the configuration that was made for it",
	"InstanceOverview.node":      "its last report; seen is not there if there was none",
	"InstanceOverview.health":    "what the control plane thinks of it",
	"InstanceOverview.machine":   "the ID of the machine",
	"Audit":                      "One request for a change. What its body said is not part of it.",
	"Audit.token":                "the ID of the token",
	"AutoscaleTemplate":          "How to make a droplet.",
	"Error":                      "Why something was not done.",
	"ErrorWeir.scope":            "the scope that the token lacks",
	"Error.weir":                 "what DigitalOcean has no word for",
	"NodeStatus.tried":           "the newest revision that was given to HAProxy",
	"NodeStatus.revision":        "of the configuration that is live",
	"Failover.took":              "in nanoseconds, from the decision until the address was seen to have moved; it is not there until then",
	"PeerStatus.paths":           "to each of its addresses",
	"FrontendCounts.responses":   "by the first digit of their status, 1 to 5, and others",
	"Counts.taken":               "when, by the node's clock",
	"Health.why":                 "why it is not well",
	"MachineOverview.drained":    "an operator keeps it from serving",
	"ServerStatus.id":            "the ID of the machine",
	"NodeToken.token":            "for its agent, once",
	"Boot.state":                 "how far it is; it is not there if nobody can look",
	"DropletWeir.boot":           "how far its first boot is: running, done or failed",
	"WorkerCounts.frontends":     "by listening socket",
	"WorkerCounts.backends":      "by set of servers",
	"WorkerCounts.cpu":           "processor time that it has used, in nanoseconds",
	"BackendCounts.response":     "how long servers took to answer, in nanoseconds: the mean of the last 1,024 requests",
	"BackendCounts.session":      "how long requests took from their first byte to the last of their answer, in nanoseconds: the mean of the last 1,024",
	"HAProxyStatus.counts":       "what it has counted",
	"HostStatus.name":            "its host name",
	"NodeStatus.servers":         "as HAProxy sees them",
	"NodeStatus.haproxy":         "the HAProxy process",
	"NodeOverview.host":          "as it last said",
	"NodeOverview.haproxy":       "the version of HAProxy on it",
	"Versions.haproxy":           "of the instances; several are separated by commas",
	"Failover.from":              "the ID of the instance that had the address",
	"Failover.to":                "the ID of the instance that gets it",
	"Failover.to_name":           "its name",
	"Failover.from_name":         "its name, as the machine may be gone",
	"LoadBalancerRequest.tags":   "what it has if left out",
	"LoadBalancerRequest.ip":     "refused: Weir reserves the address itself",
	"NodeStatus.seen":            "when the control plane got this",
	"NewToken.user":              "who gets it",
	"Audit.created":              "the IDs of what it made",
	"Audit.resource":             "what the path names",
	"Audit.status":               "of the answer; 0 if it is not known: the change was made, and perhaps nobody was told",
	"InventoryMachine.status":    "how it is: new, active, off or deleting",
	"Boot.end":                   "of a failure: the last lines of the log",
	"Event.id":                   "its ID; IDs are in the order in which things happened",
	"Audit.id":                   "its ID; IDs sort the newest first",
	"DropletRequest.ssh_keys":    "IDs or fingerprints of keys that are kept, or public keys",
	"AutoscaleTemplate.ssh_keys": "IDs or fingerprints of keys that are kept, or public keys",
	"Handover.to":                "the name or the ID of an instance; the best one that stands by if left out",
}

// usual is what a field of a name says wherever it is, unless it says something else.
var usual = map[string]string{
	"id": "its ID", "name": "its name", "team": "whose it is: the first team's if it is not there", "region": "where it is", "size": "its size", "image": "what it was made from", "tags": "its tags",
	"created_at": "when it was made", "created": "when it was made", "status": "how it is", "plan": "the steps still to be taken", "err": "why it is not as it should be", "error": "why it is not as it should be",
	"deleting": "it is being deleted", "pool": "the ID of its pool", "load_balancer": "the ID of its load balancer", "weir": "what DigitalOcean has no word for", "public": "its public address", "private": "its private address",
	"public_ip": "its public address", "private_ip": "its private address", "boot": "how its first boot went", "phase": "how it is", "machine": "the ID of its machine", "node": "the ID of its machine", "count": "how many machines it should have",
	"machines": "how many machines it has", "since": "since when it is so", "why": "why it is so", "text": "what happened", "kind": "what it is about", "at": "when", "user": "whose token it was", "scopes": "what it may do", "address": "its address",
	"addr": "the address", "algorithm": "how requests are spread", "rules": "what it listens to, and where to", "instances": "the machines that run it", "load_balancers": "all load balancers", "pools": "all pools", "state": "how it is", "join": "where to join",
	"type": "which one", "hostname_prefix": "of its machines' names", "entry": "the protocol that clients speak", "entry_port": "the port that clients reach", "target": "the protocol that servers speak", "target_port": "the port of the servers",
	"certificate": "the ID of the certificate", "new": "being made", "active": "powered on", "failed": "whose first boot failed", "off": "powered off", "expired": "it is no longer good", "version": "its version", "mode": "the protocol",
	"requests": "how many requests", "responses": "how many responses", "method": "its method", "path": "its path", "request_id": "the ID of the answer", "from": "the address that it came from", "pid": "its process", "ended": "it has ended", "ssh_keys": "public keys that may log in",
	"etcd": "the version of etcd", "backend": "the set of servers that it is in", "workers": "its processes", "message": "one sentence", "addrs": "its addresses",
}
