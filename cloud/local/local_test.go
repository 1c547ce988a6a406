package local

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/cloud/cloudtest"
	"weir/weir"
)

// patient bounds every wait of these tests; how long something takes is not their matter.
const patient = time.Minute

// needRoot skips a test that makes namespaces where that is not allowed.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces and containers")
	}
}

// open opens a region in dir, which is closed at the end of the test.
func open(t testing.TB, c Config) *Cloud {
	t.Helper()
	needRoot(t)
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	c.Region = cloudtest.Region
	if _, ok := t.(*testing.T); ok {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// spec describes a machine whose user-data is script.
func spec(n int, script string) cloud.Spec {
	id := weir.ID(fmt.Sprint(100000 + n))
	if script != "" {
		script = "#!/bin/sh\n" + script
	}
	return cloud.Spec{ID: id, Name: fmt.Sprint("web-", n), Template: weir.Template{
		Region: cloudtest.Region, Size: "s-1vcpu-512mb-10gb", Image: "debian-12-x64", UserData: script}}
}

// create makes a machine and waits until its user-data is done.
func create(t testing.TB, c *Cloud, s cloud.Spec) cloud.Machine {
	t.Helper()
	if _, err := c.CreateMachine(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return booted(t, c, s.ID)
}

// booted waits until a machine's user-data is done.
func booted(t testing.TB, c *Cloud, id weir.ID) cloud.Machine {
	t.Helper()
	var m cloud.Machine
	eventually(t, fmt.Sprintf("machine %s is on and booted", id), func() error {
		m = look(t, c, id)
		if !m.On || m.Boot.State != weir.BootDone {
			return fmt.Errorf("it is %+v, and its console says %q", m, console(c, id))
		}
		return nil
	})
	return m
}

func console(c *Cloud, id weir.ID) string {
	b, _ := os.ReadFile(filepath.Join(c.paths.machine(id), "console"))
	return string(b)
}

// look returns what the cloud shows of a machine.
func look(t testing.TB, c *Cloud, id weir.ID) cloud.Machine {
	t.Helper()
	all, err := c.Machines(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.ID == id {
			return m
		}
	}
	t.Fatalf("machine %s is not listed", id)
	return cloud.Machine{}
}

// eventually asks until it is told nothing is wrong.
func eventually(t testing.TB, what string, wrong func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patient); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = wrong(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not so after %v: %v", what, patient, err)
}

// in runs a command in a machine and returns what it prints.
func in(t testing.TB, c *Cloud, id weir.ID, command ...string) string {
	t.Helper()
	out, err := try(c, id, command...)
	if err != nil {
		t.Fatalf("machine %s: %q: %v: %s", id, command, err, out)
	}
	return out
}

func try(c *Cloud, id weir.ID, command ...string) (string, error) {
	args := append([]string{"--root", c.paths.runc(), "exec", string(id)}, command...)
	out, err := exec.Command("runc", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// serve is user-data that has a machine answer its name on a port.
func serve(port int) string {
	return fmt.Sprintf("cat >/etc/nginx/nginx.conf <<END\nevents {}\nhttp { server { listen %d; location / { return 200 $(hostname); } } }\nEND\nnginx\n", port)
}

// ask dials an address from the gateway and returns the answer to a request.
func ask(c *Cloud, addr netip.Addr, port int) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", netip.AddrPortFrom(addr, uint16(port)).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return body, err
}

func TestMachineKnowsItsAddressesAndAnswersOnThem(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, serve(80)))
	seen := in(t, c, m.ID, "ip", "-brief", "-4", "address")
	for _, want := range []string{"eth0", "eth1", m.Public.String() + "/24", m.Anchor.String() + "/20", m.Private.String() + "/20"} {
		if !strings.Contains(seen, want) {
			t.Errorf("the machine's addresses lack %s:\n%s", want, seen)
		}
	}
	for _, addr := range []netip.Addr{m.Public, m.Anchor, m.Private} {
		if got, err := ask(c, addr, 80); got != "web-1" || err != nil {
			t.Errorf("%s answers %q, %v, want web-1", addr, got, err)
		}
	}
	if got := in(t, c, m.ID, "curl", "-sS", "http://169.254.169.254/metadata/v1/id"); got != string(m.ID) {
		t.Errorf("metadata says that the machine is %q, want %s", got, m.ID)
	}
}
