package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/pki"
	"weir/weir"
)

func TestTokenThatNamesTheAuthorityIsAllThatANodeNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.CAFile = ""
		w.config.URLs = []string{"https://127.0.0.1", "https://127.0.0.1:7071"}
		w.joins(w.ca.Fingerprint())
		w.Put(newConfig(3))
		stop := w.startAgent()
		settle() // nobody answers yet
		w.startControl()
		time.Sleep(longestWait)
		synctest.Wait()
		w.serves(3)
		kept, err := os.ReadFile(filepath.Join(w.config.Dir, "ca.pem"))
		if err != nil || !bytes.Equal(kept, w.ca.PEM()) {
			t.Errorf("it keeps %q, %v, want the authority's certificate", kept, err)
		}
		stop()

		// From then on it needs neither the token nor anybody who tells it.
		if err := os.Remove(w.config.TokenFile); err != nil {
			t.Fatal(err)
		}
		w.Put(newConfig(4))
		w.startAgent()
		settle()
		w.serves(4)
	})
}

func TestControlPlaneOfAnotherAuthorityGetsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.CAFile = ""
		other, err := pki.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		w.joins(other.Fingerprint())
		w.startControl()
		err = run(t.Context(), w.config, around(newFakeHAProxy()))
		if want := "it is not from the authority with the fingerprint " + other.Fingerprint()[:16]; !errors.Is(err, weir.Denied) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to say %q", err, want)
		}
		if w.control.enrolments.Load() != 0 {
			t.Error("it told its token to somebody else")
		}
	})
}

func TestTokenWithoutAnAuthorityNeedsOneBesideIt(t *testing.T) {
	w := newWorld(t)
	w.config.CAFile = ""
	err := run(t.Context(), w.config, around(newFakeHAProxy()))
	if want := "does not say which authority the control plane has, so that --ca must name a file"; !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want it to say %q", err, want)
	}
}

func TestAgentThatWorksShowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var alive atomic.Int32
		after := func() { time.Sleep(2 * proofEvery); synctest.Wait() }
		w.config.Alive = func() { alive.Add(1) }
		w.startAgent() // and without anybody to speak to
		after()
		before := alive.Load()
		after()
		if before == 0 || alive.Load() == before {
			t.Errorf("it showed that it works %d times, then %d, want again and again", before, alive.Load())
		}
		w.proxy.hangs.Store(true)
		after()
		before = alive.Load()
		after()
		if alive.Load() != before {
			t.Error("it says that it works while it waits for ever")
		}
	})
}

// joins gives the node a token that names an authority.
func (w *world) joins(fingerprint string) {
	w.t.Helper()
	token := weir.JoinToken("SECRET", fingerprint)
	w.Admit(node, token)
	if err := os.WriteFile(w.config.TokenFile, []byte(token+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}
