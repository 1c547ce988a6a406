package web

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

func TestPageOfTheAPISaysAllThatTheDocumentSays(t *testing.T) {
	document, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	NewDocs(document, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/docs", nil))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	root, err := html.Parse(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	ids, text := map[string]bool{}, ""
	var links []string
	for n := range root.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" {
			text += n.Data
		}
		if n.Type != html.ElementNode {
			continue
		}
		text += " "[:strings.Count(" td p h3 li ", " "+n.Data+" ")]
		if n.Data == "script" || n.Data == "img" || n.Data == "link" {
			t.Errorf("the page has a %s, want all in it and nothing that runs", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "id" && ids[a.Val]:
				t.Errorf("id %s is there twice", a.Val)
			case a.Key == "id":
				ids[a.Val] = true
			case a.Key == "href":
				links = append(links, a.Val)
			}
		}
	}
	for _, link := range links {
		if to, inside := strings.CutPrefix(link, "#"); inside && !ids[to] || !inside && link != "/openapi.yaml" {
			t.Errorf("the link %s leads nowhere", link)
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	path, said := "", 0
	for line := range strings.Lines(string(document)) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch {
		case strings.HasPrefix(line, "  /v2"):
			path = word
		case strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "     ") && strings.Contains(" get post put patch delete ", " "+word+" "):
			if said++; !strings.Contains(text, strings.ToUpper(word)+" "+path) {
				t.Errorf("%s %s is not on the page", strings.ToUpper(word), path)
			}
		case word == "summary":
			if !strings.Contains(text, strings.ReplaceAll(value, `''`, `'`)) {
				t.Errorf("the page does not say: %s", value)
			}
		}
	}
	if said < 100 {
		t.Errorf("only %d calls were looked for", said)
	}
	for _, sentence := range []string{
		"POST /v2/weir/load_balancers/{id}/failover Hand a load balancer over to another instance, and answer when its address has moved. No request is lost.",
		"to string The name or the ID of an instance; the best one that stands by if left out.", // a field of a body
		"{ failover: Failover }", // an answer
		"silent: nobody who asks it hears of it",
		"{ droplet: Droplet, links: Links } or { droplets: list of Droplet, links: Links, meta: Meta }",
		"completed_at required string or null",
		"Needs load_balancer:write.",
	} {
		if !strings.Contains(text, sentence) {
			t.Errorf("the page does not say: %s", sentence)
		}
	}
}

func TestPageOfADocumentThatIsNoneIsAnErrorInTheLog(t *testing.T) {
	var log bytes.Buffer
	w := httptest.NewRecorder()
	NewDocs([]byte("paths: 1"), slog.New(slog.NewTextHandler(&log, nil))).ServeHTTP(w, httptest.NewRequest("GET", "/docs", nil))
	if w.Code != 500 || !strings.Contains(log.String(), "page of the API not rendered") {
		t.Errorf("%d, and the log says %q", w.Code, log.String())
	}
}
