package weir

import (
	"strings"
	"testing"
	"time"
)

func TestScopeGivesNoMoreThanItSays(t *testing.T) {
	for scope, want := range map[Scope]string{ // what it gives of all below
		"read":                "read droplet:read tag:read",
		"write":               "read write droplet:read droplet:write tag:read",
		"admin":               "read write admin droplet:read droplet:write tag:read",
		"droplet:read":        "droplet:read",
		"droplet:write":       "droplet:read droplet:write",
		"tag:write":           "tag:read",
		"load_balancer:write": "",
		"":                    "",
	} {
		var gives []string
		for _, need := range []Scope{"read", "write", "admin", "droplet:read", "droplet:write", "tag:read"} {
			if scope.Gives(need) {
				gives = append(gives, string(need))
			}
		}
		if got := strings.Join(gives, " "); got != want {
			t.Errorf("%q gives %q, want %q", scope, got, want)
		}
	}
}

func TestTokenThatCannotBeSaysWhy(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	good := Token{Name: "ci", Team: "blue", User: "anna", Scopes: []Scope{"read", "droplet:write"}, Expires: now.Add(time.Hour)}
	if err := good.Check(now); err != nil {
		t.Errorf("%v, want none", err)
	}
	for want, spoil := range map[string]func(*Token){
		`name is " "`:                       func(t *Token) { t.Name = " " },
		`name is "nnn`:                      func(t *Token) { t.Name = strings.Repeat("n", 256) },
		`name is "a\nb", want 1 to 255`:     func(t *Token) { t.Name = "a\nb" },
		`user is "\x1b[2J", want at most`:   func(t *Token) { t.User = "\x1b[2J" },
		`user is "uuu`:                      func(t *Token) { t.User = strings.Repeat("u", 256) },
		`team is "Blue Team", want 1 to 63`: func(t *Token) { t.Team = "Blue Team" },
		`team is "a/b"`:                     func(t *Token) { t.Team = "a/b" },
		`scopes is empty`:                   func(t *Token) { t.Scopes = nil },
		`scope "reed" is not known`:         func(t *Token) { t.Scopes = []Scope{"reed"} },
		`scope "space:read" is of no known kind, want one of account, actions`: func(t *Token) { t.Scopes = []Scope{"space:read"} },
		`scope "droplet:create", want droplet:read or droplet:write`:           func(t *Token) { t.Scopes = []Scope{"droplet:create"} },
		`it has expired already, at 2026-11-28T12:00:00Z`:                      func(t *Token) { t.Expires = now },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Check(now); KindOf(err) != Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a weir.Invalid error that says %q", err, want)
		}
	}
}

func TestEveryWeirHasATeamFromTheStart(t *testing.T) {
	for name, want := range map[string]ID{"": "", "default": "", "blue": "blue"} {
		if got, err := TeamNamed(name); err != nil || got != want {
			t.Errorf("team %q is %q, %v, want %q", name, got, err, want)
		}
	}
	if TeamName("") != "default" || TeamName("blue") != "blue" {
		t.Errorf("the teams are named %q and %q, want default and blue", TeamName(""), TeamName("blue"))
	}
}
