package weir

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AccessLog says what becomes of a load balancer's access log. Whatever it says, each instance remembers its last
// lines, and whoever may read the load balancer can follow them.
type AccessLog struct {
	File   bool   `json:"file,omitempty"`   // each instance keeps files of them
	Syslog string `json:"syslog,omitempty"` // where each instance sends them: udp://HOST:PORT or tcp://HOST:PORT, as in RFC 5424
	Sample int    `json:"sample,omitempty"` // one request of so many is logged; fewer than 2 stand for all
}

// MaxSample is the largest AccessLog.Sample.
const MaxSample = 10_000

// Check returns what is wrong with l.
func (l *AccessLog) Check() error {
	if l.Sample < 0 || l.Sample > MaxSample {
		return Errorf(Invalid, "sample is %d, want 1 to %d: one request of so many is logged", l.Sample, MaxSample)
	}
	if l.Syslog == "" {
		return nil
	}
	_, _, err := l.Destination()
	return err
}

// Destination returns where Syslog says that lines are to be sent: "udp" or "tcp", and HOST:PORT.
func (l *AccessLog) Destination() (network, address string, err error) {
	u, err := url.Parse(l.Syslog)
	bad := Errorf(Invalid, "syslog is %.80q, want udp://HOST:PORT or tcp://HOST:PORT, such as tcp://192.0.2.9:514", l.Syslog)
	if err != nil || u.Scheme != "udp" && u.Scheme != "tcp" || len(l.Syslog) > 300 || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", "", bad
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil || port < 1 || port > 65535 {
		return "", "", bad
	}
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Unmap().IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() || addr.Unmap().IsLinkLocalUnicast() || addr.Zone() != "" {
			return "", "", Errorf(Invalid, "syslog is %.80q: instances have nobody at %s, want an address that others have", l.Syslog, addr)
		}
	} else if host == "" || strings.EqualFold(host, "localhost") || strings.Trim(host, tokenChars+".") != "" {
		return "", "", bad
	}
	return u.Scheme, u.Host, nil
}

// AccessLine is one line of an access log: a request, or where HTTP is not spoken a connection, that has ended.
// Times are in milliseconds; one that was not reached is -1. What is not known is empty.
type AccessLine struct {
	Time       time.Time `json:"time"`                  // when the request began
	RequestID  string    `json:"request_id,omitempty"`  // which the server was told, and the client, as X-Request-ID
	Client     string    `json:"client"`                // its address
	ClientPort int       `json:"client_port"`           // and the port of it
	Frontend   string    `json:"frontend"`              // the rule's: http-80
	Method     string    `json:"method,omitempty"`      // of HTTP, like those up to Status
	Host       string    `json:"host,omitempty"`        // at most 256 bytes of it
	Path       string    `json:"path,omitempty"`        // with the query, at most 2,048 bytes
	Protocol   string    `json:"protocol,omitempty"`    // HTTP/1.1, HTTP/2.0, or TCP; empty if what came was not HTTP
	Status     int       `json:"status,omitempty"`      // of the response
	BytesIn    int64     `json:"bytes_in"`              // from the client
	BytesOut   int64     `json:"bytes_out"`             // to it
	Total      int       `json:"total_ms"`              // from the first byte of the request to the last of its answer
	Idle       int       `json:"idle_ms,omitempty"`     // for which the connection was idle before that
	Request    int       `json:"request_ms,omitempty"`  // until the request's headers were here
	Queue      int       `json:"queue_ms"`              // until there was a server for it
	Connect    int       `json:"connect_ms"`            // until the server was reached
	Response   int       `json:"response_ms"`           // until the server began to answer
	End        string    `json:"termination"`           // HAProxy's two letters of how it ended; "--" if nothing was amiss
	TLSVersion string    `json:"tls_version,omitempty"` // TLSv1.3, where the load balancer ends TLS
	TLSCipher  string    `json:"tls_cipher,omitempty"`  // that was agreed on
	TLSName    string    `json:"tls_sni,omitempty"`     // the name that the client asked for
	UserAgent  string    `json:"user_agent,omitempty"`  // at most 512 bytes of it
	Referer    string    `json:"referer,omitempty"`     // at most 1,024 bytes of it
	Backend    string    `json:"backend"`
	Server     string    `json:"server,omitempty"`      // the ID of its machine, or its address
	ServerName string    `json:"server_name,omitempty"` // the machine's name
	Instance   ID        `json:"instance"`              // the machine of the load balancer that served it
}

// LogFilter says which lines of an access log somebody wants. The zero value is for all.
type LogFilter struct {
	From      int           `json:"from,omitempty"` // the least status …
	To        int           `json:"to,omitempty"`   // … and the greatest; both 0 for any
	Method    string        `json:"method,omitempty"`
	Host      string        `json:"host,omitempty"` // without a port it is any port's
	Path      string        `json:"path,omitempty"` // what it begins with
	Client    netip.Prefix  `json:"client,omitzero"`
	Server    string        `json:"server,omitempty"` // an ID or a name
	Slower    time.Duration `json:"slower,omitempty"` // those that took at least so long in all
	RequestID string        `json:"request_id,omitempty"`
}

// ParseStatuses returns the least and the greatest status that a text means: 404, 5xx, >=500, 500-503.
func ParseStatuses(text string) (from, to int, err error) {
	const least, most = 100, 999
	number := func(s string) int {
		if len(s) != 3 || strings.Trim(s, "0123456789") != "" {
			return 0
		}
		n, _ := strconv.Atoi(s)
		return n
	}
	class := strings.ToLower(text)
	low, high, isRange := strings.Cut(text, "-")
	switch {
	case len(class) == 3 && class[1:] == "xx":
		from = number(class[:1] + "00")
		to = from + 99
	case strings.HasPrefix(text, ">="):
		from, to = number(text[2:]), most
	case strings.HasPrefix(text, "<="):
		from, to = least, number(text[2:])
	case isRange:
		from, to = number(low), number(high)
	default:
		from = number(text)
		to = from
	}
	if from < least || to < from {
		return 0, 0, Errorf(Invalid, "status is %.40q, want one such as 404, 5xx, >=500 or 500-503", text)
	}
	return from, to, nil
}

// Any reports whether f is for all lines.
func (f *LogFilter) Any() bool { return *f == LogFilter{} }

// Match reports whether f is for l.
func (f *LogFilter) Match(l *AccessLine) bool {
	switch {
	case f.To != 0 && (l.Status < f.From || l.Status > f.To):
	case f.Method != "" && !strings.EqualFold(f.Method, l.Method):
	case f.Host != "" && !strings.EqualFold(f.Host, l.Host) && !strings.EqualFold(f.Host, hostOf(l.Host)):
	case !strings.HasPrefix(l.Path, f.Path):
	case f.Server != "" && f.Server != l.Server && f.Server != l.ServerName:
	case f.Slower > 0 && time.Duration(l.Total)*time.Millisecond < f.Slower:
	case f.RequestID != "" && f.RequestID != l.RequestID:
	case f.Client.IsValid():
		client, err := netip.ParseAddr(l.Client)
		return err == nil && f.Client.Contains(client.Unmap())
	default:
		return true
	}
	return false
}

// hostOf returns a Host header without its port.
func hostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		return host[:i]
	}
	return host
}

// MaxLogLines is how many of the last lines LogQuery.Recent asks each instance for at most.
const MaxLogLines = 1000

// LogQuery is what somebody asks of an access log.
type LogQuery struct {
	LogFilter
	ID     ID   `json:"id,omitempty"` // a name for the asking, between a member of the control plane and nodes
	Recent int  `json:"recent"`       // how many of the last lines
	Follow bool `json:"follow"`       // and then those that come
}

// LogMark is what is between lines that somebody asked for, on a line of its own.
type LogMark struct {
	Recent  bool  `json:"recent,omitempty"`   // between a node and the control plane: what is before it was there before, what follows comes
	LeftOut int64 `json:"left_out,omitempty"` // so many lines are left out here, since more came than are sent
}

// LogQueries are what is asked of a node's access log at one member of the control plane.
type LogQueries struct {
	Version int64      `json:"version"` // another one whenever the rest is
	Queries []LogQuery `json:"queries"`
}

// AccessCounts are what a node's agent has counted of its access log since it started.
type AccessCounts struct {
	Since     time.Time `json:"since"`               // when it did
	Lines     int64     `json:"lines"`               // that came
	Malformed int64     `json:"malformed,omitempty"` // that were no JSON
	Unfiled   int64     `json:"unfiled,omitempty"`   // that are in no file, since the disk was too slow or full
	Unsent    int64     `json:"unsent,omitempty"`    // that were not sent to Syslog, which did not take them
	Response  Durations `json:"response"`            // until the server began to answer
	Total     Durations `json:"total"`               // in all
}

// Durations counts times by how long they were, to within 10 %.
type Durations struct {
	Counts []int64       `json:"counts,omitempty"` // as DurationBounds has them; those of the end that are 0 are left out
	Sum    time.Duration `json:"sum,omitempty"`    // of all of them
}

// DurationBounds are the longest times that are counted together, each with those after the one before.
var DurationBounds = func() (bounds []time.Duration) {
	for ms := 0.0; ms < 700_000; { // connections without traffic end after 600 s
		bounds = append(bounds, time.Duration(ms)*time.Millisecond)
		if ms++; ms > 10 {
			ms = math.Ceil((ms - 1) * 1.19)
		}
	}
	return bounds
}()

// Add counts d.
func (d *Durations) Add(took time.Duration) {
	i, _ := slices.BinarySearch(DurationBounds, took)
	i = min(i, len(DurationBounds)-1)
	for len(d.Counts) <= i {
		d.Counts = append(d.Counts, 0)
	}
	d.Counts[i]++
	d.Sum += took
}

// Percentile returns how long the share of times that is shorter took at most, to within 10 %. counts are as
// Durations has them, and it is 0 if nothing was counted.
func Percentile(counts []float64, share float64) time.Duration {
	all := 0.0
	for _, n := range counts {
		all += n
	}
	if all <= 0 {
		return 0
	}
	seen := 0.0
	for i, n := range counts[:min(len(counts), len(DurationBounds))] {
		if seen += n; seen >= share*all && n > 0 {
			upper := DurationBounds[i]
			if i == 0 || upper-DurationBounds[i-1] <= time.Millisecond {
				return upper
			}
			return time.Duration(math.Sqrt(float64(DurationBounds[i-1]) * float64(upper))) // errs by as much either way
		}
	}
	return DurationBounds[len(DurationBounds)-1]
}

// String returns f as words for people, "all lines" if it is for all.
func (f *LogFilter) String() string {
	var words []string
	add := func(said bool, format string, args ...any) {
		if said {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(f.To != 0 && f.From == f.To, "status %d", f.From)
	add(f.From != f.To, "status %d to %d", f.From, f.To)
	add(f.Method != "", "method %s", f.Method)
	add(f.Host != "", "host %s", f.Host)
	add(f.Path != "", "path %s…", f.Path)
	add(f.Client.IsValid(), "client %s", f.Client)
	add(f.Server != "", "server %s", f.Server)
	add(f.Slower > 0, "%s or slower", f.Slower)
	add(f.RequestID != "", "request %s", f.RequestID)
	if len(words) == 0 {
		return "all lines"
	}
	return strings.Join(words, ", ")
}
