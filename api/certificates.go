package api

import (
	"net/http"
	"slices"
	"time"

	"weir/weir"
)

// certificateWire is a certificate in DigitalOcean's words, which have none for its private key.
type certificateWire struct {
	ID          weir.ID  `json:"id"`
	Name        string   `json:"name"`
	NotAfter    string   `json:"not_after"`
	Fingerprint string   `json:"sha1_fingerprint"`
	Created     string   `json:"created_at"`
	DNSNames    []string `json:"dns_names"`
	State       string   `json:"state"`
	Type        string   `json:"type"`
	Waits       string   `json:"waits_for,omitempty"` // what keeps one of the type lets_encrypt from being issued at this moment
	Err         string   `json:"error,omitempty"`     // why the authority last refused one of the type lets_encrypt
	Renew       string   `json:"renews_at,omitempty"` // when one of the type lets_encrypt gets its successor

	Weir *certificateMore `json:"weir,omitempty"`
}

// certificateMore is what of a certificate DigitalOcean has no word for.
type certificateMore struct {
	Challenge string `json:"challenge,omitempty"` // by which alone the authority is shown who has the names: http-01 or tls-alpn-01; the one that fits if left out
}

// The types of certificates.
const (
	custom      = "custom"
	letsEncrypt = "lets_encrypt"
)

func certificateWords(c weir.Certificate) certificateWire {
	words := certificateWire{ID: c.ID, Name: c.Name, NotAfter: timeWire(c.NotAfter), Fingerprint: c.Fingerprint, Created: timeWire(c.Created),
		DNSNames: some(c.DNSNames), State: string(c.State(time.Now())), Type: custom}
	i := c.Issuance
	if i == nil {
		return words
	}
	words.Type, words.Waits, words.Err = letsEncrypt, i.Plan, i.Err
	if i.Challenge != "" {
		words.Weir = &certificateMore{Challenge: string(i.Challenge)}
	}
	if c.Placeholder() {
		words.NotAfter, words.Fingerprint = "", "" // they are of what stands in its place
	} else {
		words.Renew = timeWire(i.Renew)
	}
	return words
}

func (a *api) listCertificates(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Certificates(r.Context())
	if err != nil {
		return err
	}
	if name := r.URL.Query().Get("name"); name != "" {
		all = slices.DeleteFunc(all, func(c weir.Certificate) bool { return c.Name != name })
	}
	return list(w, r, "certificates", all, certificateWords)
}

func (a *api) getCertificate(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	c, err := a.Control.Certificate(r.Context(), id)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"certificate": certificateWords(c)})
}

// certificateRequest is the body that uploads a certificate, or asks for one.
type certificateRequest struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	DNSNames []string `json:"dns_names"`
	Leaf     string   `json:"leaf_certificate"`
	Chain    string   `json:"certificate_chain"`
	Key      string   `json:"private_key"`

	Weir *certificateMore `json:"weir"`
}

func (a *api) createCertificate(w http.ResponseWriter, r *http.Request) error {
	var q certificateRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	switch {
	case q.Type == letsEncrypt:
		return a.issueCertificate(w, r, q)
	case q.Type != "" && q.Type != custom:
		return invalid("type is %.40q, want custom or lets_encrypt", q.Type)
	case len(q.DNSNames) > 0:
		return invalid("dns_names is not empty: a certificate of the type custom is for the names that are written in it, leave dns_names out")
	case q.Weir != nil && q.Weir.Challenge != "":
		return invalid("weir.challenge is not empty: no authority is asked for a certificate of the type custom, leave it out")
	}
	c, err := weir.NewCertificate(q.Name, q.Leaf, q.Chain, q.Key, time.Now())
	if err != nil {
		return err
	}
	if c, err = a.Control.AddCertificate(r.Context(), c, []byte(q.Key)); err != nil {
		return err
	}
	return reply(w, http.StatusCreated, map[string]any{"certificate": certificateWords(c)})
}

func (a *api) issueCertificate(w http.ResponseWriter, r *http.Request, q certificateRequest) error {
	if q.Leaf != "" || q.Chain != "" || q.Key != "" {
		return invalid("type is %q, and leaf_certificate, certificate_chain or private_key is not empty: Weir gets all of these by itself, leave them out", q.Type)
	}
	var challenge weir.ChallengeType
	if q.Weir != nil {
		challenge = weir.ChallengeType(q.Weir.Challenge)
	}
	c, err := a.Control.IssueCertificate(r.Context(), q.Name, q.DNSNames, challenge)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, map[string]any{"certificate": certificateWords(c)})
}

func (a *api) deleteCertificate(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	if err := a.Control.DeleteCertificate(r.Context(), id); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}
