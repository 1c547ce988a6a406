package api

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"weir/weir"
)

// account is who the caller is, and of which team.
func (a *api) account(w http.ResponseWriter, r *http.Request) error {
	caller := weir.CallerOf(r.Context())
	name, team, uri := cmp.Or(caller.User, "operator"), a.Control.Region(), "weir:"+a.Control.Region()
	if caller.Team != "" {
		team, uri = weir.TeamName(caller.Team), uri+"/"+string(caller.Team)
	}
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte(uri)).String()
	return reply(w, http.StatusOK, map[string]any{"account": map[string]any{
		"droplet_limit":     weir.MaxPool,
		"floating_ip_limit": weir.MaxPool,
		"reserved_ip_limit": weir.MaxPool,
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

func (a *api) regions(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "regions", []string{a.Control.Region()}, newRegionWire)
}

func (a *api) sizes(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "sizes", weir.Sizes(), func(s weir.Size) sizeWire { return newSizeWire(s, a.Control.Region()) })
}

// images lists the image that machines are made from unless a user names another. Other
// slugs of Debian and Ubuntu are accepted too: see weir.Template.Check.
func (a *api) images(w http.ResponseWriter, r *http.Request) error {
	q, slugs := r.URL.Query(), []string{weir.DefaultImage}
	if kind := q.Get("type"); q.Get("private") == "true" || q.Get("tag_name") != "" || kind != "" && kind != "distribution" {
		slugs = nil
	}
	return list(w, r, "images", slugs, func(slug string) imageWire { return newImageWire(slug, a.Control.Region()) })
}

func (a *api) image(w http.ResponseWriter, r *http.Request) error {
	slug := imageSlug(r.PathValue("id"))
	if slug != weir.DefaultImage {
		return errNotFound
	}
	return reply(w, http.StatusOK, map[string]any{"image": newImageWire(slug, a.Control.Region())})
}

// imageSlug returns the slug of an image that is given by its slug, or by the number that
// it has in this catalog. Whatever else is returned as it is.
func imageSlug(name string) string {
	if name == strconv.FormatInt(newImageWire(weir.DefaultImage, "").ID, 10) {
		return weir.DefaultImage
	}
	return name
}
