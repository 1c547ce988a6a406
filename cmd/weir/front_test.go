package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFrontThatIsKilledComesBack(t *testing.T) {
	r := newRegion(t)
	r.start()
	record, err := os.ReadFile(filepath.Join(r.data, "front.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(record), &pid); err != nil {
		t.Fatal(err)
	}
	r.answers(3)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.answers(30)
}
