package weir

// Filter says which things of a list are meant: those with the tag, those of the name, or all. It is one of
// them at most. Tags are compared without case, and so are the names of machines.
type Filter struct{ Tag, Name string }

// Tag is a word that machines and load balancers are found by, with how many have it and the last of each.
type Tag struct {
	Name             string // as first written
	Machines         int
	LastMachine      ID
	LoadBalancers    int
	LastLoadBalancer ID
}
