package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is what the process that asks is to do.
type load struct {
	URL, Token, Kind    string
	Connections         int
	Time                time.Duration
	Balancers, Droplets int
	Seed                uint64
}

// result is what it saw: answers a second, and how long they took in milliseconds.
type result struct {
	Rate, P50, P99 float64
	CPU            float64 // of the process that asks, in microseconds an answer
	Answers        int
	Failed         int // of them those of another status than 2xx
}

// request is one that is to be made.
type request struct{ method, path, body string }

// kind is a kind of load: next returns a request to make.
type kind struct {
	name string
	next func(l *load, random *rand.Rand) request
}

func get(path string) request { return request{"GET", path, ""} }

// page returns the request for some page of a list that has so many things.
func page(path string, total, size int, random *rand.Rand) request {
	return get(fmt.Sprintf("%s?per_page=%d&page=%d", path, size, 1+random.IntN(max(1, total/size))))
}

func oneDroplet(l *load, random *rand.Rand) request {
	return get("/v2/droplets/" + string(dropletID(random.IntN(l.Droplets))))
}

func tagPage(l *load, random *rand.Rand) request {
	return page("/v2/tags", (l.Droplets+perTag-1)/perTag, 20, random)
}

// balancerBody is that of a load balancer; turn changes what it says.
func balancerBody(n, droplets, turn int) string {
	ids := make([]int, droplets)
	for d := range ids {
		ids[d] = firstID + n*droplets + d
	}
	text, _ := json.Marshal(map[string]any{"name": balancerName(n), "region": region, "droplet_ids": ids,
		"http_idle_timeout_seconds": 30 + turn%570,
		"forwarding_rules":          []map[string]any{{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}}})
	return string(text)
}

func putBalancer(l *load, random *rand.Rand) request {
	n := random.IntN(l.Balancers)
	return request{"PUT", "/v2/load_balancers/" + string(balancerID(n)), balancerBody(n, l.Droplets/l.Balancers, random.IntN(570))}
}

func tagDroplet(l *load, random *rand.Rand) request {
	method := []string{"POST", "DELETE"}[random.IntN(2)]
	return request{method, "/v2/tags/" + tagOf(random.IntN(l.Droplets)) + "/resources",
		fmt.Sprintf(`{"resources": [{"resource_id": "%s", "resource_type": "droplet"}]}`, dropletID(random.IntN(l.Droplets)))}
}

func createDroplet(_ *load, random *rand.Rand) request {
	return request{"POST", "/v2/droplets", fmt.Sprintf(`{"name": "new-%d", "region": %q, "size": "s-1vcpu-1gb", "image": "debian-12-x64"}`, random.IntN(1_000_000), region)}
}

// kinds are what is measured, each by itself and then together.
func kinds() []kind {
	mixed := func(l *load, random *rand.Rand) request {
		switch n := random.IntN(100); {
		case n < 70:
			return oneDroplet(l, random)
		case n < 80:
			return get("/v2/load_balancers/" + string(balancerID(random.IntN(l.Balancers))))
		case n < 90:
			return page("/v2/droplets", l.Droplets, 20, random)
		case n < 95:
			return page("/v2/load_balancers", l.Balancers, 20, random)
		case n < 99:
			return tagPage(l, random)
		}
		return page("/v2/droplets", l.Droplets, 200, random)
	}
	writes := func(l *load, random *rand.Rand) request {
		switch n := random.IntN(10); {
		case n < 4:
			return putBalancer(l, random)
		case n < 8:
			return tagDroplet(l, random)
		}
		return createDroplet(l, random)
	}
	return []kind{
		{"one droplet", oneDroplet},
		{"20 droplets", func(l *load, r *rand.Rand) request { return page("/v2/droplets", l.Droplets, 20, r) }},
		{"200 droplets", func(l *load, r *rand.Rand) request { return page("/v2/droplets", l.Droplets, 200, r) }},
		{"droplets of a tag", func(l *load, r *rand.Rand) request { return get("/v2/droplets?tag_name=" + tagOf(r.IntN(l.Droplets))) }},
		{"20 load balancers", func(l *load, r *rand.Rand) request { return page("/v2/load_balancers", l.Balancers, 20, r) }},
		{"20 tags with counts", tagPage},
		{"mixed reads", mixed},
		{"PUT a load balancer", putBalancer},
		{"tag a droplet", tagDroplet},
		{"create a droplet", createDroplet},
		{"mixed writes", writes},
	}
}

// answerLoad does what text, a load in JSON, says, and prints the result.
func answerLoad(ctx context.Context, text string) error {
	var l load
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return k.name == l.Kind })
	if i < 0 {
		return fmt.Errorf("there is no load %q", l.Kind)
	}
	r, err := l.run(ctx, all[i])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// run asks for as long as l says.
func (l *load) run(ctx context.Context, k kind) (r result, err error) {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	began := time.Now()
	for i := range l.Connections {
		wg.Go(func() {
			mine, failed, asked := l.ask(ctx, k, rand.New(rand.NewPCG(l.Seed, uint64(i))), began.Add(l.Time))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			r.Failed += failed
			if asked != nil {
				err = asked
			}
		})
	}
	wg.Wait()
	if err != nil {
		return r, err
	}
	if len(took) == 0 {
		return r, fmt.Errorf("%s: there was no answer in %s", k.name, l.Time)
	}
	spent, busy := time.Since(began).Seconds(), cpu()
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[min(int(share*float64(len(took))), len(took)-1)].Microseconds()) / 1000
	}
	return result{Rate: float64(len(took)) / spent, P50: at(0.5), P99: at(0.99), CPU: float64(busy.Microseconds()) / float64(len(took)),
		Answers: len(took), Failed: r.Failed}, nil
}

// ask asks on one connection until the time is over.
func (l *load) ask(ctx context.Context, k kind, random *rand.Rand, end time.Time) (took []time.Duration, failed int, err error) {
	c, err := dial(ctx, l.URL, l.Token)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	c.SetDeadline(end.Add(time.Minute))
	for time.Now().Before(end) && ctx.Err() == nil {
		q := k.next(l, random)
		began := time.Now()
		status, err := c.do(q.method, q.path, q.body)
		if err != nil {
			return nil, 0, err
		}
		took = append(took, time.Since(began))
		if status/100 != 2 {
			failed++
		}
	}
	return took, failed, nil
}

// conn is one connection to the API. net/http's client would cost much of what is measured: this one understands
// what the API answers and no more.
type conn struct {
	net.Conn
	in   *bufio.Reader
	out  []byte
	head string // of each request, after its first line
}

func dial(ctx context.Context, url, token string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return nil, err
	}
	head := " HTTP/1.1\r\nHost: weir.example\r\nAuthorization: Bearer " + token + "\r\n"
	return &conn{Conn: c, in: bufio.NewReaderSize(c, 1<<16), head: head}, nil
}

// do makes a request, reads the whole answer and returns its status.
func (c *conn) do(method, path, body string) (status int, err error) {
	c.out = append(append(append(append(c.out[:0], method...), ' '), path...), c.head...)
	if body != "" {
		c.out = append(c.out, "Content-Type: application/json\r\nContent-Length: "...)
		c.out = append(strconv.AppendInt(c.out, int64(len(body)), 10), "\r\n"...)
	}
	c.out = append(append(c.out, "\r\n"...), body...)
	if _, err := c.Write(c.out); err != nil {
		return 0, err
	}
	return c.answer()
}

// answer reads an answer, which must say how long it is unless its status says that it has no body.
func (c *conn) answer() (status int, err error) {
	length := -1
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case first:
			if !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) || len(line) < len("HTTP/1.1 200") {
				return 0, fmt.Errorf("answer begins with %.40q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
		case len(line) == 0:
			if status == http.StatusNoContent {
				length = 0
			}
			if length < 0 {
				return 0, errors.New("answer does not say how long it is")
			}
			_, err := c.in.Discard(length)
			return status, err
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		}
	}
}
