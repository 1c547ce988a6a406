package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"weir/nodeapi"
	"weir/pki"
	"weir/weir"
)

// knownAuthority sets a.roots from the file that the agent was given, or from its disk. A
// node that was given none and has not enrolled yet has none: see learnAuthority.
func (a *agent) knownAuthority() error {
	file := a.CAFile
	if file == "" {
		file = a.disk.path("ca.pem")
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && a.CAFile == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("certificate of the control plane's authority: %w", err)
	}
	if a.roots, err = pki.Roots(data); err != nil {
		return fmt.Errorf("certificate of the control plane's authority: %s: %w", file, err)
	}
	return nil
}

// learnAuthority gets the certificate of the control plane's authority from whichever
// member answers, knows it by the fingerprint in the token, and keeps it.
func (a *agent) learnAuthority(ctx context.Context) error {
	token, err := a.token()
	if err != nil {
		return err
	}
	fingerprint := weir.PinOf(token)
	if fingerprint == "" {
		return weir.Errorf(weir.Invalid, "token: %s does not say which authority the control plane has, so that --ca must name a file with its certificate", a.TokenFile)
	}
	var data []byte
	for _, url := range a.URLs {
		data, err = nodeapi.Authority(ctx, nodeapi.Options{URL: url, Dial: a.dial}, fingerprint)
		if err == nil || weir.KindOf(err) != weir.Unavailable {
			break
		}
	}
	if err != nil {
		return err
	}
	if a.roots, err = pki.Roots(data); err != nil {
		return err
	}
	return a.disk.write("ca.pem", data)
}

// token returns what the node enrols with.
func (a *agent) token() (string, error) {
	data, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return "", weir.Errorf(weir.Invalid, "token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", weir.Errorf(weir.Invalid, "token: %s is empty", a.TokenFile)
	}
	return token, nil
}
