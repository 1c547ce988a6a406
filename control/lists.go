package control

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"weir/store"
	"weir/weir"
)

// lists are the rows of a table as users see them: a few of many, in an order, by a filter. While a member
// runs it has them in memory (store.Mirror), and a page costs the same among a million rows as among ten; before
// that it reads the table. Either way nobody is shown what is older than the question.
type lists[T any] struct {
	db     *store.Store
	table  store.Table[T]
	less   func(a, b *T) bool
	of     func(*T) []string // the lists that a row is in
	mirror *store.Mirror[T]
	runs   atomic.Bool
}

func newLists[T any](db *store.Store, table store.Table[T], less func(a, b *T) bool, of func(*T) []string) *lists[T] {
	return &lists[T]{db: db, table: table, less: less, of: of, mirror: store.NewMirror(db, table, less, of)}
}

// run keeps the lists in memory until ctx ends.
func (l *lists[T]) run(ctx context.Context, log *slog.Logger) {
	l.runs.Store(true)
	defer l.runs.Store(false)
	l.mirror.Run(ctx, log)
}

// view gives f the lists as they are at one moment.
func (l *lists[T]) view(ctx context.Context, f func(store.Pages[T])) error {
	if l.runs.Load() {
		return l.mirror.View(ctx, f)
	}
	all, err := l.table.All(ctx, l.db)
	if err == nil {
		f(rows[T]{l, all})
	}
	return err
}

// page returns a page of one list, as store.Pages has it.
func (l *lists[T]) page(ctx context.Context, list string, from, n int) (page []T, total int, err error) {
	err = l.view(ctx, func(p store.Pages[T]) { page, total = p.Page(list, from, n) })
	return page, total, err
}

// get returns the row at key, or weir.NotFound.
func (l *lists[T]) get(ctx context.Context, key weir.ID) (T, error) {
	if l.runs.Load() {
		return l.mirror.Get(ctx, key)
	}
	return l.table.Get(ctx, l.db, key)
}

// rows are lists that were read from the table.
type rows[T any] struct {
	*lists[T]
	all []T
}

func (r rows[T]) Page(list string, from, n int) (page []T, total int) {
	for _, row := range r.all {
		if slices.Contains(r.of(&row), list) {
			page = append(page, row)
		}
	}
	slices.SortFunc(page, func(a, b T) int {
		if r.less(&a, &b) {
			return -1
		}
		return 1
	})
	from, end := store.PageOf(len(page), from, n)
	return page[from:end], len(page)
}

func (r rows[T]) Each(list string, from, n int, do func(*T)) (total int) {
	page, total := r.Page(list, from, n)
	for i := range page {
		do(&page[i])
	}
	return total
}

// The names of lists. No ID of a team, and no tag, has a slash.
func listOf(team weir.ID, by ...string) string { return string(team) + "/" + strings.Join(by, "/") }
func tagList(team weir.ID, tag string) string  { return listOf(team, "tag", strings.ToLower(tag)) }
func nameList(team weir.ID, name string) string {
	return listOf(team, "name", strings.ToLower(name))
}

// Lists of all teams, which no team's name begins.
const (
	everyList   = "every"   // all machines
	ownList     = "own"     // machines of one's own
	meteredList = "metered" // machines that have an exporter
	segmentList = "segment" // the load balancers that run on those
)

// Lists by which controllers find what concerns each other, of all states.
func comingList(region string) string     { return "coming:" + region }            // the machines that a region's cloud is still to make
func instanceList(lb weir.ID) string      { return "instance:" + string(lb) }      // machines
func poolList(pool weir.ID) string        { return "pool:" + string(pool) }        // machines
func namingList(m weir.ID) string         { return "names:" + string(m) }          // load balancers that name a machine: as a server, or as a drained one
func certificateList(cert weir.ID) string { return "certificate:" + string(cert) } // load balancers that end TLS with it
func servedList(team weir.ID, tag string) string { // load balancers whose servers go by a tag
	return listOf(team, "serves", strings.ToLower(tag))
}

// compareNumbers compares decimal IDs as numbers.
func compareNumbers(a, b weir.ID) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// mirrored are all tables of which users see pages, and controllers what concerns each other.
type mirrored struct {
	machines      *lists[weir.Machine] // by user's lists those that users made, which is no instance and none of one's own
	loadBalancers *lists[weir.LoadBalancer]
	actions       *lists[weir.Action] // the newest first
	tags          *lists[tag]
}

func newMirrored(db *store.Store) mirrored {
	return mirrored{
		machines: newLists(db, machines.Table,
			func(a, b *weir.Machine) bool { return compareNumbers(a.ID, b.ID) < 0 },
			func(m *weir.Machine) (in []string) {
				in = append(in, everyList)
				if m.LoadBalancer != "" {
					in = append(in, instanceList(m.LoadBalancer))
				}
				if m.Pool != "" {
					in = append(in, poolList(m.Pool))
				}
				if m.Metered != nil {
					in = append(in, meteredList)
				}
				if m.Own {
					return append(in, ownList)
				}
				if m.Status.Phase == weir.MachineNew && m.Deleting.IsZero() {
					in = append(in, comingList(m.Region))
				}
				if m.LoadBalancer != "" {
					return in
				}
				in = append(in, listOf(m.Team), nameList(m.Team, m.Name))
				return append(in, tagLists(m.Team, m.Tags)...)
			}),
		loadBalancers: newLists(db, loadBalancers.Table,
			func(a, b *weir.LoadBalancer) bool {
				return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) < 0
			},
			func(lb *weir.LoadBalancer) (in []string) {
				if lb.Mode == weir.OnSegment {
					in = append(in, segmentList)
				}
				for _, tag := range lb.TargetTags() {
					in = append(in, servedList(lb.Team, tag))
				}
				for _, id := range lb.TargetMachines() {
					in = append(in, namingList(id))
				}
				for id := range lb.Policy.Drained {
					if list := namingList(id); !slices.Contains(in, list) {
						in = append(in, list)
					}
				}
				for _, r := range lb.Rules {
					if list := certificateList(r.Certificate); r.Certificate != "" && !slices.Contains(in, list) {
						in = append(in, list)
					}
				}
				if !lb.Deleting.IsZero() {
					return in
				}
				// These names are compared with case.
				in = append(in, listOf(lb.Team), listOf(lb.Team, "name", lb.Name))
				return append(in, tagLists(lb.Team, lb.Tags)...)
			}),
		actions: newLists(db, actions.Table,
			func(a, b *weir.Action) bool { return compareNumbers(a.ID, b.ID) > 0 },
			func(a *weir.Action) []string {
				return []string{listOf(a.Team), listOf(a.Team, "on", string(a.Resource), string(a.On))}
			}),
		tags: newLists(db, tags.Table,
			func(a, b *tag) bool { return tagKey(a.Team, a.Name) < tagKey(b.Team, b.Name) },
			func(t *tag) []string { return []string{listOf(t.Team)} }),
	}
}

// tagLists returns the lists of the tags, each once.
func tagLists(team weir.ID, tags []string) (in []string) {
	for _, t := range tags {
		if list := tagList(team, t); !slices.Contains(in, list) {
			in = append(in, list)
		}
	}
	return in
}

// run keeps all lists in memory until ctx ends.
func (m *mirrored) run(ctx context.Context, log *slog.Logger) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.machines.run(ctx, log) })
	wg.Go(func() { m.loadBalancers.run(ctx, log) })
	wg.Go(func() { m.actions.run(ctx, log) })
	wg.Go(func() { m.tags.run(ctx, log) })
}

// MachinePage returns at most n of the machines that the caller's team has made and f means, by ID, those after
// the first from, and how many there are.
func (c *Control) MachinePage(ctx context.Context, f weir.Filter, from, n int) ([]weir.Machine, int, error) {
	team := weir.CallerOf(ctx).Team
	list := listOf(team)
	switch {
	case f.Tag != "":
		list = tagList(team, f.Tag)
	case f.Name != "":
		list = nameList(team, f.Name)
	}
	return c.lists.machines.page(ctx, list, from, n)
}

// LoadBalancerPage returns at most n of the load balancers that f means, the oldest first, likewise.
func (c *Control) LoadBalancerPage(ctx context.Context, f weir.Filter, from, n int) ([]weir.LoadBalancer, int, error) {
	team := weir.CallerOf(ctx).Team
	list := listOf(team)
	switch {
	case f.Tag != "":
		list = tagList(team, f.Tag)
	case f.Name != "":
		list = listOf(team, "name", f.Name)
	}
	return c.lists.loadBalancers.page(ctx, list, from, n)
}

// ActionPage returns at most n of all actions, the newest first, likewise.
func (c *Control) ActionPage(ctx context.Context, from, n int) ([]weir.Action, int, error) {
	return c.lists.actions.page(ctx, listOf(weir.CallerOf(ctx).Team), from, n)
}

// ActionPageOf is ActionPage of the actions on one thing.
func (c *Control) ActionPageOf(ctx context.Context, kind weir.ResourceKind, on weir.ID, from, n int) ([]weir.Action, int, error) {
	return c.lists.actions.page(ctx, listOf(weir.CallerOf(ctx).Team, "on", string(kind), string(on)), from, n)
}

// TagPage returns at most n of all tags, sorted, likewise, with how much has them.
func (c *Control) TagPage(ctx context.Context, from, n int) (page []weir.Tag, total int, err error) {
	rows, total, err := c.lists.tags.page(ctx, listOf(weir.CallerOf(ctx).Team), from, n)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range rows {
		page = append(page, weir.Tag{Name: t.Name})
	}
	return page, total, c.countTagged(ctx, page)
}

// TagNamed returns one tag, or weir.NotFound; tags are compared without case.
func (c *Control) TagNamed(ctx context.Context, name string) (weir.Tag, error) {
	row, err := c.lists.tags.get(ctx, tagKey(weir.CallerOf(ctx).Team, name))
	if err != nil {
		return weir.Tag{}, err
	}
	found := []weir.Tag{{Name: row.Name}}
	return found[0], c.countTagged(ctx, found)
}

// countTagged fills in what has each of the tags.
func (c *Control) countTagged(ctx context.Context, all []weir.Tag) error {
	team := weir.CallerOf(ctx).Team
	err := c.lists.machines.view(ctx, func(p store.Pages[weir.Machine]) {
		for i := range all {
			all[i].Machines = p.Each(tagList(team, all[i].Name), -1, 1, func(m *weir.Machine) { all[i].LastMachine = m.ID })
		}
	})
	if err != nil {
		return err
	}
	return c.lists.loadBalancers.view(ctx, func(p store.Pages[weir.LoadBalancer]) {
		for i := range all {
			all[i].LoadBalancers = p.Each(tagList(team, all[i].Name), -1, 1, func(lb *weir.LoadBalancer) { all[i].LastLoadBalancer = lb.ID })
		}
	})
}
