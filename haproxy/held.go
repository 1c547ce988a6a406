package haproxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// held are copies of HAProxy's listening sockets. As long as somebody has them the kernel
// queues new connections, so that while HAProxy is dead clients wait for the next one
// instead of being refused. The next one is given them in the way in which it would ask
// the last one (haproxy -x).
type held struct {
	fds []int
}

// perMessage is how many sockets HAProxy sends and takes at once.
const perMessage = 252

// fetch replaces the sockets by those that the worker at path has now, as far as one of
// the addresses is bound to them. It reports whether there is one for each address.
func (h *held) fetch(ctx context.Context, path string, addrs []netip.AddrPort) (all bool, err error) {
	c, hangUp, err := dial(ctx, path)
	if err != nil {
		return false, fmt.Errorf("ask haproxy for its sockets: %w", err)
	}
	defer hangUp()
	fds, err := receive(c)
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return false, fmt.Errorf("ask haproxy for its sockets: %w", err)
	}
	wanted := make(map[netip.AddrPort]bool, len(addrs))
	for _, a := range addrs {
		wanted[netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())] = true
	}
	kept := fds[:0]
	for _, fd := range fds {
		if a := boundTo(fd); wanted[a] {
			delete(wanted, a)
			kept = append(kept, fd)
			continue
		}
		unix.Close(fd)
	}
	h.close()
	h.fds = kept
	return len(wanted) == 0, nil
}

func receive(c *net.UnixConn) (fds []int, err error) {
	if _, err := c.Write([]byte("_getsocks\n")); err != nil {
		return nil, err
	}
	var count [4]byte
	if _, err := c.Read(count[:]); err != nil {
		return nil, err
	}
	total := int(binary.NativeEndian.Uint32(count[:]))
	data := make([]byte, 64<<10)
	control := make([]byte, unix.CmsgSpace(4*perMessage))
	for len(fds) < total {
		_, n, _, _, err := c.ReadMsgUnix(data, control)
		if err != nil {
			return fds, err
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil {
			return fds, err
		}
		if len(messages) == 0 {
			return fds, fmt.Errorf("%d sockets came of %d", len(fds), total)
		}
		for i := range messages {
			some, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return fds, err
			}
			fds = append(fds, some...)
		}
		// It waits for a sign between messages, and is gone after the last.
		if len(fds) < total {
			if _, err := c.Write(count[:]); err != nil {
				return fds, err
			}
		}
	}
	return fds, nil
}

// boundTo returns the address of a socket, or none if it is not of the Internet.
func boundTo(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// serve gives the sockets to the one HAProxy that asks for them at path, and returns when
// it has them or l is closed.
func (h *held) serve(l *net.UnixListener) error {
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(commandTime))
	var request [64]byte
	if _, err := c.Read(request[:]); err != nil {
		return err
	}
	if _, err := c.Write(binary.NativeEndian.AppendUint32(nil, uint32(len(h.fds)))); err != nil {
		return err
	}
	for fds := h.fds; len(fds) > 0; {
		some := fds[:min(len(fds), perMessage)]
		fds = fds[len(some):]
		// Of each, the lengths of its namespace's and its interface's names, and 32 bits.
		about := make([]byte, 6*len(some))
		if _, _, err := c.WriteMsgUnix(about, unix.UnixRights(some...), nil); err != nil {
			return err
		}
		// It says that it has them; after the last it may just hang up.
		if _, err := c.Read(request[:]); err != nil && (err != io.EOF || len(fds) > 0) {
			return err
		}
	}
	return nil
}

// bindable returns why HAProxy could not listen at a. It takes no connection away from anybody
// who does: it does not listen.
func bindable(a netip.AddrPort) error {
	ip := a.Addr().Unmap()
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()})
	if ip.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// As HAProxy does, so that two of ours may have the same address, and no stranger.
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, sa)
}

// offer listens for HAProxy at path.
func offer(path string) (*net.UnixListener, error) {
	os.Remove(path)
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

func (h *held) close() {
	for _, fd := range h.fds {
		unix.Close(fd)
	}
	h.fds = nil
}
