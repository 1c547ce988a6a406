// Package weir_test holds the architecture: which package may import which.
package weir_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// may lists, for each package, what it may import of this module. Imports go down
// only: cmd, doors, minds, ground and hands, weir.
var may = map[string][]string{
	"weir": {},

	// Ground.
	"store":           {"weir"},
	"store/storetest": {"store", "weir"},
	"reconcile":       {"weir"},
	"series":          {},
	"cloud":           {"weir"},
	"cloud/cloudtest": {"cloud", "weir"},

	// Hands: one foreign thing each.
	"cloud/local":        {"cloud", "weir"},
	"cloud/digitalocean": {"cloud", "weir"},

	"haproxy":   {"weir"},
	"accesslog": {"weir"},
	"cron":      {"weir"},
	"pki":       {"weir"},
	"secrets":   {"weir"},
	"nodeapi":   {"pki", "weir"},
	"heartbeat": {"weir"},
	"vip":       {"weir"},
	"acme":      {"weir"},
	"domains":   {"weir"},
	"exporter":  {},

	"acme/acmetest": {},

	// Minds. They know each other by two documents in package weir alone.
	"control": {"store", "reconcile", "series", "scale", "cron", "cloud", "haproxy", "heartbeat", "exporter", "secrets", "acme", "weir"},
	"scale":   {},
	"replay":  {"scale", "weir"},
	"agent":   {"haproxy", "accesslog", "heartbeat", "vip", "nodeapi", "pki", "weir"},

	// Doors.
	"config":  {"cron", "weir"},
	"edge":    {"weir"},
	"web":     {"weir"},
	"metrics": {"weir"},
	"api":     {"weir"},

	"examples": {},
}

// Anything may be imported by the commands and by the simulation, which put the whole together.
var wholes = []string{"cmd/", "bench/", "sim"}

// only says which package alone may import a module from elsewhere.
var only = map[string]string{
	"go.etcd.io/":                    "store",
	"github.com/containerd/go-runc":  "cloud/local",
	"github.com/google/nftables":     "cloud/local",
	"github.com/vishvananda/netlink": "cloud/local vip bench/failover",
	"github.com/mholt/acmez":         "acme",
	"github.com/mdlayher/arp":        "vip",
	"github.com/mdlayher/ndp":        "vip",
	"github.com/mdlayher/packet":     "vip",
	"github.com/robfig/cron":         "cron",
	"github.com/spf13/cobra":         "cmd/weir",
	"github.com/prometheus/":         "metrics exporter",
	"github.com/digitalocean/godo":   "cmd/weir bench/change domains cloud/digitalocean",
	"github.com/goccy/go-yaml":       "config cloud/local web",
}

func TestImportsGoDownOnly(t *testing.T) {
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != "." || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		checkImports(t, filepath.ToSlash(file))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImports(t *testing.T, file string) {
	pkg := path.Dir(file)
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	whole := false
	for _, w := range wholes {
		whole = whole || strings.HasPrefix(pkg, w)
	}
	allowed, known := may[pkg]
	if !known && !whole {
		t.Errorf("package %s is not in the architecture: add it to the table in arch_test.go and to ARCHITECTURE.md", pkg)
		return
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if inside, ok := strings.CutPrefix(imported, "weir/"); ok && !whole && !slices.Contains(allowed, inside) {
			t.Errorf("%s imports weir/%s, want only %s", file, inside, strings.Join(allowed, ", "))
		}
		for module, owner := range only {
			if strings.HasPrefix(imported, module) && !slices.Contains(strings.Fields(owner), pkg) {
				t.Errorf("%s imports %s, which only %s may", file, imported, owner)
			}
		}
		if pkg == "weir" && strings.Contains(imported, ".") {
			t.Errorf("%s imports %s, want the standard library alone", file, imported)
		}
	}
}
