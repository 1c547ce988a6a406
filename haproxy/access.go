package haproxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// Access is one line of the access log.
type Access struct {
	Text            []byte        // a [weir.AccessLine] in JSON, without its Instance; good until the call ends
	Response, Total time.Duration // of the line; negative if the request did not come so far
}

// How long what a client says is in a line, at most. A character takes up to six bytes there, so that even the worst
// line is within accessLen.
const (
	hostLen    = 256
	pathLen    = 2048
	agentLen   = 512
	refererLen = 1024

	accessLen = 32 << 10
)

// What a client says is in a line only by way of json(), which leaves nothing that could end a string. All else is
// HAProxy's own, or a name of ours. The server is last, where finishAccess looks for it.
const (
	accessBegin = `'{"ended":%[date(0,ms)],`
	accessWho   = `"client":"%ci","client_port":%cp,"frontend":"%f",`
	accessHTTP  = `"request_id":"%[var(txn.weir_request)]",` + accessWho +
		`"method":"%[capture.req.method,json(utf8s)]","host":"%[capture.req.hdr(0),json(utf8s)]","path":"%[capture.req.hdr(1),json(utf8s)]",` +
		`"protocol":"%HV","status":%ST,"bytes_in":%U,"bytes_out":%B,` +
		`"total_ms":%Ta,"idle_ms":%Ti,"request_ms":%TR,"queue_ms":%Tw,"connect_ms":%Tc,"response_ms":%Tr,`
	accessTCP   = accessWho + `"protocol":"TCP","bytes_in":%U,"bytes_out":%B,"total_ms":%Tt,"queue_ms":%Tw,"connect_ms":%Tc,"response_ms":-1,`
	accessTLS   = `"tls_version":"%sslv","tls_cipher":"%sslc","tls_sni":"%[ssl_fc_sni,json(utf8s)]",`
	accessAgent = `"user_agent":"%[capture.req.hdr(2),json(utf8s)]","referer":"%[capture.req.hdr(3),json(utf8s)]",`
	accessEnd   = `"termination":"%ts","backend":"%b","server":"%s"}'`
)

// requestID is the header that a request's ID travels in, and what may be in one that a client has given.
const (
	requestID      = "X-Request-ID"
	requestIDChars = "^[A-Za-z0-9._-]{1,128}$"
)

// access writes how a frontend logs. It does not, if the document says nothing of it.
func (w *writer) access(f *weir.Frontend, p *weir.Proxy, on Host) {
	if p.Log == nil {
		return
	}
	w.word("    log abns@").name(on.accessSocket()).word(" len ").int(accessLen).word(" format raw")
	if p.Log.Sample > 1 {
		w.word(" sample 1:").int(int64(p.Log.Sample))
	}
	w.line(" local0 info")
	w.line("    option dontlognull")
	w.word("    log-format ").word(accessBegin)
	if f.Mode == weir.HTTP {
		w.word(accessHTTP)
	} else {
		w.word(accessTCP)
	}
	if f.TLS != nil {
		w.word(accessTLS)
	}
	if f.Mode == weir.HTTP {
		w.word(accessAgent)
	}
	w.line(accessEnd)
	if f.Mode != weir.HTTP {
		return
	}
	for _, c := range []struct {
		sample string
		len    int64
	}{{"req.hdr(host)", hostLen}, {"pathq", pathLen}, {"req.hdr(user-agent)", agentLen}, {"req.hdr(referer)", refererLen}} {
		w.word("    http-request capture ").word(c.sample).word(" len ").int(c.len).line("")
	}
	w.line("    http-request set-var(txn.weir_request) req.hdr(" + requestID + ") if { req.hdr_cnt(" + requestID + ") eq 1 } { req.hdr(" + requestID + ") -m reg " + requestIDChars + " }")
	w.line("    http-request set-var(txn.weir_request) uuid unless { var(txn.weir_request) -m found }")
	w.line("    http-request set-header " + requestID + " %[var(txn.weir_request)]")
	w.line("    http-after-response set-header " + requestID + " %[var(txn.weir_request)]")
}

// accessSocket is the name of the socket that lines of the access log are sent to. It is of the kernel's abstract
// names: HAProxy's worker is another user, who may not look into our directory.
func (h Host) accessSocket() string {
	if h.Access != "" {
		return h.Access
	}
	return "weir-access"
}

// accessFile has the name of the socket, so that it stays the same for a HAProxy that outlives us.
const accessFile = "access.name"

// accessName returns the name of the socket of the directory, making it if there is none. It cannot be guessed, so that
// nobody else on this machine is there before us.
func (p *Proxy) accessName() (string, error) {
	text, err := os.ReadFile(p.path(accessFile))
	if name := strings.TrimSpace(string(text)); err == nil && name != "" && sanitize(name) == name {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var secret [16]byte
	rand.Read(secret[:]) // it never fails
	name := "weir-access-" + hex.EncodeToString(secret[:])
	return name, replace(p.path(accessFile), []byte(name+"\n"))
}

// hearAccess reads the lines of the access log until ctx ends. Nothing waits for it: a line that it is too slow for is lost.
func (p *Proxy) hearAccess(ctx context.Context, on Host) {
	if p.access == nil {
		return
	}
	failed := false
	for ctx.Err() == nil {
		err := p.readAccess(ctx, on)
		if err != nil && ctx.Err() == nil {
			if !failed {
				p.log.Warn("access log not read", "err", err)
			}
			failed = true
			pause(ctx, time.Second)
		}
	}
}

func (p *Proxy) readAccess(ctx context.Context, on Host) error {
	c, err := listenAccess(on.accessSocket())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	friends := []uint32{0, uint32(os.Geteuid())}
	if u, err := user.Lookup(on.User); err == nil {
		if id, err := strconv.ParseUint(u.Uid, 10, 32); err == nil {
			friends = append(friends, uint32(id))
		}
	}
	line, who := make([]byte, accessLen+1), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var text []byte
	for {
		n, m, _, _, err := c.ReadMsgUnix(line, who)
		if err != nil {
			return err
		}
		if !slices.Contains(friends, sender(who[:m])) {
			continue // somebody else on this machine makes it up
		}
		var a Access
		names, _ := p.names.Load().(map[string]string)
		a, text = finishAccess(text[:0], bytes.TrimRight(line[:n], "\n"), names)
		p.access(a)
	}
}

// listenAccess opens the socket of that name.
func listenAccess(name string) (*net.UnixConn, error) {
	// HAProxy sends to a name of full length.
	full := "@" + name + strings.Repeat("\x00", max(0, 107-len(name)))
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: full, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", name, errors.Unwrap(err))
	}
	raw, err := c.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// sender returns which user sent a message; nobody, if it does not say.
func sender(control []byte) uint32 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 1<<32 - 1
	}
	for i := range messages {
		if who, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return who.Uid
		}
	}
	return 1<<32 - 1
}

// finishAccess appends a line to text as users are to see it: HAProxy says when a request has ended, for want of a way to
// write when it began; has a dash where there is nothing, and escapes slashes; and knows its servers by their IDs. names
// are theirs. What is no line of ours comes back as it is, for others to find that out.
func finishAccess(text, line []byte, names map[string]string) (Access, []byte) {
	a := Access{Response: -1, Total: -1}
	ended, ok := numberAt(line, `{"ended":`)
	begin, rest, found := bytes.Cut(line, []byte(`,`))
	if !ok || !found || !bytes.HasPrefix(begin, []byte(`{"ended":`)) {
		a.Text = append(text, line...)
		return a, a.Text
	}
	total, _ := numberAt(rest, `"total_ms":`)
	if total >= 0 {
		a.Total = time.Duration(total) * time.Millisecond
	}
	if response, ok := numberAt(rest, `"response_ms":`); ok && response >= 0 {
		a.Response = time.Duration(response) * time.Millisecond
	}
	text = append(text, `{"time":"`...)
	text = time.UnixMilli(ended-max(total, 0)).UTC().AppendFormat(text, "2006-01-02T15:04:05.000Z07:00")
	text = append(text, `",`...)
	for len(rest) > 0 {
		// In what json() has written a quote follows a backslash, so that these are never in a client's words.
		i := bytes.IndexAny(rest, `\-<`)
		if i < 0 {
			break
		}
		text = append(text, rest[:i]...)
		switch rest = rest[i:]; {
		case bytes.HasPrefix(rest, []byte(`\/`)):
			text, rest = append(text, '/'), rest[2:]
		case rest[0] == '\\':
			n := min(2, len(rest))
			text, rest = append(text, rest[:n]...), rest[n:]
		case bytes.HasSuffix(text, []byte(`":"`)) && bytes.HasPrefix(rest, []byte(`-"`)):
			rest = rest[1:]
		case bytes.HasSuffix(text, []byte(`"server":"`)) && bytes.HasPrefix(rest, []byte(`<NOSRV>"`)):
			rest = rest[len(`<NOSRV>`):]
		case bytes.HasSuffix(text, []byte(`"protocol":"`)) && bytes.HasPrefix(rest, []byte(`<BADREQ>"`)):
			rest = rest[len(`<BADREQ>`):]
		default:
			text, rest = append(text, rest[0]), rest[1:]
		}
	}
	text = append(text, rest...)
	if i := bytes.LastIndex(text, []byte(`"server":"`)); i >= 0 {
		if id, ok := bytes.CutSuffix(text[i+len(`"server":"`):], []byte(`"}`)); ok {
			if name, err := json.Marshal(names[string(id)]); err == nil && len(name) > 2 {
				text = append(append(append(text[:len(text)-1], `,"server_name":`...), name...), '}')
			}
		}
	}
	a.Text = text
	return a, text
}

// numberAt returns the number behind the first key in a line.
func numberAt(line []byte, key string) (n int64, ok bool) {
	i := bytes.Index(line, []byte(key))
	if i < 0 {
		return 0, false
	}
	rest := line[i+len(key):]
	end := 0
	for end < len(rest) && (rest[end] == '-' || '0' <= rest[end] && rest[end] <= '9') {
		end++
	}
	n, err := strconv.ParseInt(string(rest[:end]), 10, 64)
	return n, err == nil
}

// serverNames returns the names of p's servers by what HAProxy calls them.
func serverNames(p *weir.Proxy) map[string]string {
	names := map[string]string{}
	for i := range p.Backends {
		for j := range p.Backends[i].Servers {
			s := &p.Backends[i].Servers[j]
			names[serverName(s.ID)] = s.Name
		}
	}
	return names
}
