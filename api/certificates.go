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
}

func certificateWords(c weir.Certificate) certificateWire {
	return certificateWire{c.ID, c.Name, timeWire(c.NotAfter), c.Fingerprint, timeWire(c.Created), some(c.DNSNames), "verified", "custom"}
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

// certificateRequest is the body that uploads a certificate.
type certificateRequest struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	DNSNames []string `json:"dns_names"`
	Leaf     string   `json:"leaf_certificate"`
	Chain    string   `json:"certificate_chain"`
	Key      string   `json:"private_key"`
}

func (a *api) createCertificate(w http.ResponseWriter, r *http.Request) error {
	var q certificateRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	switch {
	case q.Type == "lets_encrypt":
		return invalid("type is %q: Weir does not get certificates by itself yet, get one with a client of ACME such as certbot, and upload it with the type custom", q.Type)
	case q.Type != "" && q.Type != "custom":
		return invalid("type is %.40q, want custom", q.Type)
	case len(q.DNSNames) > 0:
		return invalid("dns_names is not empty: a certificate of the type custom is for the names that are written in it, leave dns_names out")
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
