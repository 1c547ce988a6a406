package api_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/digitalocean/godo"

	"weir/weir"
)

const (
	keyA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfRVG0htpv2bRmEvFOlLmtbgrHDXbCU4ym/Bt4JHl+B anna@laptop"
	keyB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDxyj48FoV3AKlWOavgmw0mo2OFTN/lOaty4kwfedhQ8 bert@laptop"
)

func TestAKeyIsKeptAndPutOnDroplets(t *testing.T) {
	r := lab(t)
	key, resp, err := r.do.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "anna", PublicKey: keyA + "\n"})
	if err != nil || resp.StatusCode != http.StatusCreated || key.ID == 0 || key.Name != "anna" || key.PublicKey != keyA || strings.Count(key.Fingerprint, ":") != 15 {
		t.Fatalf("%+v (%v), want 201 and the key with an ID and an MD5 fingerprint", key, err)
	}
	if _, resp, err := r.do.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "again", PublicKey: keyA}); err == nil ||
		resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(err.Error(), "already in use on your account") {
		t.Errorf("the same key again: %v, want a 422 that says it is in use", err)
	}
	other, _, err := r.do.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "bert", PublicKey: keyB})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := r.do.Keys.GetByFingerprint(t.Context(), key.Fingerprint); err != nil || *got != *key {
		t.Errorf("by fingerprint: %+v (%v), want %+v", got, err, key)
	}
	if got, _, err := r.do.Keys.UpdateByID(t.Context(), key.ID, &godo.KeyUpdateRequest{Name: "anna's"}); err != nil || got.Name != "anna's" || got.ID != key.ID {
		t.Errorf("renamed: %+v (%v), want the same key with another name", got, err)
	}
	if all, _, err := r.do.Keys.List(t.Context(), nil); err != nil || len(all) != 2 || all[0].Name != "anna's" || all[1].Name != "bert" {
		t.Errorf("%+v (%v), want both keys, by ID", all, err)
	}

	droplet, _, err := r.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{Name: "web", Region: "lab", Size: "s-1vcpu-1gb",
		Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, SSHKeys: []godo.DropletCreateSSHKey{{ID: key.ID}, {Fingerprint: other.Fingerprint}}})
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("the machine has both keys", func() bool {
		spec, _ := r.cloud.Spec(weir.ID(strconv.Itoa(droplet.ID)))
		return strings.Join(spec.SSHKeys, "\n") == keyA+"\n"+keyB
	})

	if _, err := r.do.Keys.DeleteByID(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.do.Keys.DeleteByFingerprint(t.Context(), other.Fingerprint); err != nil {
		t.Fatal(err)
	}
	if _, resp, err := r.do.Keys.GetByID(t.Context(), key.ID); err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("a key that was deleted: %v, want 404", err)
	}
	if a := r.ask("POST", "/v2/droplets", `{"name":"web","region":"lab","size":"s-1vcpu-1gb","image":"debian-12-x64","ssh_keys":[`+strconv.Itoa(key.ID)+`]}`); a.status != http.StatusUnprocessableEntity ||
		!strings.Contains(a.text, "ssh_keys[0]") {
		t.Errorf("a droplet with a key that was deleted: %d %s, want a 422 that names it", a.status, a.text)
	}
}

func TestWhatIsNoPublicKeyIsRefused(t *testing.T) {
	r := lab(t)
	for body, want := range map[string]string{
		`{"name":"a","public_key":"ssh-ed25519 AAAA a@b"}`:                          "public_key is",
		`{"name":"a","public_key":""}`:                                              "public_key is",
		`{"name":"a","public_key":"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz"}`: "private key",
		`{"name":"a","public_key":"command=\"ls\" ` + keyA + `"}`:                   "options",
		`{"name":"a","public_key":"` + keyA + `\n` + keyB + `"}`:                    "more lines",
		`{"name":" ","public_key":"` + keyA + `"}`:                                  "name is",
		`{"name":"a","public_key":7}`:                                               "public_key is a number",
	} {
		if a := r.ask("POST", "/v2/account/keys", body); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text, want) {
			t.Errorf("%s: %d %s, want a 422 with %q", body, a.status, a.text, want)
		}
	}
}
