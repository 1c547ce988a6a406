package api

import (
	"cmp"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/google/uuid"

	"weir/weir"
)

// account is who the caller is, and of which team. Its limits are for how many there are addresses; the
// host's memory may allow for fewer.
func (a *api) account(w http.ResponseWriter, r *http.Request) error {
	caller := weir.CallerOf(r.Context())
	name, team := cmp.Or(caller.User, "operator"), a.Control.Region()
	if caller.Team != "" {
		team = weir.TeamName(caller.Team)
	}
	id := a.accountID(caller.Team)
	return reply(w, http.StatusOK, map[string]any{"account": map[string]any{
		"droplet_limit":     min(room(a.Public, 3), room(a.Private, 3)),
		"floating_ip_limit": room(a.Reserved, 2),
		"reserved_ip_limit": room(a.Reserved, 2),
		"volume_limit":      0,
		"email":             "operator@weir.invalid",
		"name":              name,
		"uuid":              id,
		"email_verified":    true,
		"status":            "active",
		"status_message":    "",
		"team":              map[string]string{"uuid": id, "name": team},
	}})
}

// room returns how many addresses a network has but for those that are nobody's.
func room(p netip.Prefix, nobodys int) int {
	if !p.IsValid() {
		return 0
	}
	return max(0, 1<<min(p.Addr().BitLen()-p.Bits(), 30)-nobodys)
}

// accountID returns the UUID of a team's account.
func (a *api) accountID(team weir.ID) string {
	uri := "weir:" + a.Control.Region()
	if team != "" {
		uri += "/" + string(team)
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(uri)).String()
}

func (a *api) regions(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "regions", a.Control.Regions(), newRegionWire)
}

func (a *api) sizes(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "sizes", weir.Sizes(), func(s weir.Size) sizeWire { return newSizeWire(s, a.Control.Regions()) })
}

// images lists the images that machines are made from. Other slugs of Debian and Ubuntu are
// accepted too: see weir.CheckImage.
func (a *api) images(w http.ResponseWriter, r *http.Request) error {
	q, slugs := r.URL.Query(), weir.Images()
	if kind := q.Get("type"); q.Get("private") == "true" || q.Get("tag_name") != "" || kind != "" && kind != "distribution" {
		slugs = nil
	}
	return list(w, r, "images", slugs, func(slug string) imageWire { return newImageWire(slug, a.Control.Regions()) })
}

func (a *api) image(w http.ResponseWriter, r *http.Request) error {
	slug := imageSlug(r.PathValue("id"))
	if weir.CheckImage(slug) != nil {
		return errNotFound
	}
	return reply(w, http.StatusOK, map[string]any{"image": newImageWire(slug, a.Control.Regions())})
}

// imageSlug returns the slug of an image that is given by its slug, or by the number that
// it has in this catalog. Whatever else is returned as it is.
func imageSlug(name string) string {
	for _, slug := range weir.Images() {
		if name == strconv.FormatInt(imageNumber(slug), 10) {
			return slug
		}
	}
	return name
}
