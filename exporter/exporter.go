// Package exporter asks machines what they use: a program on each of them tells it over HTTP in Prometheus's text
// format and by the names of its node_exporter.
//
// [Ask] trusts nobody that it asks. It opens one connection and follows nowhere else, ends when its context does,
// reads no more than a bound, keeps no more than the few lines that count, and starts nothing that outlives it.
package exporter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Bounds of an answer, in bytes: of all of it, and of the lines in it that count. One of node_exporter's has about 100 kB,
// and for each CPU 400 bytes that count.
const (
	longest = 4 << 20
	kept    = 1 << 20
)

// Dial opens a connection, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Reading is what a machine uses at a moment, and has used since its kernel began to count.
type Reading struct {
	Taken        time.Time     // the moment, by our clock
	Up           time.Duration // for how long it has run, by its own clock
	CPUs         int
	User, System time.Duration // CPU time; System is all that is neither its programs' nor idle
	Memory       Memory
}

// Memory is a machine's, in bytes.
type Memory struct {
	Total, Available int64
	Free, Cached     int64 // Available and 0 if it does not tell
}

// The names that count.
const (
	cpuSeconds = "node_cpu_seconds_total"
	memTotal   = "node_memory_MemTotal_bytes"
	memFree    = "node_memory_MemFree_bytes"
	memCached  = "node_memory_Cached_bytes"
	memToUse   = "node_memory_MemAvailable_bytes"
	booted     = "node_boot_time_seconds"
	clock      = "node_time_seconds"
)

var names = []string{cpuSeconds, memTotal, memFree, memCached, memToUse, booted, clock}

// Ask asks the exporter at addr, which answers at path. The error says in a few words what is amiss, and not where.
func Ask(ctx context.Context, dial Dial, addr netip.AddrPort, path string) (Reading, error) {
	r, err := ask(ctx, dial, addr, path)
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return r, errors.New("no answer in time")
	case errors.As(err, &errno):
		return r, errno
	}
	return r, err
}

func ask(ctx context.Context, dial Dial, addr netip.AddrPort, path string) (r Reading, err error) {
	conn, err := dial(ctx, "tcp", addr.String())
	if err != nil {
		return r, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	request := "GET " + path + " HTTP/1.1\r\nHost: " + addr.String() + "\r\nUser-Agent: weir\r\nAccept: text/plain;version=0.0.4\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return r, err
	}
	all := &io.LimitedReader{R: conn, N: longest}
	answer, err := http.ReadResponse(bufio.NewReader(all), nil)
	if err == nil {
		defer answer.Body.Close()
		r.Taken = time.Now()
		if answer.StatusCode != http.StatusOK {
			return r, fmt.Errorf("it answers %d", answer.StatusCode)
		}
		err = r.read(answer.Body)
	}
	switch {
	case all.N == 0: // its end may look like that of the answer
		return r, fmt.Errorf("it answers more than %d MiB", longest>>20)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return r, errors.New("its answer ends too early")
	}
	return r, err
}

// read takes what counts from an answer.
func (r *Reading) read(answer io.Reader) error {
	lines, err := relevant(answer)
	if err != nil {
		return err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(lines))
	if err != nil {
		return fmt.Errorf("its answer is not in Prometheus's format: %.200q", err.Error())
	}
	values := families[cpuSeconds].GetMetric()
	if len(values) == 0 {
		return fmt.Errorf("it does not tell %s", cpuSeconds)
	}
	cpus := map[string]bool{}
	var user, system float64
	for _, m := range values {
		v, mode := valueOf(m), label(m, "mode")
		if !(v >= 0 && v <= most) {
			return fmt.Errorf("it tells that %s is %v", cpuSeconds, v)
		}
		cpus[label(m, "cpu")] = true
		switch mode {
		case "idle", "iowait":
		case "user", "nice":
			user += v
		default:
			system += v
		}
	}
	if user > most || system > most {
		return fmt.Errorf("it tells that %s is %v", cpuSeconds, user+system)
	}
	r.CPUs, r.User, r.System = len(cpus), seconds(user), seconds(system)
	return r.readRest(families)
}

// most is what no number of seconds is over: it is a few hundred years.
const most = 8e9

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func (r *Reading) readRest(families map[string]*dto.MetricFamily) error {
	told := map[string]float64{clock: float64(r.Taken.UnixMilli()) / 1000}
	for _, name := range names[1:] {
		of := families[name].GetMetric()
		if len(of) == 0 {
			continue
		}
		told[name] = valueOf(of[0])
		if v := told[name]; !(v >= 0 && v < math.MaxInt64/2) {
			return fmt.Errorf("it tells that %s is %v", name, v)
		}
	}
	for _, name := range []string{memTotal, memToUse, booted} {
		if _, ok := told[name]; !ok {
			return fmt.Errorf("it does not tell %s", name)
		}
	}
	if told[memTotal] == 0 || told[memToUse] > told[memTotal] {
		return fmt.Errorf("it tells that %s is %v, and %s is %v", memToUse, told[memToUse], memTotal, told[memTotal])
	}
	r.Memory = Memory{Total: int64(told[memTotal]), Available: int64(told[memToUse]), Free: int64(told[memToUse]), Cached: int64(told[memCached])}
	if free, ok := told[memFree]; ok {
		r.Memory.Free = int64(free)
	}
	r.Up = seconds(min(max(told[clock]-told[booted], 0), most))
	return nil
}

// relevant returns the lines of an answer that count. One of node_exporter has a thousand others.
func relevant(answer io.Reader) ([]byte, error) {
	var lines []byte
	scan := bufio.NewScanner(answer)
	for scan.Scan() {
		line := scan.Bytes()
		if !slices.ContainsFunc(names, func(name string) bool { return begins(line, name) }) {
			continue
		}
		if len(lines)+len(line) > kept {
			return nil, fmt.Errorf("it answers more than %d MiB of CPU and memory", kept>>20)
		}
		lines = append(append(lines, line...), '\n')
	}
	if errors.Is(scan.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("its answer is not in Prometheus's format: it has a line of more than %d KiB", bufio.MaxScanTokenSize>>10)
	}
	return lines, scan.Err()
}

// begins reports whether a line has a value of that name.
func begins(line []byte, name string) bool {
	return len(line) > len(name) && string(line[:len(name)]) == name && strings.IndexByte("{ \t", line[len(name)]) >= 0
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// valueOf returns the value of a metric, which has no type: the lines that tell types do not count.
func valueOf(m *dto.Metric) float64 { return m.GetUntyped().GetValue() }
