package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/weir"
)

func TestADropletIsCreatedAndItsActionEndsWhenItIsActive(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Boots: func(cloud.Spec) (time.Duration, weir.Boot) {
		return 0, weir.Boot{State: weir.BootDone}
	}}, nil)
	d, resp, err := r.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{
		Name: "web-1", Region: "lab", Size: "s-2vcpu-4gb", Image: godo.DropletCreateImage{Slug: "ubuntu-24-04-x64"},
		UserData: "#!/bin/sh\ntrue\n", Tags: []string{"web"}, PrivateNetworking: true})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("status %d, want 202", resp.StatusCode)
	}
	if d.Status != "new" || d.Name != "web-1" || d.SizeSlug != "s-2vcpu-4gb" || d.Memory != 4096 || d.Vcpus != 2 || d.Disk != 80 {
		t.Errorf("droplet %v, want a new web-1 with 4096 MB, 2 CPUs and 80 GB", d)
	}
	if d.Image.Slug != "ubuntu-24-04-x64" || d.Image.Distribution != "Ubuntu" || d.Region.Slug != "lab" {
		t.Errorf("image %v in region %v, want ubuntu-24-04-x64 in lab", d.Image, d.Region)
	}
	if len(resp.Links.Actions) != 1 || resp.Links.Actions[0].Rel != "create" {
		t.Fatalf("links %+v, want one action create", resp.Links)
	}
	r.eventually("the action has ended", func() bool {
		act, _, err := resp.Links.Actions[0].Get(t.Context(), r.do)
		if err != nil {
			t.Fatal(err)
		}
		if act.ResourceID != d.ID || act.ResourceType != "droplet" || act.Type != "create" || act.RegionSlug != "lab" {
			t.Fatalf("action %v, want the creation of droplet %d", act, d.ID)
		}
		return act.Status == godo.ActionCompleted && act.CompletedAt != nil
	})
	d, _, err = r.do.Droplets.Get(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d.Status != "active" {
		t.Errorf("status %q once its creation has ended, want active", d.Status)
	}
	public, _ := d.PublicIPv4()
	private, _ := d.PrivateIPv4()
	if !strings.HasPrefix(public, "198.18.") || !strings.HasPrefix(private, "10.10.") {
		t.Errorf("addresses %q and %q, want one of each network", public, private)
	}
	if n := d.Networks.V4[0]; n.Netmask != "255.255.0.0" || n.Gateway != "198.18.0.1" {
		t.Errorf("public network %v, want netmask 255.255.0.0 and gateway 198.18.0.1", n)
	}
}

func TestSeveralDropletsAreCreatedAtOnceEachWithItsAction(t *testing.T) {
	r := lab(t)
	made, resp, err := r.do.Droplets.CreateMultiple(t.Context(), &godo.DropletMultiCreateRequest{
		Names: []string{"a", "b", "a"}, Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 3 || len(resp.Links.Actions) != 3 {
		t.Fatalf("%d droplets and %d actions, want 3 of each", len(made), len(resp.Links.Actions))
	}
	for i, name := range []string{"a", "b", "a"} {
		act, _, err := resp.Links.Actions[i].Get(t.Context(), r.do)
		if err != nil {
			t.Fatal(err)
		}
		if made[i].Name != name || act.ResourceID != made[i].ID {
			t.Errorf("droplet %d is %s with an action of %d, want %s with its own (%d)", i, made[i].Name, act.ResourceID, name, made[i].ID)
		}
	}
}

func TestAListComesInPagesWithLinksToThoseThatExist(t *testing.T) {
	r := lab(t)
	var names []string
	for i := range 45 {
		names = append(names, fmt.Sprintf("m%02d", i))
	}
	r.droplets(names, "web")

	for _, c := range []struct {
		query                   string
		first, count            int
		firstP, prev, next, lst string
	}{
		{"", 0, 20, "", "", "2", "3"},
		{"?page=2", 20, 20, "1", "1", "3", "3"},
		{"?page=3", 40, 5, "1", "2", "", ""},
		{"?page=4", 0, 0, "1", "3", "", ""},
		{"?page=0&per_page=0", 0, 20, "", "", "2", "3"},
		{"?per_page=45", 0, 45, "", "", "", ""},
		{"?per_page=1000", 0, 45, "", "", "", ""},
		{"?per_page=44&page=2", 44, 1, "1", "1", "", ""},
		{"?tag_name=WEB&per_page=30", 0, 30, "", "", "2", "2"},
	} {
		a := r.ask("GET", "/v2/droplets"+c.query, "")
		droplets := a.body["droplets"].([]any)
		if len(droplets) != c.count {
			t.Errorf("%s: %d droplets, want %d", c.query, len(droplets), c.count)
		}
		if len(droplets) > 0 && droplets[0].(map[string]any)["name"] != names[c.first] {
			t.Errorf("%s: first is %v, want %s", c.query, droplets[0].(map[string]any)["name"], names[c.first])
		}
		if total := a.body["meta"].(map[string]any)["total"]; total != 45.0 {
			t.Errorf("%s: total %v, want 45", c.query, total)
		}
		pages, _ := a.body["links"].(map[string]any)["pages"].(map[string]any)
		for key, want := range map[string]string{"first": c.firstP, "prev": c.prev, "next": c.next, "last": c.lst} {
			link, _ := pages[key].(string)
			if want == "" && link != "" || want != "" && (!strings.HasPrefix(link, r.url+"/v2/droplets?") || !strings.Contains("&"+link[strings.Index(link, "?")+1:]+"&", "&page="+want+"&")) {
				t.Errorf("%s: %s is %q, want page %q", c.query, key, link, want)
			}
			if want != "" && strings.Contains(c.query, "tag_name") && !strings.Contains(link, "tag_name=WEB") {
				t.Errorf("%s: %s is %q and has lost the filter", c.query, key, link)
			}
		}
	}
	for _, query := range []string{"?page=x", "?page=-1", "?per_page=1.5", "?page=99999999999999999999"} {
		if a := r.ask("GET", "/v2/droplets"+query, ""); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text, "want a number from 1") {
			t.Errorf("%s: %d %s, want 422 that says what a page is", query, a.status, a.text)
		}
	}

	// As doctl does: all pages, by godo's own links.
	var seen []string
	for opt := (&godo.ListOptions{PerPage: 7}); ; opt.Page++ {
		page, resp, err := r.do.Droplets.List(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			seen = append(seen, d.Name)
		}
		if resp.Links.IsLastPage() {
			break
		}
		if opt.Page, err = resp.Links.CurrentPage(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(seen, names) {
		t.Errorf("all pages together have %v, want each droplet once", seen)
	}
}

func TestDropletsAreFoundByNameAndTag(t *testing.T) {
	r := lab(t)
	r.droplets([]string{"web-1", "web-2"}, "web")
	r.droplets([]string{"db", "DB"}, "db")
	byName, _, err := r.do.Droplets.ListByName(t.Context(), "Db", nil)
	if err != nil || len(byName) != 2 {
		t.Errorf("name Db finds %d (%v), want db and DB", len(byName), err)
	}
	byTag, _, err := r.do.Droplets.ListByTag(t.Context(), "web", nil)
	if err != nil || len(byTag) != 2 || byTag[0].Name != "web-1" || !slices.Equal(byTag[0].Tags, []string{"web"}) {
		t.Errorf("tag web finds %v (%v), want web-1 and web-2 with their tag", byTag, err)
	}
	gpus, _, err := r.do.Droplets.ListWithGPUs(t.Context(), nil)
	if err != nil || len(gpus) != 0 {
		t.Errorf("GPUs: %v (%v), want none", gpus, err)
	}
	for query, want := range map[string]string{
		"?tag_name=web&name=web-1":    "tag_name cannot be combined",
		"?tag_name=web&type=droplets": "tag_name cannot be combined",
		"?type=cats":                  `type is "cats", want droplets or gpus`,
	} {
		if a := r.ask("GET", "/v2/droplets"+query, ""); a.status != 422 || !strings.Contains(a.body["message"].(string), want) {
			t.Errorf("%s: %d %s, want 422 with %q", query, a.status, a.text, want)
		}
	}
}

func TestADeletedDropletGoesAwayByItself(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"one", "two"})[0]
	resp, err := r.do.Droplets.Delete(t.Context(), d.ID)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%v (%v), want 204", resp, err)
	}
	r.eventually("the droplet is gone", func() bool {
		left, _, err := r.do.Droplets.Get(t.Context(), d.ID)
		if status, text := refusal(err); status == http.StatusNotFound {
			if text != "The resource you were accessing could not be found." {
				t.Errorf("the sentence is %q", text)
			}
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		if left.Status != "active" || !left.Locked {
			t.Errorf("while it goes it is %q, locked %v: want active and locked", left.Status, left.Locked)
		}
		return false
	})
	if _, err := r.do.Droplets.Delete(t.Context(), d.ID); err == nil {
		t.Error("deleting it again is accepted, want 404")
	}
	left, _, err := r.do.Droplets.List(t.Context(), nil)
	if err != nil || len(left) != 1 || left[0].Name != "two" {
		t.Errorf("left are %v (%v), want two alone", left, err)
	}
}

func TestDeletingByTagSparesTheOthers(t *testing.T) {
	r := lab(t)
	r.droplets([]string{"a", "b"}, "old")
	r.droplets([]string{"c"}, "new")
	if _, err := r.do.Droplets.DeleteByTag(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	r.eventually("only c is left", func() bool {
		left, _, err := r.do.Droplets.List(t.Context(), nil)
		return err == nil && len(left) == 1 && left[0].Name == "c"
	})
	if a := r.ask("DELETE", "/v2/droplets", ""); a.status != 422 || !strings.Contains(a.text, "tag_name is missing") {
		t.Errorf("without a tag: %d %s, want 422", a.status, a.text)
	}
}

func TestADropletIsPoweredOffAndOn(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"one"})[0]
	status := func(want string) func() bool {
		return func() bool {
			now, _, err := r.do.Droplets.Get(t.Context(), d.ID)
			return err == nil && now.Status == want
		}
	}
	ended := func(id int) func() bool {
		return func() bool {
			act, _, err := r.do.DropletActions.Get(t.Context(), d.ID, id)
			return err == nil && act.Status == godo.ActionCompleted
		}
	}
	off, resp, err := r.do.DropletActions.PowerOff(t.Context(), d.ID)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%v (%v), want 201", resp, err)
	}
	r.eventually("it is off", status("off"))
	r.eventually("its action has ended", ended(off.ID))

	_, _, err = r.do.DropletActions.PowerOff(t.Context(), d.ID)
	if code, text := refusal(err); code != 422 || text != "Droplet is already powered off" {
		t.Errorf("powering it off again: %d %q, want 422 with the words that clients know", code, text)
	}
	on, _, err := r.do.DropletActions.PowerOn(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("it is on", status("active"))
	r.eventually("its action has ended", ended(on.ID))
	for _, again := range []func() (*godo.Action, *godo.Response, error){
		func() (*godo.Action, *godo.Response, error) { return r.do.DropletActions.Reboot(t.Context(), d.ID) },
		func() (*godo.Action, *godo.Response, error) { return r.do.DropletActions.PowerCycle(t.Context(), d.ID) },
	} {
		act, _, err := again()
		if err != nil {
			t.Fatal(err)
		}
		r.eventually("its action has ended", ended(act.ID))
		r.eventually("it is on", status("active"))
	}
	all, _, err := r.do.Droplets.Actions(t.Context(), d.ID, nil)
	var kinds []string
	for _, act := range all {
		kinds = append(kinds, act.Type)
	}
	if want := []string{"power_cycle", "reboot", "power_on", "power_off", "create"}; err != nil || !slices.Equal(kinds, want) {
		t.Errorf("actions %v (%v), want %v", kinds, err, want)
	}
}

func TestAnActionByTagIsDoneToAllThatHaveIt(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"a", "b"}, "night")
	r.droplets([]string{"c"})
	if _, _, err := r.do.DropletActions.PowerOff(t.Context(), made[0].ID); err != nil {
		t.Fatal(err)
	}
	acts, _, err := r.do.DropletActions.PowerOffByTag(t.Context(), "night")
	if err != nil || len(acts) != 1 || acts[0].ResourceID != made[1].ID {
		t.Fatalf("actions %v (%v), want one, of b: a is off already", acts, err)
	}
	r.eventually("a and b are off, c is not", func() bool {
		all, _, err := r.do.Droplets.List(t.Context(), nil)
		return err == nil && all[0].Status == "off" && all[1].Status == "off" && all[2].Status == "active"
	})
	all, _, err := r.do.Actions.List(t.Context(), nil)
	if err != nil || len(all) != 5 {
		t.Errorf("%d actions (%v), want 3 creations and 2 power_off", len(all), err)
	}
}

func TestWhatWeirCannotGiveADropletIsRefusedByName(t *testing.T) {
	r := lab(t)
	for body, want := range map[string]string{
		`"backups": true`:                         "backups is true: Weir makes no backups, leave it and backup_policy out or use false",
		`"with_droplet_agent": true`:              "with_droplet_agent is true: Weir has no agent for droplets, leave it out or use false",
		`"public_networking": false`:              "public_networking is false: every droplet of Weir has a public address, leave it out or use true",
		`"volumes": [{"id": "x"}]`:                "volumes is not empty: Weir has no volumes, leave it out",
		`"vpc_uuid": "5a4981aa"`:                  `vpc_uuid is "5a4981aa": a region of Weir has one private network, leave it out or use ` + string(weir.NetworkID("lab")),
		`"ssh_keys": [289794]`:                    `ssh_keys[0] is "289794": no key of this account has that ID or fingerprint, add it first or give the public key itself`,
		`"region": "nyc3"`:                        `region "nyc3": this Weir runs region "lab"`,
		`"size": "c-128"`:                         `size "c-128" is not offered, want one of s-1vcpu-512mb-10gb, s-1vcpu-1gb, s-1vcpu-2gb, s-2vcpu-2gb, s-2vcpu-4gb, s-4vcpu-8gb, s-8vcpu-16gb`,
		`"image": 7`:                              `image "7" is not offered, want a slug of Debian or Ubuntu such as debian-12-x64`,
		`"image": ""`:                             "image is missing",
		`"image": "../etc"`:                       `image "../etc" is not offered, want a slug of Debian or Ubuntu such as debian-12-x64`,
		`"image": "fedora-40-x64"`:                `image "fedora-40-x64" is not offered, want a slug of Debian or Ubuntu such as debian-12-x64`,
		`"user_data": "apt install x"`:            `user_data begins with "apt install x", want a script that begins with #!, a #cloud-config, or a MIME multipart of these, plain or gzipped`,
		`"name": ""`:                              `name "": only letters, digits, . and - are allowed, and it begins and ends with a letter or digit`,
		`"name": "a b"`:                           `name "a b": only letters, digits, . and - are allowed, and it begins and ends with a letter or digit`,
		`"names": ["b"]`:                          "name and names exclude each other, and both are there",
		`"tags": ["a b"]`:                         `tag "a b": 1 to 255 letters, digits, _, : and - are allowed`,
		`"user_data": "` + long(64<<10+1) + `"`:   "user_data has 65537 bytes, at most 65536 are allowed",
		`"size": 3`:                               "size is a number, want a string",
		`"tags": "web"`:                           "tags is a string, want an array",
		`"backups": "yes"`:                        "backups is a string, want true or false",
		`"image": {"slug": "x"}`:                  "image is a value of another type, want a string",
		`"ssh_keys": ["ssh-ed25519 A", {"id":1}]`: "ssh_keys is a value of another type, want a string",
	} {
		a := r.ask("POST", "/v2/droplets", `{"name": "x", "size": "s-1vcpu-1gb", "image": "debian-12-x64", `+body+`}`)
		if a.status != 422 || a.body["message"] != want || a.body["id"] != "unprocessable_entity" {
			t.Errorf("%.60s: %d %s\nwant 422 %s", body, a.status, a.text, want)
		}
	}
	if left, _, err := r.do.Droplets.List(t.Context(), nil); err != nil || len(left) != 0 {
		t.Errorf("there are %d droplets (%v), want none", len(left), err)
	}
}

func TestDefaultsThatClientsAlwaysSendAreAccepted(t *testing.T) {
	r := lab(t)
	for _, body := range []string{
		`{"name": "a", "region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": null, "backups": false, "ipv6": false,
		  "private_networking": false, "monitoring": false, "tags": null, "volumes": null, "user_data": "", "vpc_uuid": "` + string(weir.NetworkID("lab")) + `", "public_networking": true,
		  "with_droplet_agent": false, "backup_policy": null, "of_another_year": {"x": [1]}}`,
		`{"names": ["b"], "size": "s-1vcpu-1gb", "image": "debian-12-x64", "public_networking": null, "with_droplet_agent": null, "backup_policy": {}, "volumes": []}`,
		`{"name": "c", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": ["ssh-ed25519 AAAAC3 me@here"]}`,
	} {
		if a := r.ask("POST", "/v2/droplets", body); a.status != 202 {
			t.Errorf("%d %s, want 202 for %s", a.status, a.text, body)
		}
	}
	images, _, err := r.do.Images.ListDistribution(t.Context(), nil)
	if err != nil || len(images) == 0 {
		t.Fatalf("images %v (%v), want some", images, err)
	}
	d, _, err := r.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{Name: "d", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{ID: images[0].ID}})
	if err != nil || d.Image.Slug != images[0].Slug {
		t.Errorf("by the image's number: %v (%v), want a droplet of %s", d, err, images[0].Slug)
	}
}

func TestACloudThatIsFullSaysSo(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Machines: 2}, nil)
	_, _, err := r.do.Droplets.CreateMultiple(t.Context(), &godo.DropletMultiCreateRequest{
		Names: []string{"a", "b", "c"}, Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}})
	if code, text := refusal(err); code != 422 || !strings.Contains(text, "room for 2 more machines of 2, want 3") {
		t.Errorf("%d %q, want 422 that says how many there is room for", code, text)
	}
	if left, _, _ := r.do.Droplets.List(t.Context(), nil); len(left) != 0 {
		t.Errorf("%d droplets were made, want none of the three", len(left))
	}
}

func long(n int) string { return strings.Repeat("x", n) }

// Terraform's provider replaces a droplet whose features do not say what was asked for.
func TestADropletSaysWhetherMonitoringWasAskedFor(t *testing.T) {
	r := lab(t)
	for _, asked := range []bool{true, false} {
		d, _, err := r.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{Name: "x", Region: "LAB", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, Monitoring: asked})
		if err != nil {
			t.Fatal(err)
		}
		d, _, err = r.do.Droplets.Get(t.Context(), d.ID)
		if err != nil || slices.Contains(d.Features, "monitoring") != asked || d.Region.Slug != "lab" {
			t.Errorf("asked for %v: features %v in region %q (%v)", asked, d.Features, d.Region.Slug, err)
		}
	}
}
