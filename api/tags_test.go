package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/digitalocean/godo"
)

func TestATagIsPutOnDropletsAndTakenOff(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"a", "b"})
	resources := func(ids ...string) (out []godo.Resource) {
		for _, id := range ids {
			out = append(out, godo.Resource{ID: id, Type: godo.DropletResourceType})
		}
		return out
	}
	a, b := godo.ToURN("x", made[0].ID)[5:], godo.ToURN("x", made[1].ID)[5:]

	tag, resp, err := r.do.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "Prod:web"})
	if err != nil || resp.StatusCode != http.StatusCreated || tag.Name != "Prod:web" || tag.Resources.Count != 0 {
		t.Fatalf("%v (%v), want 201 and a tag with nothing", tag, err)
	}
	for range 2 { // once more is no harm
		if _, err := r.do.Tags.TagResources(t.Context(), "Prod:web", &godo.TagResourcesRequest{Resources: resources(a, b)}); err != nil {
			t.Fatal(err)
		}
	}
	tag, _, err = r.do.Tags.Get(t.Context(), "prod:WEB")
	if err != nil || tag.Name != "Prod:web" || tag.Resources.Count != 2 || tag.Resources.Droplets.Count != 2 ||
		tag.Resources.Droplets.LastTaggedURI != r.url+"/v2/droplets/"+b {
		t.Errorf("%v (%v), want Prod:web on two droplets, b the last", tag, err)
	}
	if _, err := r.do.Tags.UntagResources(t.Context(), "Prod:web", &godo.UntagResourcesRequest{Resources: resources(a)}); err != nil {
		t.Fatal(err)
	}
	left, _, err := r.do.Droplets.ListByTag(t.Context(), "prod:web", nil)
	if err != nil || len(left) != 1 || left[0].Name != "b" {
		t.Errorf("%v (%v), want b alone", left, err)
	}
	r.droplets([]string{"c"}, "other")
	all, _, err := r.do.Tags.List(t.Context(), nil)
	names := []string{}
	for _, tag := range all {
		names = append(names, tag.Name)
	}
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"Prod:web", "other"}) {
		t.Errorf("tags %v (%v), want the one that was made and the one that came with a droplet", names, err)
	}
	if _, err := r.do.Tags.Delete(t.Context(), "Prod:web"); err != nil {
		t.Fatal(err)
	}
	if d, _, err := r.do.Droplets.Get(t.Context(), made[1].ID); err != nil || len(d.Tags) != 0 {
		t.Errorf("b has the tags %v (%v), want none: its tag was deleted", d.Tags, err)
	}
}

func TestTagsThatCannotBeAreRefused(t *testing.T) {
	r := lab(t)
	if _, _, err := r.do.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v2/tags", `{"name": "a b"}`, 422, `tag "a b": 1 to 255 letters, digits, _, : and - are allowed`},
		{"POST", "/v2/tags", `{}`, 422, `tag "": 1 to 255`},
		{"GET", "/v2/tags/none", "", 404, "The resource you were accessing could not be found."},
		{"DELETE", "/v2/tags/none", "", 404, "The resource you were accessing could not be found."},
		{"GET", "/v2/tags/a%20b", "", 404, "The resource you were accessing could not be found."},
		{"POST", "/v2/tags/none/resources", `{"resources": [{"resource_id": "1", "resource_type": "droplet"}]}`, 404, "The resource"},
		{"POST", "/v2/tags/web/resources", `{"resources": []}`, 422, "resources is empty"},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "7", "resource_type": "droplet"}]}`, 422, `tag "web": there is no droplet 7`},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": 7, "resource_type": "droplet"}]}`, 422, `tag "web": there is no droplet 7`},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "x", "resource_type": "droplet"}]}`, 422, `resources[0].resource_id is "x", want the ID of a droplet`},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "1", "resource_type": "volume"}]}`, 422, `resources[0].resource_type is "volume": Weir has no such resources to tag, want droplet or load_balancer`},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "f00d", "resource_type": "load_balancer"}]}`, 422, `tag "web": there is no load balancer f00d`},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "../x", "resource_type": "load_balancer"}]}`, 422, `resources[0].resource_id is "../x", want the ID of a load balancer`},
	} {
		a := r.ask(c.method, c.path, c.body)
		if message, _ := a.body["message"].(string); a.status != c.status || !strings.HasPrefix(message, c.want) {
			t.Errorf("%s %s %s: %d %s, want %d %q", c.method, c.path, c.body, a.status, a.text, c.status, c.want)
		}
	}
}
