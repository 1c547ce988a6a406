package weir

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestATemplateIsRefusedForWhatCouldNotBoot(t *testing.T) {
	const image = `is not offered, want a slug of Debian or Ubuntu such as debian-12-x64`
	const begins = `, want a script that begins with #!, a #cloud-config, or a MIME multipart of these, plain or gzipped`
	for _, c := range []struct{ image, userData, want string }{
		{"debian-12-x64", "", ""},
		{"debian-12-x64", " \n", ""},
		{"ubuntu-24-04-x64", "#!/bin/sh\n", ""},
		{"debian-12-x64", "#cloud-config\npackages: [nginx]\n", ""},
		{"debian-12-x64", "\n #cloud-config\npackages: [nginx]\n", ""},
		{"debian-12-x64", "Content-Type: multipart/mixed; boundary=x\n", ""},
		{"debian-12-x64", "MIME-VERSION: 1.0\n", ""},
		{"debian-12-x64", "From nobody\nMIME-Version: 1.0\n", ""},
		{"debian-12-x64", "\x1f\x8b\x08\x00", ""},

		{"", "", "image is missing"},
		{"windows", "", `image "windows" ` + image},
		{"fedora-40-x64", "", `image "fedora-40-x64" ` + image},
		{"154505703", "", `image "154505703" ` + image},
		{"debian", "", `image "debian" ` + image},
		{"debian-12/../x", "", `image "debian-12/../x" ` + image},
		{"debian-12-x64\nevil", "", `image "debian-12-x64\nevil" ` + image},

		{"debian-12-x64", "apt-get install -y nginx\n", `user_data begins with "apt-get install -y nginx\n"` + begins},
		{"debian-12-x64", "\n#!/bin/sh\n", `user_data begins with "\n#!/bin/sh\n"` + begins},
		{"debian-12-x64", "#Cloud-Config\n", `user_data begins with "#Cloud-Config\n"` + begins},
		{"debian-12-x64", "\x1f\uFFFD", `user_data begins with "\x1f�"` + begins},
		{"debian-12-x64", strings.Repeat("long ", 20), `user_data begins with "` + strings.Repeat("long ", 8) + `"` + begins},
	} {
		template := Template{Region: "local1", Size: DefaultNodeSize, Image: c.image, UserData: c.userData}
		err := template.Check("local1")
		if c.want == "" {
			if err != nil {
				t.Errorf("image %q with user-data %.40q: %v", c.image, c.userData, err)
			}
			continue
		}
		if !errors.Is(err, Invalid) || err.Error() != c.want {
			t.Errorf("image %q with user-data %.40q:\n got %v\nwant %s", c.image, c.userData, err, c.want)
		}
	}
}

func TestAStoredOpeningWithoutAProtocolIsOfTCP(t *testing.T) {
	var f Firewall
	if err := json.Unmarshal([]byte(`{"openings": [{"port": 80, "from": ["10.0.0.1/32"]}, {"port": 80, "udp": true, "from": []}]}`), &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Openings) != 2 || f.Openings[0].UDP || !f.Openings[1].UDP {
		t.Errorf("openings %+v, want one of TCP and one of UDP", f.Openings)
	}
	text, err := json.Marshal(f.Openings[0])
	if want := `{"port":80,"from":["10.0.0.1/32"]}`; err != nil || string(text) != want {
		t.Errorf("an opening of TCP is written as %s, %v, want %s as ever", text, err, want)
	}
}

func TestOpeningsAreOrderedByPortThenProtocol(t *testing.T) {
	want := []Opening{{Port: 53}, {Port: 53, UDP: true}, {Port: 80}, {Port: 443, UDP: true}}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Opening.Compare)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("order %+v, want %+v", got, want)
	}
}
