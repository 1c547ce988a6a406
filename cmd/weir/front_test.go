package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestRegionWithoutItsFrontEnds(t *testing.T) {
	r := newRegion(t)
	r.start("--config", writeFile(t, "weir.yaml", "name: web\ncount: 0\n"))
	record, err := os.ReadFile(filepath.Join(r.data, "front.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(record), &pid); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	select {
	case err := <-r.ended:
		if err == nil {
			t.Error("weir dev ended well, want a failure: its front was killed")
		}
	case <-time.After(time.Minute):
		t.Error("weir dev still runs a minute after its front, and nothing leads to the load balancer")
	}
}
