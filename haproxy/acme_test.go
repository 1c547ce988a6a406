package haproxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"weir/weir"
)

func TestChallengesAreAnsweredBeforeAllElseAndNothingElseIs(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front, bare := freeAddr(t), freeAddr(t)
	d := testDocument(front, a.server())
	d.Thumbprint = "udI34RjXhKADS3Zv2x0-RlXuonuFzKGEWtFnlf86eWM"
	d.Frontends = append(slices.Clone(d.Frontends), weir.Frontend{Name: "bare", Bind: bare, Mode: weir.HTTP, Idle: time.Minute})
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(url string) (int, string, string) {
		t.Helper()
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
	}
	const well = "/.well-known/acme-challenge/"
	for _, redirect := range []int{0, 443} {
		d.Frontends[0].Redirect = redirect
		set(t, p, d)
		for _, at := range []string{front.String(), bare.String()} {
			status, kind, body := get("http://" + at + well + "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0")
			if status != 200 || kind != "text/plain" || body != "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0."+d.Thumbprint {
				t.Errorf("with redirect %d at %s: %d %s %q, want the token with the account's thumbprint", redirect, at, status, kind, body)
			}
		}
		for _, path := range []string{well, well + "a/b", well + "a.b", well + "%3Cscript%3E", well + "a<b", "/x" + well + "a", "/" + well[1:len(well)-1], "/%2ewell-known/acme-challenge/a"} {
			if _, _, body := get("http://" + front.String() + path); len(body) > len(d.Thumbprint) && body[len(body)-len(d.Thumbprint):] == d.Thumbprint {
				t.Errorf("%s is answered %q, want that only tokens are", path, body)
			}
			if status, _, _ := get("http://" + bare.String() + path); status != 404 && status != 400 {
				t.Errorf("%s where nobody serves is answered %d, want 404", path, status)
			}
		}
	}
	d.Thumbprint = ""
	d.Frontends[0].Redirect = 0
	set(t, p, d)
	if _, _, body := get(fmt.Sprintf("http://%s%sabc", front, well)); body == "abc." {
		t.Error("a challenge is answered by nobody's account")
	}
}
