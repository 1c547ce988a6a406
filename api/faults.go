package api

import (
	"context"
	"errors"
	"net/http"

	"weir/weir"
)

// Faults breaks machines on purpose. Package cloud says what each of these promises; a
// driver that keeps its Faults keeps this.
type Faults interface {
	Kill(ctx context.Context, id weir.ID) error
	Reboot(ctx context.Context, id weir.ID) error
	Freeze(ctx context.Context, id weir.ID) error
	Thaw(ctx context.Context, id weir.ID) error
	Partition(ctx context.Context, id weir.ID, cut weir.Cut) error
	Heal(ctx context.Context, id weir.ID) error

	FailHost(ctx context.Context, name string) error
	RestoreHost(ctx context.Context, name string) error
}

// errNoFaults is the answer where nothing can be broken.
var errNoFaults = invalid("this cloud does not break machines on purpose: only the local cloud of weir dev does")

// faultHost breaks or mends a whole host, and answers once it is done.
func (a *api) faultHost(w http.ResponseWriter, r *http.Request) error {
	var f HostFault
	if err := decode(w, r, &f); err != nil {
		return err
	}
	if a.Faults == nil {
		return errNoFaults
	}
	var do func(context.Context, string) error
	switch f.Type {
	case FaultFail:
		do = a.Faults.FailHost
	case FaultRestore:
		do = a.Faults.RestoreHost
	default:
		return invalid("type is %.40q, want fail or restore", f.Type)
	}
	err := do(r.Context(), r.PathValue("name"))
	if errors.Is(err, weir.NotFound) {
		return &statusError{http.StatusNotFound, err.Error()}
	}
	if err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// fault breaks any machine, load balancers' instances included, and answers once it is done.
func (a *api) fault(w http.ResponseWriter, r *http.Request) error {
	id, err := numericID(r, "id")
	if err != nil {
		return err
	}
	var f Fault
	if err := decode(w, r, &f); err != nil {
		return err
	}
	do, err := a.faultOf(f)
	if err != nil {
		return err
	}
	clouds := []Faults{a.Faults}
	for _, region := range a.Further {
		clouds = append(clouds, region.Faults)
	}
	// Who operates the region breaks machines of all teams, which their teams alone see.
	m, unseen := a.Control.Machine(r.Context(), id)
	if unseen != nil && !errors.Is(unseen, weir.NotFound) {
		return unseen
	}
	for _, c := range clouds {
		if err = do(c, r.Context(), id); !errors.Is(err, weir.NotFound) {
			break
		}
	}
	if errors.Is(err, weir.NotFound) {
		if unseen != nil {
			return unseen
		}
		return weir.Errorf(weir.Conflict, "machine %s is not in the cloud yet, or no longer", m.Name)
	}
	if err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// faultOf returns what does f to a machine of a region.
func (a *api) faultOf(f Fault) (do func(Faults, context.Context, weir.ID) error, err error) {
	if a.Faults == nil {
		return nil, errNoFaults
	}
	if f.Type != FaultPartition && (f.Link != "" || f.Direction != "" || f.Silent != nil) {
		return nil, invalid("link, direction and silent go with the type partition alone, and type is %.40q", f.Type)
	}
	switch f.Type {
	case FaultKill:
		return Faults.Kill, nil
	case FaultReboot:
		return Faults.Reboot, nil
	case FaultFreeze:
		return Faults.Freeze, nil
	case FaultThaw:
		return Faults.Thaw, nil
	case FaultHeal:
		return Faults.Heal, nil
	case FaultPartition:
		cut := weir.Cut{Link: f.Link, Direction: f.Direction, Down: f.Silent != nil && !*f.Silent}
		if err := cut.Check(); err != nil {
			return nil, err
		}
		return func(c Faults, ctx context.Context, id weir.ID) error { return c.Partition(ctx, id, cut) }, nil
	}
	return nil, invalid("type is %.40q, want kill, freeze, thaw, partition, heal or reboot", f.Type)
}
