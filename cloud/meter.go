package cloud

import (
	"context"
	"time"

	"weir/weir"
)

// Meter tells what machines use. Not every cloud can, so it is no part of [Cloud].
type Meter interface {
	// Loads returns the load of each of our machines that is on, by ID. A machine that went off
	// or came on meanwhile may be missing.
	Loads(ctx context.Context) ([]Load, error)

	// Every returns how far apart the moments are of which the cloud has figures: Loads tells nothing new more often, and
	// what it tells may be twice as old. It is 0 if Loads measures when it is called; otherwise Loads may have nothing yet of a machine
	// that has just come on.
	Every() time.Duration
}

// Load is what one machine uses at a moment, and has used since it was last powered on. A cloud that does not tell
// what went through interfaces, of free and cached memory or of the disk has zeros there.
type Load struct {
	Machine weir.ID
	Taken   time.Time // the moment
	Since   time.Time // when it was powered on: what is counted began then, with 0

	CPUs         int
	User, System time.Duration // CPU time that it has used: its programs, and its kernel for them
	Memory       Memory
	Public       Traffic // on its public interface
	Private      Traffic
	Disk         Disk
}

// Memory is a machine's, in bytes.
type Memory struct {
	Total     int64
	Free      int64 // used for nothing
	Cached    int64 // with what is in files on disk, or in memory alone
	Available int64 // to programs: what is free, and what is cached of files on disk
}

// Traffic is what went through an interface, in bytes.
type Traffic struct{ In, Out int64 }

// Disk is a file system, in bytes.
type Disk struct {
	Device, Type, Mount string // as the machine sees them: /dev/vda1, ext4, /
	Size, Free          int64
}
