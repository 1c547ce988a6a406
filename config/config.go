// Package config reads weir.yaml, the file in which a user says which machines and
// which load balancer there should be.
//
//	name: web                       # of the pool, of the load balancer, and the machines' tag
//	size: s-1vcpu-1gb
//	user_data: user-data.sh         # a file beside this one
//	count: 3
//	load_balancer:
//	  forwarding_rules:
//	    - {entry_protocol: http, entry_port: 80, target_protocol: http, target_port: 80}
//
// Servers that are no machines of Weir's are named by their addresses, and then nothing
// is said of how to make one:
//
//	name: web
//	servers: [192.0.2.21, 192.0.2.22]
//	load_balancer:
//	  address: 192.0.2.10/24        # on a network of one's own; without it, from the cloud
//
// An operator's own lines of HAProxy's configuration are for the control plane to read, and are sent by nobody:
//
//	haproxy:
//	  global: tune.ssl.cachesize 50000
//	  frontends:
//	    http-80: http-request deny if { path_beg /private }
//
// Only the name has to be there; see [Load] for the keys and what they are without
// the file's word. Words and limits are those of the API, since both ask package weir
// what is valid. Whatever is wrong is one error of kind weir.Invalid that fits in one
// line and says where: `weir.yaml:7: count is "three", want a whole number from 0 to 1000`.
//
// The file is plain YAML: anchors, aliases, tags and a second document are errors.
// Package config knows nothing of the API or of the region that the file is for.
package config

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"weir/weir"
)

// What a user gets who does not say otherwise.
const (
	defaultSize  = "s-1vcpu-1gb"
	defaultCount = 1
)

// App is what one file asks for: machines, and the load balancer in front of them.
// The machines carry the pool's name as a tag, and the load balancer targets that tag.
// Servers that are given by address are no machines of a pool, and then Pool is nil.
type App struct {
	Pool         *weir.Pool
	LoadBalancer weir.LoadBalancer
	// Snippets are for the operator of a control plane, who names the file to it. Whoever applies the file does not send them.
	Snippets weir.Snippets
	// Passwords are those of who may log in at the load balancer, by name. Their hashes in LoadBalancer have another salt
	// each time: [weir.Login.Keep] makes those of a load balancer that is there already.
	Passwords map[string]string

	region string // where the file says which region: "weir.yaml:2"; empty if it does not
	sizes  []said // which of the pool's sizes say a region
}

// said is a word of a file, and where it is: "weir.yaml:2".
type said struct{ word, at string }

// Load reads a file. user_data, ssh_keys, and a load balancer's pages, passwords and certificates name files relative to
// its directory.
//
// Without a word in the file, size is s-1vcpu-1gb, image debian-12-x64, and
// hostname_prefix and load_balancer.name are the name. A count that is not said is 1 for
// a new pool, and leaves one that is there as large as it is (weir.Pool.KeepCount), so
// that a file can be applied again after the pool has grown. Instead of a number, count says between which
// sizes the pool follows its load, and what each machine should bear: 60 % of its CPU without a word. A load balancer without rules
// forwards HTTP from port 80 to port 80, in turn (round_robin); its health check asks
// the target of the first rule, each 10 seconds. A region that is not said is
// whichever the app is given to: see [App.In].
func Load(file string) (*App, error) {
	data, err := readFile(os.DirFS(filepath.Dir(file)), filepath.Base(file), maxFile)
	if err != nil {
		return nil, weir.Errorf(weir.Invalid, "%s: %w", file, err)
	}
	return Parse(file, data, filepath.Dir(file))
}

// LoadFS is Load for a file in fsys, and files that it names are in fsys too.
func LoadFS(fsys fs.FS, file string) (*App, error) {
	data, err := readFile(fsys, file, maxFile)
	if err != nil {
		return nil, weir.Errorf(weir.Invalid, "%s: %w", file, err)
	}
	return parse(file, data, func(name string, most int) ([]byte, error) {
		return readFile(fsys, path.Join(path.Dir(file), name), most)
	})
}

// Parse is Load for a file of which the bytes are known: name is for its errors, dir
// is where the files are that it names.
func Parse(name string, data []byte, dir string) (*App, error) {
	return parse(name, data, func(file string, most int) ([]byte, error) {
		if rest, ok := strings.CutPrefix(file, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, err
			}
			file = filepath.Join(home, rest)
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		return readFile(os.DirFS(filepath.Dir(file)), filepath.Base(file), most)
	})
}

// In sets the region of an app whose file does not say one, and returns why the app
// cannot be in that region, or its machines not in that and further ones.
func (a *App) In(region string, further ...string) error {
	if a.region != "" && slices.Contains(further, a.LoadBalancer.Region) {
		return weir.Errorf(weir.Invalid, "%s: region is %q, and load balancers are in region %q: machines alone can be there, by the region of each of their sizes", a.region, a.LoadBalancer.Region, region)
	}
	if a.region != "" && a.LoadBalancer.Region != region {
		return weir.Errorf(weir.Invalid, "%s: region is %q, this Weir runs region %q", a.region, a.LoadBalancer.Region, region)
	}
	if a.Pool != nil {
		for _, size := range a.sizes {
			if size.word != region && !slices.Contains(further, size.word) {
				return weir.Errorf(weir.Invalid, "%s: region is %q, this Weir runs %s", size.at, size.word, strings.Join(append([]string{region}, further...), ", "))
			}
		}
		a.Pool.Template.Region = region
	}
	a.LoadBalancer.Region = region
	return nil
}

// named returns the app that a file with nothing but a name asks for.
func named(name string) *App {
	return &App{
		Pool: &weir.Pool{
			Name:      name,
			Prefix:    name,
			Count:     defaultCount,
			KeepCount: true,
			Template: weir.Template{
				Size:  defaultSize,
				Image: weir.DefaultImage,
				Tags:  []string{name},
			},
		},
		LoadBalancer: weir.LoadBalancer{
			Name:      name,
			Size:      weir.DefaultNodeSize,
			Instances: weir.MinInstances,
			Algorithm: weir.RoundRobin,
			Rules:     []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}},
			Health:    weir.DefaultCheck(),
			Idle:      weir.DefaultIdle,
			Tag:       name,
		},
	}
}

// check returns why a cannot be, in words that fit behind the line of a file.
func (a *App) check() error {
	region := a.LoadBalancer.Region // any are right here: who makes it knows which there are
	p := *a.Pool
	if len(p.Sizes) > 0 {
		p.Template.Region = cmp.Or(region, p.Sizes[0].Region)
	}
	regions := []string{p.Template.Region}
	for _, o := range p.Offers() {
		regions = append(regions, o.Region)
	}
	if err := p.Check(regions...); err != nil {
		return &unprefixed{err, fmt.Sprintf("pool %q: ", a.Pool.Name)}
	}
	if err := a.LoadBalancer.Check(region); err != nil {
		return &unprefixed{err, fmt.Sprintf("load balancer %q: ", a.LoadBalancer.Name)}
	}
	if err := a.Snippets.Check(); err != nil {
		return &unprefixed{err, "haproxy: "}
	}
	return nil
}

// inFile puts words of the API as a file has them.
var inFile = strings.NewReplacer("target_cpu_utilization", "targets.cpu", "target_memory_utilization", "targets.memory",
	"target_requests_per_second", "targets.requests_per_second", "target_concurrent_requests", "targets.concurrent_requests",
	"target_response_time_ms", "targets.response_time_ms", "target_response_time_percentile", "targets.response_time_percentile", "min_instances", "min", "max_instances", "max")

// unprefixed is an error without the words that the line of a file makes needless.
type unprefixed struct {
	error
	prefix string
}

func (e *unprefixed) Error() string {
	return inFile.Replace(strings.TrimPrefix(e.error.Error(), e.prefix))
}
func (e *unprefixed) Unwrap() error { return e.error }

// readFile returns what is in a file of at most most bytes. Its errors do not repeat
// the name, which the caller's sentence has.
func readFile(fsys fs.FS, name string, most int) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, bare(err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("it is a directory, want a file")
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(data) > most {
		return nil, fmt.Errorf("it has more than %d bytes", most)
	}
	return bytes.TrimPrefix(data, []byte("\ufeff")), nil
}

func bare(err error) error {
	if e, ok := err.(*fs.PathError); ok {
		return e.Err
	}
	return err
}
