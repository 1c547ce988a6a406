package weir

import "time"

// EventKind says what an event is about.
type EventKind string

// The kinds of events.
const (
	EventEvidence EventKind = "evidence" // something was seen
	EventDecision EventKind = "decision" // something was decided because of it
	EventStep     EventKind = "step"     // something that was decided has been done
	EventRequest  EventKind = "request"  // a user asked for something
)

// Event is one thing that happened, for a person who wants to know afterwards. Its text is a
// sentence without its time.
type Event struct {
	ID           ID        `json:"id"` // in the order in which they happened
	Team         ID        `json:"team,omitempty"`
	At           time.Time `json:"at"`
	Kind         EventKind `json:"kind"`
	LoadBalancer ID        `json:"load_balancer,omitempty"`
	Name         string    `json:"name,omitempty"` // of the load balancer, or of the machine or the pool if it concerns none
	Machine      ID        `json:"machine,omitempty"`
	Text         string    `json:"text"`
}
