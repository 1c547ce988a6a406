package heartbeat

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// socket is one UDP socket, of IPv4 or of IPv6, for all our addresses: those that come
// later too. The system calls are made directly, since only so one goroutine can wait, and
// then read all that there is, before it judges.
type socket struct {
	fd  int
	v6  bool
	buf [maxSize + 1]byte
	oob [256]byte
}

// listen opens a socket. On the zero address of its family it takes packets to any of
// ours, and can answer from the one that was asked.
func listen(addr netip.AddrPort) (*socket, error) {
	s := &socket{v6: addr.Addr().Is6()}
	family, level := unix.AF_INET, unix.IPPROTO_IP
	options := []int{unix.IP_PKTINFO, unix.IP_RECVERR}
	if s.v6 {
		family, level = unix.AF_INET6, unix.IPPROTO_IPV6
		options = []int{unix.IPV6_RECVPKTINFO, unix.IPV6_RECVERR, unix.IPV6_V6ONLY}
	}
	var err error
	s.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(s.fd, level, o, 1); err != nil {
			s.close()
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	// Room for what arrives while we have no processor. More than the limit is not
	// granted, and less will do.
	unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	if err := unix.Bind(s.fd, sockaddr(addr)); err != nil {
		s.close()
		return nil, os.NewSyscallError("bind", err)
	}
	return s, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// datagram is one that arrived. It is good until the next is read.
type datagram struct {
	data []byte
	from unix.Sockaddr
	info []byte // a control message; with it, an answer leaves from the address that was asked
}

// read returns the next datagram, and false if none is there.
func (s *socket) read() (datagram, bool) {
	for range 8 {
		n, oobn, _, from, err := unix.Recvmsg(s.fd, s.buf[:], s.oob[:], 0)
		switch {
		case err == nil:
			return datagram{data: s.buf[:n], from: from, info: s.source(s.oob[:oobn])}, true
		case errors.Is(err, unix.EAGAIN):
			return datagram{}, false
		}
		// An error that is waiting for us, of an earlier datagram: it is gone now, and in
		// the queue of errors with all that is known of it.
	}
	return datagram{}, false
}

// source makes what the kernel told of a datagram's destination into the order to send
// from there: the same, but by whichever interface the route takes.
func (s *socket) source(oob []byte) []byte {
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	switch {
	case err != nil:
		return nil
	case !s.v6 && h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		clear(data[:4])
		return oob[:unix.CmsgSpace(unix.SizeofInet4Pktinfo)]
	case s.v6 && h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		clear(data[16:20])
		return oob[:unix.CmsgSpace(unix.SizeofInet6Pktinfo)]
	}
	return nil
}

// failure is the kernel's word about a datagram that we sent.
type failure struct {
	data  []byte // as much of it as was quoted
	to    netip.Addr
	errno unix.Errno
}

// failed returns the next failure, and false if there is none.
func (s *socket) failed() (failure, bool) {
	for range 8 {
		n, oobn, _, to, err := unix.Recvmsg(s.fd, s.buf[:], s.oob[:], unix.MSG_ERRQUEUE)
		if errors.Is(err, unix.EAGAIN) {
			return failure{}, false
		}
		if err != nil {
			continue // as in read
		}
		f := failure{data: s.buf[:n]}
		if addr, ok := address(to); ok {
			f.to = addr.Addr()
		}
		for rest := s.oob[:oobn]; len(rest) > 0; {
			var h unix.Cmsghdr
			var data []byte
			h, data, rest, err = unix.ParseOneSocketControlMessage(rest)
			if err != nil {
				break
			}
			v4 := h.Level == unix.IPPROTO_IP && h.Type == unix.IP_RECVERR
			v6 := h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_RECVERR
			if (v4 || v6) && len(data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})) {
				f.errno = unix.Errno(binary.NativeEndian.Uint32(data))
			}
		}
		return f, true
	}
	return failure{}, false
}

// write sends data. It returns what the kernel says at once.
func (s *socket) write(data, info []byte, to unix.Sockaddr) error {
	err := unix.Sendmsg(s.fd, data, info, to, 0)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		// It may be the error of an earlier datagram, which only now reaches us.
		err = unix.Sendmsg(s.fd, data, info, to, 0)
	}
	return err
}

// fault returns what err says of a path, or "" if it says nothing.
func fault(err error) weir.PathState {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch errno {
	case unix.ECONNREFUSED:
		return weir.PathRefused
	case unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN, unix.ENONET, unix.EACCES, unix.EPERM:
		return weir.PathUnreachable
	}
	return ""
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if a := addr.Addr(); a.Is6() {
		return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16()}
	}
	return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
}

func address(sa unix.Sockaddr) (netip.AddrPort, bool) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), true
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), true
	}
	return netip.AddrPort{}, false
}
