package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSnippetsOfTheOperatorAreReadAtStartAndAtASignal(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	file := filepath.Join(t.TempDir(), "weir.yaml")
	write := func(snippet string) {
		text := "name: web\ncount: 0\nhaproxy:\n  global: tune.ssl.cachesize 50000\n  frontends:\n    http-80: |\n      " + snippet + "\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	status := func() int {
		resp, err := http.Get("http://" + r.front + "/private/x")
		if err != nil {
			return 0
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	log := func() string {
		text, _ := os.ReadFile(filepath.Join(r.data, "weir.log"))
		return string(text)
	}
	write("http-request deny deny_status 429 if { path_beg /private }")
	r.start("--config", file)
	is := func(want int) func() string {
		return func() string {
			if got := status(); got != want {
				return fmt.Sprintf("status %d, want %d", got, want)
			}
			return ""
		}
	}
	eventually(t, "the snippet denies", is(429))
	if text := r.must("generate"); !strings.Contains(text, "deny_status 429") || !strings.Contains(text, "tune.ssl.cachesize 50000") {
		t.Errorf("weir generate does not show the snippets:\n%s", text)
	}

	// One that HAProxy refuses changes nothing, and the log says why.
	write("http-request frobnicate")
	r.cmd.Process.Signal(syscall.SIGUSR1)
	eventually(t, "the log says what is wrong with the snippet", func() string {
		if text := log(); !strings.Contains(text, "frobnicate") {
			return text
		}
		return ""
	})
	if got := status(); got != 429 {
		t.Errorf("status %d after a snippet that HAProxy refuses, want 429 as before", got)
	}
	write("http-request deny deny_status 410 if { path_beg /private }")
	r.cmd.Process.Signal(syscall.SIGUSR1)
	eventually(t, "the snippet is another", is(410))

	// Who applies the file is told that this is not sent, and nobody else can send any.
	if _, errs, code := r.weir("apply", "-f", file); code != 0 || !strings.Contains(errs, "haproxy: left as it is") {
		t.Errorf("weir apply: exit %d: %s, want it to say that snippets are left as they are", code, errs)
	}
	body := `{"name":"web","haproxy":{"global":["daemon"]},"snippets":{"global":["daemon"]},"load_balancer":{"snippets":{"global":["daemon"]}}}`
	r.call("PUT", "/v2/weir/app", body)
	if text := r.must("generate"); strings.Contains(text, "daemon") {
		t.Errorf("the API has taken a snippet:\n%s", text)
	}
}
