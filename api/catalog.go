package api

import (
	"net/http"
	"net/netip"
	"strconv"

	"github.com/google/uuid"

	"weir/weir"
)

// account is whom the callers of this region are: there is one. Its limits are for how many there
// are addresses; the host's memory may allow for fewer.
func (a *api) account(w http.ResponseWriter, r *http.Request) error {
	id := a.accountID()
	return reply(w, http.StatusOK, map[string]any{"account": map[string]any{
		"droplet_limit":     min(room(a.Public, 3), room(a.Private, 3)),
		"floating_ip_limit": room(a.Reserved, 2),
		"reserved_ip_limit": room(a.Reserved, 2),
		"volume_limit":      0,
		"email":             "operator@weir.invalid",
		"name":              "operator",
		"uuid":              id,
		"email_verified":    true,
		"status":            "active",
		"status_message":    "",
		"team":              map[string]string{"uuid": id, "name": a.Control.Region()},
	}})
}

// room returns how many addresses a network has but for those that are nobody's.
func room(p netip.Prefix, nobodys int) int {
	if !p.IsValid() {
		return 0
	}
	return max(0, 1<<min(p.Addr().BitLen()-p.Bits(), 30)-nobodys)
}

// accountID returns the UUID of that account.
func (a *api) accountID() string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("weir:"+a.Control.Region())).String()
}

func (a *api) regions(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "regions", []string{a.Control.Region()}, newRegionWire)
}

func (a *api) sizes(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "sizes", weir.Sizes(), func(s weir.Size) sizeWire { return newSizeWire(s, a.Control.Region()) })
}

// images lists the images that machines are made from. Other slugs of Debian and Ubuntu are
// accepted too: see weir.CheckImage.
func (a *api) images(w http.ResponseWriter, r *http.Request) error {
	q, slugs := r.URL.Query(), weir.Images()
	if kind := q.Get("type"); q.Get("private") == "true" || q.Get("tag_name") != "" || kind != "" && kind != "distribution" {
		slugs = nil
	}
	return list(w, r, "images", slugs, func(slug string) imageWire { return newImageWire(slug, a.Control.Region()) })
}

func (a *api) image(w http.ResponseWriter, r *http.Request) error {
	slug := imageSlug(r.PathValue("id"))
	if weir.CheckImage(slug) != nil {
		return errNotFound
	}
	return reply(w, http.StatusOK, map[string]any{"image": newImageWire(slug, a.Control.Region())})
}

// imageSlug returns the slug of an image that is given by its slug, or by the number that
// it has in this catalog. Whatever else is returned as it is.
func imageSlug(name string) string {
	for _, slug := range weir.Images() {
		if name == strconv.FormatInt(newImageWire(slug, "").ID, 10) {
			return slug
		}
	}
	return name
}
