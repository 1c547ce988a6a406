// Package sim tests the whole control plane at once, in one synctest bubble, where
// minutes pass in milliseconds: two members of it on one store, a cloud, the nodes that
// the cloud's machines become, and users who all want something else.
//
// A history has three parts. First there is trouble: calls fail before or after they
// take effect, or take effect long after they failed; watches break; leaders are
// deposed and do not know; members crash in the middle of anything; machines die.
// Then it is quiet, and within minutes what runs must be what was asked, with nothing
// left over. And then nothing may happen any more: no commit, no call that changes the
// cloud. Some things may not happen at any moment, such as the end of a machine that a
// node still sends requests to.
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
