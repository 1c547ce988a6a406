package main

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"weir/pki"
	"weir/weir"
)

// memberFiles are the files by which a member of the control plane and the others know
// each other. They are made anew at each start.
type memberFiles struct {
	certificate, key, authority string

	ca     *pki.CA
	signer crypto.Signer
	self   netip.Addr
	due    time.Time // when the certificate is to be replaced
}

// openMemberFiles makes the files of the member at self in its data directory.
func openMemberFiles(data string, ca *pki.CA, self netip.Addr) (*memberFiles, error) {
	m := &memberFiles{certificate: filepath.Join(data, "member.pem"), key: filepath.Join(data, "member-key.pem"),
		authority: filepath.Join(data, "ca.pem"), ca: ca, self: self}
	signer, text, err := weir.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	m.signer = signer
	if err := renameio.WriteFile(m.key, text, 0o600); err != nil {
		return nil, fmt.Errorf("key of this member: %w", err)
	}
	if err := writeAuthority(m.authority, ca); err != nil {
		return nil, err
	}
	return m, m.sign()
}

// sign puts another certificate in the place of the one that is there, for the same key:
// whoever reads the two files meanwhile gets what belongs together.
func (m *memberFiles) sign() error {
	certificate, err := m.ca.Member(m.signer, m.self.String())
	if err != nil {
		return err
	}
	m.due = time.Now().Add(pki.MemberLife / 2)
	if err := renameio.WriteFile(m.certificate, certificate, 0o600); err != nil {
		return fmt.Errorf("certificate of this member: %w", err)
	}
	return nil
}

// renew keeps the certificate valid until ctx ends.
func (m *memberFiles) renew(ctx context.Context, log *slog.Logger) error {
	// Not to sleep through it all, since a suspended machine's timers stand still.
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if now.Before(m.due) {
				continue
			}
			if err := m.sign(); err != nil {
				log.Warn("certificate of this member not renewed yet", "err", err)
			}
		}
	}
}

// writeAuthority writes the authority's certificate, without its key, for those who verify.
func writeAuthority(file string, ca *pki.CA) error {
	if err := renameio.WriteFile(file, ca.PEM(), 0o644); err != nil {
		return fmt.Errorf("certificate of the authority: %w", err)
	}
	return nil
}
