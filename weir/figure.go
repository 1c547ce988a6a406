package weir

import "time"

// Figure names something that is measured of a load balancer or a machine, in DigitalOcean's words.
type Figure string

// Series is a figure over time.
type Series struct {
	Labels map[string]string // what tells it from the figure's other series
	Points []Point           // the oldest first
}

// Point is a figure in the time that ends at At, from the point before.
type Point struct {
	At    time.Time
	Value float64
}

// Work is what one controller of the control plane does.
type Work struct {
	Kind           string // of what it looks at: machine, lb
	Waiting        int    // things that are to be looked at, some of them later
	Running        int
	Runs, Failures int64 // since this member of the control plane leads
}

// Traffic is what has gone through a load balancer since a member of the control plane began to hear of
// it, and what it does at the moment.
type Traffic struct {
	LoadBalancer ID
	Name         string
	Requests     float64
	Responses    [6]float64 // as ResponseClasses has them
	HTTPBytes    float64    // in both directions
	TCPBytes     float64
	TLS          float64 // handshakes
	Connections  float64
	Queue        float64
	ServersUp    int
	Servers      int

	// How long requests took until their server began to answer, and in all, of those that the access log has. Without a
	// log there are none.
	Answered, Ended TrafficDurations
}

// TrafficDurations are times, counted as DurationBounds has them.
type TrafficDurations struct {
	Counts  []float64 // nil: nobody counts
	Seconds float64   // of all of them
}
