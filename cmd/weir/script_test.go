package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"weir/weir"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weir": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}})
}

// Each script is a user's session with a region of its own, which weir finds as it
// finds a weir dev. There is a user's home with a weir.yaml for three machines.
func TestScripts(t *testing.T) { runScripts(t, "script", 1) }

// The same, where the cloud has three hosts.
func TestScriptsOfHosts(t *testing.T) { runScripts(t, "hosts", 3) }

func runScripts(t *testing.T, dir string, hosts int) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", dir),
		Setup: func(env *testscript.Env) error {
			l := newHostedLab(context.Background(), env.Defer, hosts)
			dir := env.Getenv("WORK")
			token := filepath.Join(dir, "token")
			if err := os.WriteFile(token, []byte(testToken+"\n"), 0o600); err != nil {
				return err
			}
			records := filepath.Join(dir, "run")
			if _, err := publishIn(filepath.Join(records, "dev"), record{Kind: "weir dev", API: l.url, Data: dir, TokenFile: token}); err != nil {
				return err
			}
			env.Setenv("WEIR_RUN_DIR", records)
			env.Setenv("LAB", l.url)
			env.Values["lab"] = l
			return os.WriteFile(filepath.Join(dir, "three.yaml"), []byte("name: web\ncount: 3\n"), 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// paired NAME waits until a load balancer has a standby that could take over.
			"paired": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Value("lab").(*lab).waitForHealth(context.Background(), args[0], weir.InstanceWell))
			},
			// health NAME STATE waits until an instance, or all of a load balancer, are judged so.
			"health": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Value("lab").(*lab).waitForHealth(context.Background(), args[0], weir.HealthState(args[1])))
			},
			// handover INSTANCE makes an instance the active one, for those who follow the events.
			"handover": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Value("lab").(*lab).handOver(context.Background(), args[0]))
			},
			// waited POOL waits until something was decided of a pool.
			"waited": func(ts *testscript.TestScript, _ bool, args []string) {
				c := ts.Value("lab").(*lab).control
				for {
					r, err := c.PoolReport(context.Background(), args[0])
					ts.Check(err)
					if r.Verdict != nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			},
			// seen HOST up|down waits until the control plane has seen that a host is so.
			"seen": func(ts *testscript.TestScript, _ bool, args []string) {
				c := ts.Value("lab").(*lab).control
				for {
					s, err := c.Status(context.Background())
					ts.Check(err)
					for _, h := range s.Hosts() {
						if h.Name == args[0] && h.Down == (args[1] == "down") {
							return
						}
					}
					time.Sleep(10 * time.Millisecond)
				}
			},
			// twins makes two machines of one name.
			"twins": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(ts.Value("lab").(*lab).twins(context.Background()))
			},
			// wrong NAME FAULT... fails unless just these faults are those of a machine.
			"wrong": func(ts *testscript.TestScript, _ bool, args []string) {
				got, err := ts.Value("lab").(*lab).wrong(context.Background(), args[0])
				ts.Check(err)
				if want := strings.Join(args[1:], " "); got != want {
					ts.Fatalf("what is wrong with %s: %q, want %q", args[0], got, want)
				}
			},
			// waitfor N PREFIX waits until N machines whose name begins so are booting.
			"waitfor": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				ts.Check(ts.Value("lab").(*lab).waitForBooting(context.Background(), n, args[1]))
			},
		},
	})
}
