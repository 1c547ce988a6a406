package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"weir/cloud/local"
)

var regionName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// checkFurther returns why regions of these names cannot be beside the one that weir dev always has.
func checkFurther(names []string) error {
	if len(names) >= local.MaxRegions {
		return usageErrorf("--further names %d regions, at most %d are possible", len(names), local.MaxRegions-1)
	}
	for i, name := range names {
		switch {
		case !regionName.MatchString(name):
			return usageErrorf("--further: %q cannot be the name of a region: want a lower-case letter, then letters, digits and -, at most 31", name)
		case name == devRegion || slices.Contains(names[:i], name):
			return usageErrorf("--further: there is a region %s already", name)
		}
	}
	return nil
}

// furtherDir is where a further region lives, by its number and its name.
func (d *dev) furtherDir(name string) string { return filepath.Join(d.data, "regions", name) }

// openRegions brings all regions to life, by name, and joins their private networks.
func (d *dev) openRegions(ctx context.Context, log *slog.Logger) (regions map[string]*local.Cloud, err error) {
	regions = map[string]*local.Cloud{}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeRegions(regions))
		}
	}()
	names := append([]string{devRegion}, d.further...)
	configs := map[string]local.Config{devRegion: local.Config{Dir: filepath.Join(d.data, "cloud"), Region: devRegion, Hide: []string{d.data}, Hosts: d.hosts, Log: log}.Numbered(0)}
	for _, name := range d.further {
		dir, n, err := d.number(name)
		if err != nil {
			return nil, err
		}
		configs[name] = local.Config{Dir: dir, Region: name, Hide: []string{d.data}, Log: log.With("region", name)}.Numbered(n)
	}
	for _, name := range names {
		c := configs[name]
		for _, other := range names {
			if other != name {
				c.Peers = append(c.Peers, configs[other].Private)
			}
		}
		if regions[name], err = local.Open(ctx, c); err != nil {
			delete(regions, name)
			return regions, err
		}
	}
	for i, a := range names {
		for _, b := range names[:i] {
			if err := local.Link(regions[a], regions[b]); err != nil {
				return regions, err
			}
		}
	}
	return regions, nil
}

// number returns the directory of a further region, and the number that it has had since its first start, or gets now.
func (d *dev) number(name string) (dir string, n int, err error) {
	if err := os.MkdirAll(d.furtherDir(""), 0o700); err != nil {
		return "", 0, err
	}
	entries, err := os.ReadDir(d.furtherDir(""))
	if err != nil {
		return "", 0, err
	}
	taken := map[int]bool{}
	for _, e := range entries {
		number, of, _ := strings.Cut(e.Name(), "-")
		n, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		if of == name {
			return d.furtherDir(e.Name()), n, nil
		}
		taken[n] = true
	}
	for n = 1; taken[n]; n++ {
	}
	if n >= local.MaxRegions {
		return "", 0, fmt.Errorf("--further: %s has had %d further regions already, at most so many are possible: region %s cannot be one more", d.data, n-1, name)
	}
	dir = d.furtherDir(fmt.Sprintf("%d-%s", n, name))
	return dir, n, os.MkdirAll(dir, 0o700)
}

func closeRegions(regions map[string]*local.Cloud) (err error) {
	for _, r := range regions {
		err = errors.Join(err, r.Close())
	}
	return err
}
