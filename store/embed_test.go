package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"weir/store"
	"weir/weir"
)

// A test that needs a process of its own to kill starts itself again, with the name of
// a child in this variable and the child's directory as argument.
const childVariable = "WEIR_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	children := map[string]func(dir string) error{
		"writer": writer, "full disk": fullDisk, "read-only": readOnly,
		"leader": leader, "stalled disk": stalledDisk, "freezer": freezer,
	}
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := children[name](os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// child returns a command that runs a child. It dies with its parent.
func child(ctx context.Context, name, dir string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", dir)
	c.Env = append(os.Environ(), childVariable+"="+name)
	c.Stderr = os.Stderr
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return c
}

func filled() store.Table[string] { return store.NewTable[string]("filled") }

const filling = 1 << 20

// writer writes rows, one after the other and each new, until it fails, and prints the
// key of each as soon as it is stored. After ten it waits until its standard input ends.
func writer(dir string) error {
	ctx := context.Background()
	s, err := store.Embed(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if i == 10 {
			io.Copy(io.Discard, os.Stdin)
		}
		var key weir.ID
		err := s.Update(ctx, func(tx *store.Tx) error {
			n, err := store.Next(ctx, tx, "filled", 1)
			if err != nil {
				return err
			}
			key = weir.ID(fmt.Sprint(n))
			filled().Put(tx, key, strings.Repeat("x", filling))
			return nil
		})
		if err != nil {
			<-s.Done() // what made it fail is for good, and everyone is told
			return errors.Join(s.Err(), s.Close())
		}
		fmt.Println(key)
	}
}

// wantStored compares what is stored under dir with the number of rows of which a
// writer said so.
func wantStored(dir string, said int) error {
	ctx := context.Background()
	s, err := store.Embed(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close()
	for n := range said {
		row, err := filled().Get(ctx, s, weir.ID(fmt.Sprint(n+1)))
		if err != nil {
			return err
		}
		if len(row) != filling {
			return fmt.Errorf("row %d has %d bytes, want %d", n+1, len(row), filling)
		}
	}
	return s.Update(ctx, func(tx *store.Tx) error {
		n, err := store.Next(ctx, tx, "filled", 1)
		if err == nil && int(n) != said+1 && int(n) != said+2 {
			err = fmt.Errorf("the next row is %d, want %d, or one more if it was stored unsaid", n, said+1)
		}
		filled().Put(tx, weir.ID(fmt.Sprint(n)), strings.Repeat("x", filling))
		return err
	})
}

func TestWhatWasStoredOutlivesKill(t *testing.T) {
	dir := t.TempDir()
	said := 0
	for _, more := range []int{1, 30, 7} {
		c := child(t.Context(), "writer", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		first := said
		for said < first+more && lines.Scan() {
			said++
		}
		if err := c.Process.Kill(); err != nil {
			t.Error(err)
		}
		for lines.Scan() {
			said++
		}
		c.Wait()
		if said < first+more {
			t.Fatalf("the writer ended after %d rows: %s", said, lines.Text())
		}
		if err := wantStored(dir, said); err != nil {
			t.Fatalf("after kill -9, %d rows were stored: %v", said, err)
		}
		for said++; ; said++ { // what wantStored wrote, and what the writer could not say
			s, err := store.Embed(t.Context(), dir, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			_, err = filled().Get(t.Context(), s, weir.ID(fmt.Sprint(said+1)))
			s.Close()
			if err != nil {
				break
			}
		}
	}
}

func TestFullDiskLosesNothingThatWasStored(t *testing.T) {
	c := child(t.Context(), "full disk", t.TempDir())
	c.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // its mounts go with it
	out, err := c.Output()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("mounting is refused: %v", err)
	}
	if strings.HasPrefix(string(out), "skip: ") {
		t.Skip(string(out))
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

// fullDisk has writers fill a small file system, in a mount namespace of its own: once
// at a time when the database has to grow, once when the log does, and once from
// before the start.
func fullDisk(dir string) error {
	const size = 600 << 20
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return fmt.Errorf("skip: mounting is refused: %w", err)
	}
	data, filler := filepath.Join(dir, "data"), filepath.Join(dir, "filler")
	said := 0
	for _, left := range []int64{1 << 20, 20 << 20, 0} {
		c := child(context.Background(), "writer", data)
		out, err := c.StdoutPipe()
		if err != nil {
			return err
		}
		in, err := c.StdinPipe()
		if err != nil {
			return err
		}
		full := func() error { return errors.Join(fill(dir, filler, left), in.Close()) }
		if left == 0 {
			if err := full(); err != nil {
				return err
			}
		}
		if err := c.Start(); err != nil {
			return err
		}
		last, first := "", said
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if last = lines.Text(); strings.Contains(last, " ") {
				break
			}
			if said++; left > 0 && said == first+10 {
				if err := full(); err != nil {
					return err
				}
			}
		}
		io.Copy(io.Discard, out)
		if err := c.Wait(); err == nil {
			return errors.New("the writer wrote to a full disk")
		}
		fmt.Printf("%d MiB left, %d rows more: %s\n", left>>20, said-first, last)
		want := fmt.Sprintf("store: no space left on the disk of %s: free some and start again; nothing that was stored is lost (", data)
		if !strings.HasPrefix(last, want) {
			return fmt.Errorf("the writer says %q, want %q", last, want)
		}
		if err := os.Remove(filler); err != nil {
			return err
		}
		if err := wantStored(data, said); err != nil {
			return fmt.Errorf("once there is space again, with %d rows stored: %w", said, err)
		}
		s, err := store.Embed(context.Background(), data, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		// Room for the next round.
		err = s.Update(context.Background(), func(tx *store.Tx) error {
			all, err := filled().All(context.Background(), tx)
			said = len(all)
			return err
		})
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// fill makes a file of zeros that leaves some bytes of its file system free.
func fill(dir, file string, left int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		var at unix.Statfs_t
		if err := unix.Statfs(dir, &at); err != nil {
			return err
		}
		more := min(int64(at.Bavail)*at.Bsize-left, 1<<20)
		if more <= 0 {
			return nil
		}
		if _, err := f.Write(make([]byte, more)); err != nil && !errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
}

func TestStartGivesBackTheSpaceOfWhatWasDeleted(t *testing.T) {
	const rows = 100
	dir := t.TempDir()
	for _, change := range []func(tx *store.Tx, key weir.ID){
		func(tx *store.Tx, key weir.ID) { filled().Put(tx, key, strings.Repeat("x", filling)) },
		filled().Delete,
		func(*store.Tx, weir.ID) {},
	} {
		s, err := store.Embed(t.Context(), dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for n := range rows {
			err := s.Update(t.Context(), func(tx *store.Tx) error { change(tx, weir.ID(fmt.Sprint(n))); return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	db, err := os.Stat(filepath.Join(dir, "member/snap/db"))
	if err != nil {
		t.Fatal(err)
	}
	if db.Size() > rows*filling/2 {
		t.Errorf("the database has %d bytes and no rows, want fewer", db.Size())
	}
}

func TestReadOnlyDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	c := child(t.Context(), "read-only", dir)
	c.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	out, err := c.Output()
	if strings.HasPrefix(string(out), "skip: ") || errors.Is(err, unix.EPERM) {
		t.Skipf("%v: %s", err, out)
	}
	if want := fmt.Sprintf("store: %s cannot be written: ", dir); err == nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q (%v), want %q", out, err, want)
	}
}

// readOnly embeds a store in a directory that has one already, but is read-only now.
func readOnly(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=200m"); err != nil {
		return fmt.Errorf("skip: mounting is refused: %w", err)
	}
	if err := wantStored(dir, 0); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	return wantStored(dir, 1)
}

func TestSecondProcessOnADirectoryIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 60))
	log := slog.New(slog.DiscardHandler)
	s, err := store.Embed(t.Context(), dir, log)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Embed(t.Context(), dir, log)
	want := fmt.Sprintf("store: %s is in use by process %d", dir, os.Getpid())
	if !errors.Is(err, weir.Conflict) || err.Error() != want {
		t.Errorf("got error %q, want %q", err, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = store.Embed(t.Context(), dir, log)
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	s.Close()
}

func TestDirectoryThatCannotBeUsedIsNamed(t *testing.T) {
	damage := func(pattern string, write func(file string) error) func(dir string) error {
		return func(dir string) error {
			s, err := store.Embed(t.Context(), dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			for n := range 100 {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					filled().Put(tx, weir.ID(fmt.Sprint(n)), "row")
					return nil
				})
				if err != nil {
					return err
				}
			}
			if err := s.Close(); err != nil {
				return err
			}
			files, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(files) == 0 {
				return fmt.Errorf("there is no %s (%v)", pattern, err)
			}
			return write(files[0])
		}
	}
	const damaged = "if the disk is sound, its files are damaged"
	for _, c := range []struct {
		what    string
		prepare func(dir string) error
		want    string
	}{
		{"a file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
		{"in proc", func(dir string) error { return os.Symlink("/proc/self/net", dir) }, "no such file"},
		{"a log with a hole", damage("member/wal/*.wal", func(file string) error {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("damage"), 3000)
			return err
		}), damaged},
		{"a database cut short", damage("member/snap/db", func(file string) error { return os.Truncate(file, 5000) }),
			damaged},
		{"a database of noise", damage("member/snap/db", func(file string) error {
			return os.WriteFile(file, []byte(strings.Repeat("noise", 10_000)), 0o600)
		}), damaged},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			s, err := store.Embed(t.Context(), dir, slog.New(slog.DiscardHandler))
			if err == nil {
				s.Close()
				t.Fatal("it started")
			}
			t.Log(err)
			if text := err.Error(); !strings.Contains(text, c.want) || !strings.Contains(text, dir) || strings.Contains(text, "\n") {
				t.Errorf("got %q, want one line with %q and the directory", text, c.want)
			}
		})
	}
}

func TestEmbeddedStoreListensNowhere(t *testing.T) {
	before := sockets(t)
	embed(t)
	if after := sockets(t); after != before {
		t.Errorf("the process has %d sockets, want %d as before", after, before)
	}
}

// sockets counts the sockets of this process.
func sockets(t *testing.T) (n int) {
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if target, _ := os.Readlink(file); strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}
