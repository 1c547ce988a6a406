package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/nodeapi"
	"weir/pki"
	"weir/weir"
)

func TestNodeEnrolsOnceAndServesWhatItIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.Put(newConfig(3))
		stop := w.startAgent()
		settle()
		w.serves(3)
		w.reported("revision 3", func(s weir.NodeStatus) bool {
			return s.Revision == 3 && s.Err == "" && s.Agent == weir.Version && s.HAProxy.Version == fakeVersion
		})
		stop()
		w.startAgent()
		synctest.Wait()
		if w.control.enrolments.Load() != 1 {
			t.Errorf("the node enrolled %d times over a restart, want once", w.control.enrolments.Load())
		}
		info, err := os.Stat(w.config.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("its state is open as %v, want to its owner alone", info.Mode().Perm())
		}
	})
}

func TestTokenThatAnotherNodeUsedEndsTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		stop := w.startAgent()
		synctest.Wait()
		stop()
		thief := w.config
		thief.Dir = filepath.Join(t.TempDir(), "thief")
		err := run(t.Context(), thief, around(newFakeHAProxy()))
		if !errors.Is(err, weir.Denied) || !strings.Contains(err.Error(), "used with another key") {
			t.Errorf("error %v, want it to say why the node is refused", err)
		}
	})
}

func TestNodeThatCrashesWhileItEnrolsRecovers(t *testing.T) {
	t.Run("the answer is lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.startControl()
			w.Put(newConfig(3))
			w.control.loseAnswers.Store(true)
			stop := w.startAgent()
			synctest.Wait()
			stop() // killed while the control plane thinks that it has enrolled
			w.control.loseAnswers.Store(false)
			w.startAgent()
			synctest.Wait()
			w.serves(3)
			if w.control.enrolments.Load() < 2 {
				t.Errorf("%d enrolments, want one whose answer was lost and one more", w.control.enrolments.Load())
			}
		})
	})
	t.Run("the certificate cannot be stored", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.startControl()
			w.Put(newConfig(3))
			obstacle := filepath.Join(w.config.Dir, "certificate.pem", "obstacle")
			if err := os.MkdirAll(obstacle, 0o700); err != nil {
				t.Fatal(err)
			}
			stop := w.startAgent()
			synctest.Wait()
			w.serves(3) // it needs no disk to go on
			stop()
			if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
				t.Fatal(err)
			}
			w.Put(newConfig(4))
			w.startAgent()
			synctest.Wait()
			w.serves(4)
			if _, err := os.Stat(filepath.Join(w.config.Dir, "certificate.pem")); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("the key cannot be stored", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.startControl()
			w.Put(newConfig(3))
			obstacle := filepath.Join(w.config.Dir, "key.pem")
			if err := os.MkdirAll(obstacle, 0o700); err != nil {
				t.Fatal(err)
			}
			w.startAgent()
			synctest.Wait()
			if w.control.enrolments.Load() > 0 {
				t.Error("the node used its token with a key that it could not keep")
			}
			if err := os.Remove(obstacle); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * longestWait)
			settle()
			w.serves(3)
		})
	})
}

func TestConfigIsLiveWithoutDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.startAgent()
		time.Sleep(time.Hour)
		for revision := range int64(20) {
			w.Put(newConfig(revision + 1))
			synctest.Wait() // no time passes in here
			w.serves(revision + 1)
		}
	})
}

func TestControlPlaneRestoredToAnOlderRevisionIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.Put(newConfig(9))
		w.startAgent()
		synctest.Wait()
		w.serves(9)
		w.Put(newConfig(4))
		synctest.Wait()
		w.serves(4)
	})
}

func TestNothingMovesWhileTheControlPlaneIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stopControl := w.startControl()
		w.Put(newConfig(3))
		w.startAgent()
		synctest.Wait()
		given := w.proxy.given()

		stopControl()
		time.Sleep(time.Hour)
		w.serves(3)
		if again := w.proxy.given(); !slices.Equal(given, again) {
			t.Errorf("HAProxy was given revisions %v while nobody was there, want nothing after %v", again, given)
		}
		w.proxy.mark("1", weir.ServerDown)

		w.startControl()
		w.Put(newConfig(4))
		time.Sleep(2 * longestWait)
		settle()
		w.serves(4)
		w.reported("what changed meanwhile", func(s weir.NodeStatus) bool {
			return s.Revision == 4 && s.Servers[0].State == weir.ServerDown
		})
		if n := strings.Count(w.log.String(), "out of reach"); n > 10 {
			t.Errorf("the log has %d lines of one absence, want a few", n)
		}
	})
}

func TestNodeServesFromItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stopControl := w.startControl()
		w.Put(newConfig(3))
		stop := w.startAgent()
		synctest.Wait()
		stop()
		w.serves(3) // HAProxy outlives the agent

		stopControl()
		w.proxy = newFakeHAProxy() // the machine is started anew
		w.startAgent()
		synctest.Wait()
		w.serves(3)
	})
}

func TestAgentKilledDuringAChangeGoesOnWithIt(t *testing.T) {
	for name, c := range map[string]struct {
		next any
		want int64
	}{
		"the new one was stored": {newConfig(4), 4},
		"half of it was stored":  {json.RawMessage(`{"node":"17","revision":4,"proxy":{"na`), 3},
		"it is refused":          {badConfig(4), 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				stopControl := w.startControl()
				w.Put(newConfig(3))
				stop := w.startAgent()
				synctest.Wait()
				stop()
				stopControl()
				data, ok := c.next.(json.RawMessage)
				if !ok {
					data, _ = json.Marshal(c.next)
				}
				if err := os.WriteFile(filepath.Join(w.config.Dir, "config.next"), data, 0o600); err != nil {
					t.Fatal(err)
				}
				w.startAgent()
				synctest.Wait()
				w.serves(c.want)
			})
		})
	}
}

func TestBadConfigIsReportedAndTheOldOneStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stopControl := w.startControl()
		w.Put(newConfig(3))
		stop := w.startAgent()
		synctest.Wait()
		w.Put(badConfig(4))
		settle()
		w.serves(3)
		w.reported("revision 3, and why not 4", func(s weir.NodeStatus) bool {
			return s.Revision == 3 && strings.Contains(s.Err, "rejects configuration 4")
		})
		tries := len(w.proxy.given())
		time.Sleep(time.Hour)
		if now := len(w.proxy.given()); now != tries {
			t.Errorf("what can never be accepted was tried %d more times", now-tries)
		}

		stop()
		stopControl()
		w.proxy = newFakeHAProxy()
		stop = w.startAgent()
		synctest.Wait()
		w.serves(3) // after a restart too
		stop()

		w.startControl()
		w.startAgent()
		w.Put(newConfig(5))
		settle()
		w.serves(5)
		w.reported("revision 5 without an error", func(s weir.NodeStatus) bool { return s.Revision == 5 && s.Err == "" })
	})
}

func TestFailureThatMayPassIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.proxy.fail(errors.New("no space left on device"))
		w.Put(newConfig(3))
		w.startAgent()
		settle()
		w.reported("why nothing is live", func(s weir.NodeStatus) bool {
			return s.Revision == 0 && strings.Contains(s.Err, "no space left")
		})
		w.proxy.fail(nil)
		time.Sleep(2 * longestWait)
		settle()
		w.serves(3)
		w.reported("revision 3 without an error", func(s weir.NodeStatus) bool { return s.Revision == 3 && s.Err == "" })
	})
}

func TestConfigIsLiveEvenIfItCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stopControl := w.startControl()
		w.Put(newConfig(3))
		stop := w.startAgent()
		synctest.Wait()
		obstacle := filepath.Join(w.config.Dir, "config.next")
		if err := os.Mkdir(obstacle, 0o700); err != nil {
			t.Fatal(err)
		}
		w.Put(newConfig(4))
		synctest.Wait()
		w.serves(4)
		if err := os.Remove(obstacle); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * longestWait)
		settle()
		stop()
		stopControl()
		w.proxy = newFakeHAProxy()
		w.startAgent()
		synctest.Wait()
		w.serves(4) // it was stored once that was possible
	})
}

func TestBurstEndsWithTheNewestConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.startAgent()
		synctest.Wait()
		w.proxy.slow(time.Second)
		for revision := range int64(100) {
			w.Put(newConfig(revision + 1))
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		w.serves(100)
		if given := w.proxy.given(); len(given) != 2 {
			t.Errorf("HAProxy was given revisions %v, want the first and the newest", given)
		}
	})
}

func TestChangeOfAServerIsReportedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.Put(newConfig(3))
		w.startAgent()
		time.Sleep(time.Second)
		for _, state := range []weir.ServerState{weir.ServerDown, weir.ServerUp, weir.ServerDraining} {
			w.proxy.mark("2", state)
			synctest.Wait() // no time passes in here
			w.reported(fmt.Sprintf("server 2 is %s", state), func(s weir.NodeStatus) bool { return s.Servers[1].State == state })
			time.Sleep(time.Second)
		}

		before, _ := w.Statuses(node)
		time.Sleep(time.Minute)
		after, _ := w.Statuses(node)
		if n := len(after) - len(before); n != int(time.Minute/statusBeat) {
			t.Errorf("%d reports in a quiet minute, want one each %v", n, statusBeat)
		}
	})
}

func TestManyChangesMakeFewReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.Put(newConfig(3))
		w.startAgent()
		time.Sleep(time.Second)
		before, _ := w.Statuses(node)
		for i := range 1000 {
			w.proxy.mark("2", []weir.ServerState{weir.ServerDown, weir.ServerUp}[i%2])
			time.Sleep(time.Millisecond)
		}
		settle()
		after, _ := w.Statuses(node)
		if n := len(after) - len(before); n > int(time.Second/reportGap)+2 {
			t.Errorf("%d reports of a second with 1,000 changes, want about one each %v", n, reportGap)
		}
		w.reported("the last change", func(s weir.NodeStatus) bool { return s.Servers[1].State == weir.ServerUp })
	})
}

func TestCertificateIsRenewedBeforeTwoThirdsOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 30 * time.Minute
		w := newWorld(t)
		w.startControl()
		w.Put(newConfig(3))
		w.certify(life)
		made := time.Now()
		w.startAgent()
		time.Sleep(life*2/3 + time.Second)
		left := time.Until(w.certificate())
		if left < nodeapi.Life-life {
			t.Errorf("%v after it was made, the certificate is good for %v, want a new one", time.Since(made), left)
		}
		time.Sleep(life)
		w.Put(newConfig(4))
		synctest.Wait()
		w.serves(4)
		if w.control.enrolments.Load() > 0 {
			t.Error("the node enrolled anew, want it to renew")
		}
		if strings.Contains(w.log.String(), "refuses") {
			t.Errorf("a request was refused meanwhile:\n%s", w.log)
		}
	})
}

func TestRenewalIsTriedUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 30 * time.Minute
		w := newWorld(t)
		w.certify(life)
		w.startAgent()
		time.Sleep(life * 9 / 10)
		w.startControl()
		w.Put(newConfig(3))
		time.Sleep(life)
		w.serves(3)
		if w.control.enrolments.Load() > 0 {
			t.Error("the node enrolled anew, want it to renew")
		}
	})
}

func TestNodeThatWasOffForLongEnrolsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stopControl := w.startControl()
		w.Put(newConfig(3))
		stop := w.startAgent()
		synctest.Wait()
		stop()
		stopControl()
		time.Sleep(10 * nodeapi.Life)

		w.proxy = newFakeHAProxy()
		w.startAgent()
		synctest.Wait()
		w.serves(3)
		w.startControl()
		w.Put(newConfig(4))
		time.Sleep(2 * longestWait)
		settle()
		w.serves(4)
		if w.control.enrolments.Load() != 2 {
			t.Errorf("%d enrolments, want the first and one after the certificate had expired", w.control.enrolments.Load())
		}
	})
}

func TestRevokedNodeSaysSoAndGoesOnServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		w.Put(newConfig(3))
		stop := w.startAgent()
		synctest.Wait()
		w.Revoke(node)
		time.Sleep(time.Hour)
		w.serves(3)
		if !strings.Contains(w.log.String(), "refuses this node") {
			t.Errorf("the log does not say that the node is refused:\n%s", w.log)
		}
		stop()
		w.startAgent()
		time.Sleep(time.Hour)
		w.serves(3)
	})
}

func TestHAProxyThatCanNeverRunEndsTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		why := errors.New("haproxy 1.8 is too old, want 2.6 or newer")
		w.proxy.broken = why
		if err := run(t.Context(), w.config, around(w.proxy)); !errors.Is(err, why) {
			t.Errorf("error %v, want %v", err, why)
		}
	})
}

func TestTwoAgentsDoNotShareADirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startAgent()
		synctest.Wait()
		err := run(t.Context(), w.config, around(newFakeHAProxy()))
		if !errors.Is(err, weir.Conflict) || !strings.Contains(err.Error(), w.config.Dir) {
			t.Errorf("error %v, want a weir.Conflict error that names %s", err, w.config.Dir)
		}
	})
}

func TestUnusableConfigIsOneSentence(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no authority":        {func(c *Config) { c.CAFile = "/nowhere/ca.pem" }, "certificate of the control plane's authority: open /nowhere/ca.pem: no such file or directory"},
		"authority not there": {func(c *Config) { c.CAFile = c.TokenFile }, "it has no certificate"},
		"not a URL":           {func(c *Config) { c.URLs = []string{"10.0.0.2:7443"} }, `control plane "10.0.0.2:7443" is not a URL such as https://10.0.0.2:7071`},
		"no token":            {func(c *Config) { c.TokenFile = "/nowhere/token" }, "enrol: token: open /nowhere/token: no such file or directory"},
		"empty token":         {func(c *Config) { c.TokenFile = os.DevNull }, "enrol: token: /dev/null is empty"},
		"directory a file":    {func(c *Config) { c.Dir = c.TokenFile }, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c.change(&w.config)
				err := run(t.Context(), w.config, around(w.proxy))
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %q, want one sentence with %q", fmt.Sprint(err), c.want)
				}
			})
		})
	}
}

func TestTornFilesAreSweptAway(t *testing.T) {
	dir := t.TempDir()
	torn := filepath.Join(dir, ".key.pem123456")
	if err := os.WriteFile(torn, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", torn, err)
	}
}

// certify gives the node a key and a certificate of another life than usual.
func (w *world) certify(life time.Duration) {
	w.t.Helper()
	d, err := openDisk(w.config.Dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.close()
	key, err := d.key()
	if err != nil {
		w.t.Fatal(err)
	}
	csr, err := pki.Request(key)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.ca.Sign(csr, node, life)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := d.write("certificate.pem", cert); err != nil {
		w.t.Fatal(err)
	}
}

// certificate returns when the certificate on the node's disk expires.
func (w *world) certificate() time.Time {
	w.t.Helper()
	d := &disk{dir: w.config.Dir}
	key, err := d.key()
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := d.certificate(key)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert.Leaf.NotAfter
}

// settle lets everything be done that does not wait for long.
func settle() {
	time.Sleep(2 * reportGap)
	synctest.Wait()
}
