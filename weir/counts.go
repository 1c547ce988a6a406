package weir

import (
	"time"
)

// Counts are what a node's HAProxy has counted, read at one moment. They are in no row: who hears of
// them keeps them in memory.
type Counts struct {
	Taken   time.Time      `json:"taken"`   // by the node's clock
	Limit   int64          `json:"limit"`   // how many connections it takes at once
	Threads int            `json:"threads"` // on how many cores it works at most
	Workers []WorkerCounts `json:"workers"` // the one that has the listening sockets, then those that reloads have replaced

	Access *AccessCounts `json:"access,omitempty"` // of the access log, where there is one
}

// WorkerCounts are what one worker of HAProxy has counted since it started. One that has ended is
// listed for a while with the last that was read of it.
type WorkerCounts struct {
	PID       int              `json:"pid"`
	Ended     bool             `json:"ended,omitempty"`
	CPU       time.Duration    `json:"cpu"`                // that it has used
	Unlogged  int64            `json:"unlogged,omitempty"` // lines of the access log that nobody took in time
	Frontends []FrontendCounts `json:"frontends,omitempty"`
	Backends  []BackendCounts  `json:"backends,omitempty"`
}

// FrontendCounts are what a worker has counted of the clients of one listening socket.
type FrontendCounts struct {
	Name      string    `json:"name"`
	Mode      Protocol  `json:"mode"`
	Sessions  int64     `json:"sessions,omitempty"` // at the moment
	Requests  int64     `json:"requests,omitempty"`
	Responses Responses `json:"responses,omitzero"`
	In        int64     `json:"in,omitempty"`  // bytes from clients
	Out       int64     `json:"out,omitempty"` // bytes to them
	TLS       int64     `json:"tls,omitempty"` // handshakes
}

// BackendCounts are what a worker has counted of a set of servers.
type BackendCounts struct {
	Name      string        `json:"name"`
	Mode      Protocol      `json:"mode"`
	Queue     int64         `json:"queue,omitempty"`    // requests that wait for a server, at the moment
	Responses Responses     `json:"responses,omitzero"` // of servers
	Response  time.Duration `json:"response,omitempty"` // how long servers took to answer: HAProxy's mean of the last 1,024 requests, in whole milliseconds
	Session   time.Duration `json:"session,omitempty"`  // how long a request took from its first byte to the last of its answer, likewise
}

// Responses counts HTTP responses by the first digit of their status, 1 to 5, and others.
type Responses [6]int64

// ResponseClasses are DigitalOcean's names for what Responses counts.
var ResponseClasses = [6]string{"1xx", "2xx", "3xx", "4xx", "5xx", "other"}

// All returns the number of all responses.
func (r Responses) All() (n int64) {
	for _, of := range r {
		n += of
	}
	return n
}

// Sessions returns how many clients are connected.
func (c *Counts) Sessions() (n int64) {
	for _, w := range c.Workers {
		for _, f := range w.Frontends {
			n += f.Sessions
		}
	}
	return n
}
