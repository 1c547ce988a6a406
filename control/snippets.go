package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"weir/store"
	"weir/weir"
)

// operatorSnippets is what an operator adds to the configuration of a load balancer of the first team, by snippetsKey.
type operatorSnippets struct {
	Name string `json:"name"` // of the load balancer, which need not be there yet
	weir.Snippets
}

var snippets = store.NewTable[operatorSnippets]("snippets")

// snippetsKey is the key of a load balancer's snippets: names have characters that a key has not.
func snippetsKey(name string) weir.ID { return weir.ID(fmt.Sprintf("%x", name)) }

// SetSnippets makes the operator's snippets those of all, by the names of load balancers of the first team, and no others.
// They were checked by HAProxy. Nobody but the process that runs the control plane calls it: there is no way to it by
// the API. It returns the names of those whose snippets are others now.
func (c *Control) SetSnippets(ctx context.Context, all map[string]weir.Snippets) (changed []string, err error) {
	for _, s := range all {
		if err := s.Check(); err != nil {
			return nil, err
		}
	}
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		changed = nil
		rows, err := snippets.All(ctx, tx)
		if err != nil {
			return err
		}
		for _, was := range rows {
			if _, wanted := all[was.Name]; !wanted {
				snippets.Delete(tx, snippetsKey(was.Name))
				changed = append(changed, was.Name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			is := operatorSnippets{name, all[name]}
			if was, err := snippets.Get(ctx, tx, snippetsKey(name)); err == nil && reflect.DeepEqual(was, is) {
				continue
			} else if err != nil && !errors.Is(err, weir.NotFound) {
				return err
			}
			snippets.Put(tx, snippetsKey(name), is)
			changed = append(changed, name)
		}
		return nil
	})
	return changed, err
}

// snippetsOf returns the operator's snippets for lb: none if it is another team's.
func snippetsOf(ctx context.Context, r store.Reader, lb weir.LoadBalancer) (weir.Snippets, error) {
	if lb.Team != "" {
		return weir.Snippets{}, nil
	}
	row, err := snippets.Get(ctx, r, snippetsKey(lb.Name))
	if errors.Is(err, weir.NotFound) {
		err = nil
	}
	return row.Snippets, err
}
