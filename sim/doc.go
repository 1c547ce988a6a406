// Package sim tests the whole control plane at once, in one synctest bubble, where
// minutes pass in milliseconds: three members of it, each with a copy of one store, a cloud, the
// nodes that the cloud's machines become, machines of one's own that hold an address by
// themselves, and users who all want something else.
//
// A history has three parts. First there is trouble:
//
//   - calls fail before or after they take effect, or take effect long after they failed;
//     watches break; leaders are deposed and do not know; members crash in the middle of
//     anything, and above all between the decision to move an address and its arrival;
//   - the network loses what goes one way or both: between machines, on one path or all, between
//     them and members, between members, so that a minority of them can decide nothing;
//   - in half of the clouds whole hosts fail for a while, with all that is on them;
//   - machines die, vanish, stand still; so do their HAProxy alone and their agent alone; they
//     no longer reach their servers; any of this flaps;
//   - reports come late, twice, or not; clocks differ, and those of members jump.
//
// Then all heals, and within minutes what runs must be what was asked, with nothing left over:
// each load balancer has as many instances as it should, all well, and its address is
// at one of them. And then nothing may happen any more: no commit, no call that changes the
// cloud.
//
// Some things may not happen at any moment. Most are looked for in each commit, against what was
// stored at the revision before, on which the commit was decided, and against what is true in the world:
//
//   - a machine ends to which a node still sends requests;
//   - an address moves to an instance that runs an older configuration than another;
//   - an instance ends that clients could be served by, and the one that has the address serves
//     nobody, and has not for some seconds;
//   - a load balancer gets more than one instance too many;
//   - an address is back where it has just left from, sooner than its hold-down allows;
//   - two nodes hold one address for longer than package vip says that they may.
//
// Agents here are not package agent, which needs a network and disks: nodes do in this world
// what agents do in theirs. But what allows a node to hold an address is the real vip.Permit.
//
//	go test ./sim                         enough histories for every day
//	go test ./sim -histories=10000        enough for a night
//	go test ./sim -seed=1107              one of them; its story is told if it fails
//
// What meets whom comes from the seed, in a stream for each actor and one for each kind
// of call. It does not fix everything: the order of what happens at one moment, the
// store's words and the jitter of those who wait are others in each run. So the story of
// a failure is what to read, and -count what shows it again:
//
//	go test ./sim -seed=1107 -count=50 -failfast -stories DIR
package sim
