package weir

import (
	"regexp"
	"strings"
	"testing"
)

func TestProjectsAreKeptAsDigitalOceanKeepsThem(t *testing.T) {
	for _, c := range []struct{ purpose, environment, wantPurpose, wantEnvironment string }{
		{"Web Application", "production", "Web Application", "Production"},
		{"My own", "STAGING", "Other: My own", "Staging"},
		{"Other: My own", "", "Other: My own", ""},
		{"", "Moon", "", "Moon"}, // for Check to refuse
	} {
		p := Project{Name: "x", Purpose: c.purpose, Environment: c.environment}.Normal()
		if p.Purpose != c.wantPurpose || p.Environment != c.wantEnvironment || p.Normal() != p {
			t.Errorf("%q, %q are kept as %q, %q, want %q, %q", c.purpose, c.environment, p.Purpose, p.Environment, c.wantPurpose, c.wantEnvironment)
		}
	}
}

func TestWhatCanBeNoProjectSaysWhy(t *testing.T) {
	good := Project{Name: strings.Repeat("é", 175), Description: strings.Repeat("é", 255), Purpose: "IoT", Environment: "Staging"}
	if err := good.Check(); err != nil {
		t.Errorf("at every limit: %v, want none", err)
	}
	for want, change := range map[string]func(*Project){
		`name is ""`:                         func(p *Project) { p.Name = "" },
		"want 1 to 175 characters":           func(p *Project) { p.Name += "x" },
		"description has 256 characters":     func(p *Project) { p.Description += "x" },
		`purpose is ""`:                      func(p *Project) { p.Purpose = "" },
		"want 1 to 255 characters, such as":  func(p *Project) { p.Purpose = "Other: " + strings.Repeat("x", 256) },
		`environment is "Moon", want Devel`:  func(p *Project) { p.Environment = "Moon" },
		`environment is "staging", want Dev`: func(p *Project) { p.Environment = "staging" }, // Normal comes first
	} {
		p := good
		change(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) || KindOf(err) != Invalid {
			t.Errorf("%v, want an Invalid with %q", err, want)
		}
	}
}

func TestURNsAreRead(t *testing.T) {
	for text, want := range map[string]URN{"do:droplet:7": {"droplet", "7"}, "do:FloatingIP:203.0.113.1": {"floatingip", "203.0.113.1"},
		"do:reservedip:2001:db8::1": {"reservedip", "2001:db8::1"}, "do:space:x": {"space", "x"}} {
		if got, err := ParseURN(text); err != nil || got != want {
			t.Errorf("%s is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "do", "do:", "do:droplet", "do:droplet:", "do::7", "aws:droplet:7", "do:droplet:7\n", "do:droplet:" + strings.Repeat("7", 255)} {
		if got, err := ParseURN(text); err == nil {
			t.Errorf("%q is %v, want it to be none", text, got)
		}
	}
}

func TestNetworkHasTheSameIDForEver(t *testing.T) {
	id := NetworkID("lab")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(string(id)) {
		t.Errorf("%s is no UUID made from a name", id)
	}
	if id != NetworkID("lab") || id == NetworkID("lab2") {
		t.Error("want one ID for a region, and another for another")
	}
	for _, name := range []string{"", "a b", strings.Repeat("x", 256)} {
		if (&Network{Name: name}).Check() == nil {
			t.Errorf("%.10q passes as a network's name", name)
		}
	}
	if err := (&Network{Name: "env.prod-vpc", Description: strings.Repeat("é", 255)}).Check(); err != nil {
		t.Error(err)
	}
	if (&Network{Name: "a", Description: strings.Repeat("é", 256)}).Check() == nil {
		t.Error("a description of 256 characters passes")
	}
}

func TestImagesThatAreListedCanBeUsed(t *testing.T) {
	for _, slug := range Images() {
		if err := CheckImage(slug); err != nil {
			t.Error(err)
		}
	}
	if Images()[0] != DefaultImage {
		t.Errorf("first is %s, want the default", Images()[0])
	}
}
