package api_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/digitalocean/godo"

	"weir/weir"
)

func TestOfWhatWeirDoesNotHaveThereIsNothing(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"})[0]
	nothing := func(what string, n int, resp *godo.Response, err error) {
		t.Helper()
		if err != nil || n != 0 || resp.Meta != nil && resp.Meta.Total != 0 {
			t.Errorf("%s: %d (%v), want an empty list", what, n, err)
		}
	}
	snapshots, resp, err := r.do.Snapshots.List(t.Context(), nil)
	nothing("snapshots", len(snapshots), resp, err)
	snapshots, resp, err = r.do.Snapshots.ListDroplet(t.Context(), nil)
	nothing("snapshots of droplets", len(snapshots), resp, err)
	volumes, resp, err := r.do.Storage.ListVolumes(t.Context(), &godo.ListVolumeParams{Region: "lab"})
	nothing("volumes", len(volumes), resp, err)
	kernels, resp, err := r.do.Droplets.Kernels(t.Context(), d.ID, nil)
	nothing("kernels", len(kernels), resp, err)
	images, resp, err := r.do.Droplets.Snapshots(t.Context(), d.ID, nil)
	nothing("a droplet's snapshots", len(images), resp, err)
	images, resp, err = r.do.Droplets.Backups(t.Context(), d.ID, nil)
	nothing("a droplet's backups", len(images), resp, err)
	policies, resp, err := r.do.Droplets.ListBackupPolicies(t.Context(), nil)
	nothing("policies", len(policies), resp, err)
	if supported, _, err := r.do.Droplets.ListSupportedBackupPolicies(t.Context()); err != nil || len(supported) != 0 {
		t.Errorf("supported policies: %v (%v), want none", supported, err)
	}
	if policy, _, err := r.do.Droplets.GetBackupPolicy(t.Context(), d.ID); err != nil || policy.DropletID != d.ID || policy.BackupEnabled {
		t.Errorf("policy: %v (%v), want it without backups", policy, err)
	}
	for path, root := range map[string]string{"/v2/snapshots?resource_type=droplet": "snapshots", "/v2/volumes?name=x": "volumes", "/v2/vpc_peerings": "vpc_peerings",
		fmt.Sprintf("/v2/droplets/%d/kernels", d.ID): "kernels", fmt.Sprintf("/v2/droplets/%d/snapshots", d.ID): "snapshots", fmt.Sprintf("/v2/droplets/%d/backups", d.ID): "backups"} {
		if a := r.ask("GET", path, ""); a.text != `{"`+root+`":[],"links":{},"meta":{"total":0}}`+"\n" && a.text != `{"links":{},"meta":{"total":0},"`+root+`":[]}`+"\n" {
			t.Errorf("%s: %d %s, want an empty list with links and meta", path, a.status, a.text)
		}
	}
	for _, path := range []string{"neighbors", "kernels", "snapshots", "backups", "backups/policy", "destroy_with_associated_resources"} {
		if a := r.ask("GET", "/v2/droplets/7/"+path, ""); a.status != 404 {
			t.Errorf("%s of a droplet that is not there: %d %s, want 404", path, a.status, a.text)
		}
	}
	for _, path := range []string{"/v2/snapshots/7", "/v2/volumes/x", "/v2/domains", "/v2/databases", "/v2/kubernetes/clusters",
		"/v2/images/debian-12-x64/actions", "/v2/images/7/actions/8", "/v2/vpc_peerings/x"} {
		want := `The resource you were accessing could not be found. Weir has nothing at "` + path + `", but load balancers, droplets and what belongs to them.`
		if a := r.ask("GET", path, ""); a.status != 404 || a.body["message"] != want {
			t.Errorf("%s: %d %s, want 404 %s", path, a.status, a.text, want)
		}
	}
	_, _, err = r.do.Storage.CreateVolume(t.Context(), &godo.VolumeCreateRequest{Name: "v", Region: "lab", SizeGigaBytes: 10})
	if code, text := refusal(err); code != 422 || text != "Weir has no volumes: a droplet has the disk of its size, so create one of a larger size" {
		t.Errorf("a volume: %d %q, want 422", code, text)
	}
	_, _, err = r.do.Images.Create(t.Context(), &godo.CustomImageCreateRequest{Name: "i", Url: "http://images.example/i", Region: "lab"})
	if code, text := refusal(err); code != 422 || text != "Weir takes no images of one's own: create droplets from one that GET /v2/images lists, and have user_data set them up" {
		t.Errorf("an image: %d %q, want 422", code, text)
	}
	if a := r.ask("POST", "/v2/images/7/actions", `{"type": "transfer"}`); a.status != 404 {
		t.Errorf("an image's action: %d %s, want 404", a.status, a.text)
	}
}

func TestDropletsOnOneHostAreNeighbors(t *testing.T) {
	r := lab(t)
	alone := r.droplets([]string{"a"})[0]
	groups := func() any {
		t.Helper()
		a := r.ask("GET", "/v2/reports/droplet_neighbors_ids", "")
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.text)
		}
		return a.body["neighbor_ids"]
	}
	if beside, _, err := r.do.Droplets.Neighbors(t.Context(), alone.ID); err != nil || len(beside) != 0 {
		t.Errorf("%v (%v), want no neighbors yet", beside, err)
	}
	if got := fmt.Sprint(groups()); got != "[]" {
		t.Errorf("%s, want no groups yet", got)
	}
	other := r.droplets([]string{"b"})[0]
	if beside, _, err := r.do.Droplets.Neighbors(t.Context(), alone.ID); err != nil || len(beside) != 1 || beside[0].ID != other.ID {
		t.Errorf("%v (%v), want the other droplet", beside, err)
	}
	want := []any{float64(alone.ID), float64(other.ID)}
	if got := groups().([]any); len(got) != 1 || !slices.Equal(got[0].([]any), want) {
		t.Errorf("%v, want %v together", got, want)
	}
}

func TestImagesAreFoundBySlugAndByNumber(t *testing.T) {
	r := lab(t)
	all, _, err := r.do.Images.ListDistribution(t.Context(), nil)
	if err != nil || len(all) != len(weir.Images()) {
		t.Fatalf("%v (%v), want %v", all, err, weir.Images())
	}
	seen := map[int]bool{}
	for i, image := range all {
		if image.Slug != weir.Images()[i] || image.Distribution != "Debian" && image.Distribution != "Ubuntu" || seen[image.ID] {
			t.Errorf("%v, want %s with a number of its own", image, weir.Images()[i])
		}
		seen[image.ID] = true
		if got, _, err := r.do.Images.GetByID(t.Context(), image.ID); err != nil || got.Slug != image.Slug {
			t.Errorf("by number: %v (%v), want %s", got, err, image.Slug)
		}
		if got, _, err := r.do.Images.GetBySlug(t.Context(), image.Slug); err != nil || got.ID != image.ID {
			t.Errorf("by slug: %v (%v), want number %d", got, err, image.ID)
		}
	}
	if got, _, err := r.do.Images.GetBySlug(t.Context(), "debian-11-x64"); err != nil || got.Slug != "debian-11-x64" {
		t.Errorf("a slug that droplets can be made from, and is not listed: %v (%v), want it", got, err)
	}
	for name, list := range map[string]func() ([]godo.Image, *godo.Response, error){
		"applications": func() ([]godo.Image, *godo.Response, error) { return r.do.Images.ListApplication(t.Context(), nil) },
		"one's own":    func() ([]godo.Image, *godo.Response, error) { return r.do.Images.ListUser(t.Context(), nil) },
		"by a tag":     func() ([]godo.Image, *godo.Response, error) { return r.do.Images.ListByTag(t.Context(), "web", nil) },
	} {
		if got, _, err := list(); err != nil || len(got) != 0 {
			t.Errorf("%s: %v (%v), want none", name, got, err)
		}
	}
}

func TestTheLimitsOfAnAccountAreThoseOfItsNetworks(t *testing.T) {
	account, _, err := lab(t).do.Account.Get(t.Context())
	if err != nil || account.DropletLimit != 65533 || account.ReservedIPLimit != 254 || account.FloatingIPLimit != 254 || account.VolumeLimit != 0 || account.Status != "active" {
		t.Errorf("%v (%v), want as many as there are addresses, and no volumes", account, err)
	}
	if account, _, err := newOwnRegion(t).do.Account.Get(t.Context()); err != nil || account.DropletLimit != 0 || account.ReservedIPLimit != 0 {
		t.Errorf("without a cloud: %v (%v), want neither droplets nor reserved IPs", account, err)
	}
}
