package domains

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"

	"weir/weir"
)

// fake is DigitalOcean's API of domains: it keeps the contract as far as records of type TXT go.
type fake struct {
	t       *testing.T
	mu      sync.Mutex
	domains []string
	records map[string][]record // by domain
	last    int
	made    int
}

type record struct {
	ID   int    `json:"id"`
	Type string `json:"type"`
	Name string `json:"name"`
	Data string `json:"data"`
	TTL  int    `json:"ttl"`
}

func newFake(t *testing.T, domains ...string) (*fake, *Client) {
	f := &fake{t: t, domains: domains, records: map[string][]record{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/domains", f.listDomains)
	mux.HandleFunc("GET /v2/domains/{domain}/records", f.list)
	mux.HandleFunc("POST /v2/domains/{domain}/records", f.create)
	mux.HandleFunc("DELETE /v2/domains/{domain}/records/{id}", f.remove)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer sesame" {
			t.Errorf("%s %s without the token", r.Method, r.URL)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c, err := New(Options{Token: "sesame\n", URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

func (f *fake) reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// page writes a page of one item, so that clients must ask for the next.
func page[T any](f *fake, w http.ResponseWriter, r *http.Request, root string, all []T) {
	n, _ := strconv.Atoi(r.URL.Query().Get("page"))
	pages := map[string]string{}
	if n < len(all) {
		pages["next"] = fmt.Sprintf("http://x/?page=%d", n+1)
		pages["last"] = fmt.Sprintf("http://x/?page=%d", len(all))
	}
	f.reply(w, 200, map[string]any{root: all[min(n-1, len(all)):min(n, len(all))], "links": map[string]any{"pages": pages}, "meta": map[string]int{"total": len(all)}})
}

func (f *fake) listDomains(w http.ResponseWriter, r *http.Request) {
	var all []map[string]string
	for _, d := range f.domains {
		all = append(all, map[string]string{"name": d})
	}
	page(f, w, r, "domains", all)
}

func (f *fake) list(w http.ResponseWriter, r *http.Request) {
	domain, q := r.PathValue("domain"), r.URL.Query()
	var all []record
	for _, rec := range f.records[domain] {
		// The name to look for is a whole one, that of a record is within its domain.
		if q.Get("type") == rec.Type && q.Get("name") == rec.Name+"."+domain {
			all = append(all, rec)
		}
	}
	page(f, w, r, "domain_records", all)
}

func (f *fake) create(w http.ResponseWriter, r *http.Request) {
	var rec record
	if err := json.NewDecoder(r.Body).Decode(&rec); err != nil || rec.TTL < 30 {
		f.t.Errorf("a record %+v (%v), want JSON and a TTL of at least 30", rec, err)
	}
	f.last++
	f.made++
	rec.ID = f.last
	domain := r.PathValue("domain")
	f.records[domain] = append(f.records[domain], rec)
	f.reply(w, 201, map[string]any{"domain_record": rec})
}

func (f *fake) remove(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	domain := r.PathValue("domain")
	at := slices.IndexFunc(f.records[domain], func(rec record) bool { return rec.ID == id })
	if at < 0 {
		f.reply(w, 404, map[string]string{"id": "not_found", "message": "The resource you were accessing could not be found."})
		return
	}
	f.records[domain] = slices.Delete(f.records[domain], at, at+1)
	w.WriteHeader(204)
}

func TestRecordsAreAddedOnceAndRemovedAlone(t *testing.T) {
	f, c := newFake(t, "example.com", "shop.example.com", "other.example")
	ctx := t.Context()
	f.records["shop.example.com"] = []record{{ID: 900, Type: "TXT", Name: "_acme-challenge", Data: "another's"}, {ID: 901, Type: "A", Name: "_acme-challenge", Data: "192.0.2.1"}}
	for range 2 {
		for _, value := range []string{"one", "two"} { // a name and its wildcard have a record each
			if err := c.Add(ctx, "_acme-challenge.shop.example.com", value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Add(ctx, "_acme-challenge.www.example.com", "three"); err != nil {
		t.Fatal(err)
	}
	if f.made != 3 || len(f.records["shop.example.com"]) != 4 || f.records["example.com"][0].Name != "_acme-challenge.www" {
		t.Errorf("records %+v, want one for each value, in the closest domain", f.records)
	}
	for range 2 {
		for _, value := range []string{"one", "two"} {
			if err := c.Remove(ctx, "_acme-challenge.shop.example.com", value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left := f.records["shop.example.com"]; len(left) != 2 || left[0].ID != 900 {
		t.Errorf("records %+v, want those of others left", left)
	}
}

func TestNamesOfOtherDomainsAreNotHeld(t *testing.T) {
	_, c := newFake(t, "example.com")
	for name, want := range map[string]bool{"example.com": true, "a.b.example.com": true, "notexample.com": false, "com": false, "example.org": false} {
		if got, err := c.Holds(t.Context(), name); err != nil || got != want {
			t.Errorf("%s is held: %v (%v), want %v", name, got, err, want)
		}
	}
	if err := c.Add(t.Context(), "_acme-challenge.example.org", "x"); !errors.Is(err, weir.NotFound) {
		t.Errorf("adding to a domain of somebody else's: %v, want weir.NotFound", err)
	}
	if err := c.Remove(t.Context(), "_acme-challenge.example.org", "x"); err != nil {
		t.Errorf("removing from it: %v, want nothing to do", err)
	}
	if _, err := New(Options{Token: " \n"}); err == nil {
		t.Error("an empty token is taken")
	}
}
