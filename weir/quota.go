package weir

import "time"

// Quota says which members of the control plane hold how much of one token's rate limits.
// What a member holds it may use as often as its requests leave the window, and asks nobody;
// all of them together hold no more than the limit. Package edge has the rules.
type Quota struct {
	Holders []Holder `json:"holders"`
}

// Holder is what one member holds.
type Holder struct {
	Member ID        `json:"member"` // one life of it: after a restart it is another
	Until  time.Time `json:"until"`  // when it may not use it any more, unless it says more
	Minute Held      `json:"minute"`
	Hour   Held      `json:"hour"`
}

// Held is what is held of the limit on one window.
type Held struct {
	Permits int       `json:"permits"`         // those that are used up within the window among them
	Oldest  time.Time `json:"oldest,omitzero"` // when the first of those was used
}

// Allowance is what a caller may ask at this moment.
type Allowance struct {
	Limit     int           // how many requests a window may have; 0 is as many as there are
	Remaining int           // of them
	Reset     time.Time     // when the oldest of those that were made leaves the window
	Wait      time.Duration // how long until another one may be made; 0 is none at all
}
