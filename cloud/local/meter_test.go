package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// cgroup writes what the kernel shows of a cgroup, and returns where.
func cgroup(t *testing.T, files map[string]string) (dirs []string) {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	must(t, fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if d.IsDir() {
			dirs = append(dirs, filepath.Join(root, path))
		}
		return err
	}))
	return dirs
}

func TestLoadIsReadOfCgroup1And2(t *testing.T) {
	const mib = 1 << 20
	for name, files := range map[string]map[string]string{
		"1": {
			"cpu/cpu.stat":                  "nr_periods 7\nnr_throttled 0\nthrottled_time 0\n",
			"cpuacct/cpuacct.usage_user":    "1500000000\n",
			"cpuacct/cpuacct.usage_sys":     "250000000\n",
			"memory/memory.usage_in_bytes":  fmt.Sprintln(100 * mib),
			"memory/memory.stat":            fmt.Sprintf("cache 1\ninactive_file 1\ntotal_cache %d\ntotal_inactive_file %d\ntotal_active_file %d\n", 60*mib, 30*mib, 10*mib),
			"unified/cpu.stat":              "usage_usec 9\nuser_usec 5\nsystem_usec 4\n",
			"freezer/freezer.self_freezing": "0\n",
		},
		"2": {
			"cpu.stat":       "usage_usec 1750000\nuser_usec 1500000\nsystem_usec 250000\nnr_periods 7\n",
			"memory.current": fmt.Sprintln(100 * mib),
			"memory.stat":    fmt.Sprintf("anon 1\nfile %d\nshmem 1\ninactive_file %d\nactive_file %d\n", 60*mib, 30*mib, 10*mib),
		},
	} {
		dirs := cgroup(t, files)
		user, system, err := cpuUsed(dirs)
		if user != 1500*time.Millisecond || system != 250*time.Millisecond || err != nil {
			t.Errorf("cgroup %s: CPU time %v and %v, %v, want 1.5s and 250ms", name, user, system, err)
		}
		m, err := memoryUsed(dirs, 512*mib)
		if want := (cloud.Memory{Total: 512 * mib, Free: 412 * mib, Cached: 60 * mib, Available: 452 * mib}); m != want || err != nil {
			t.Errorf("cgroup %s: memory %+v, %v, want %+v", name, m, err, want)
		}
	}
	if _, _, err := cpuUsed(nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("CPU time of a cgroup that has gone: %v", err)
	}
	if _, err := memoryUsed(nil, mib); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("memory of a cgroup that has gone: %v", err)
	}
}

func TestLoadIsOfTheMachineThatDoesTheWork(t *testing.T) {
	c := open(t, Config{})
	busy := create(t, c, spec(1, serve(80)))
	idle := create(t, c, spec(2, ""))
	loads := func() map[weir.ID]cloud.Load {
		all, err := c.Loads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		byID := map[weir.ID]cloud.Load{}
		for _, l := range all {
			byID[l.Machine] = l
		}
		return byID
	}
	before := loads()
	in(t, c, busy.ID, "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; head -c 20000000 /dev/zero >/run/fill")
	for range 10 {
		if _, err := ask(c, busy.Public, 80); err != nil {
			t.Fatal(err)
		}
	}
	after := loads()
	grew := func(id weir.ID) cloud.Load {
		a, b := after[id], before[id]
		return cloud.Load{User: a.User - b.User, System: a.System - b.System,
			Public:  cloud.Traffic{In: a.Public.In - b.Public.In, Out: a.Public.Out - b.Public.Out},
			Private: cloud.Traffic{In: a.Private.In - b.Private.In, Out: a.Private.Out - b.Private.Out},
			Memory:  cloud.Memory{Available: a.Memory.Available - b.Memory.Available}}
	}
	did, rested := grew(busy.ID), grew(idle.ID)
	if used := did.User + did.System; used < 50*time.Millisecond || used < 5*(rested.User+rested.System) {
		t.Errorf("the busy machine used %v of CPU time, the idle one %v", used, rested.User+rested.System)
	}
	if did.Public.In < 1000 || did.Public.Out < 1000 || rested.Public.In > 1000 || rested.Public.Out > 1000 || did.Private.In > 1000 {
		t.Errorf("traffic %+v and %+v of the busy machine, %+v of the idle one, want ten requests on the public interface alone", did.Public, did.Private, rested.Public)
	}
	if did.Memory.Available > -15e6 || rested.Memory.Available < -15e6 {
		t.Errorf("available memory changed by %d of the machine that filled 20 MB, and by %d of the other", did.Memory.Available, rested.Memory.Available)
	}
}
