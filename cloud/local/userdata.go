package local

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"unicode"

	"weir/weir"
)

// maxUnpacked bounds what user-data may grow to when it is decompressed, in bytes.
const maxUnpacked = 16 << 20

const accepted = "want a script that begins with #!, a #cloud-config, or a MIME multipart of these, plain or gzipped"

// compileUserData turns what a user gave as user-data into the program that a machine
// runs at its first boot, or nil if there is nothing to run. A script is itself; a
// #cloud-config becomes a shell script that does what cloud-init would, in its order,
// goes on after a step that fails, and exits with 1 if any did. What cannot be run is
// weir.Invalid, with its line.
func compileUserData(b []byte) ([]byte, error) {
	b, err := unzip(b)
	if err != nil {
		return nil, unusable(err)
	}
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		return nil, nil
	case isScript(b):
		return unixLines(b), nil
	case isCloudConfig(b):
		c, err := parseCloudConfig(b)
		if err != nil {
			return nil, unusable(err)
		}
		return c.script(nil), nil
	case isMultipart(b):
		script, err := compileMultipart(b)
		if err != nil {
			return nil, unusable(err)
		}
		return script, nil
	}
	return nil, weir.Errorf(weir.Invalid, "user-data begins with %.20q, %s", b, accepted)
}

// unusable says in one line why user-data cannot be run: a library's error may have any
// of its bytes.
func unusable(err error) error {
	line := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return '?'
		}
		return c
	}, err.Error())
	return weir.Errorf(weir.Invalid, "user-data: %s", line)
}

func isScript(b []byte) bool { return bytes.HasPrefix(b, []byte("#!")) }

// isCloudConfig skips empty lines at the beginning, as cloud-init does.
func isCloudConfig(b []byte) bool {
	line, _, _ := bytes.Cut(bytes.TrimLeftFunc(b, unicode.IsSpace), []byte("\n"))
	return string(bytes.TrimRight(line, " \t\r")) == "#cloud-config"
}

// isMultipart looks for the header where cloud-init looks for it.
func isMultipart(b []byte) bool {
	head := bytes.ToLower(b[:min(len(b), 4096)])
	return bytes.Contains(head, []byte("mime-version:")) || bytes.HasPrefix(head, []byte("content-type:"))
}

// unixLines drops the carriage returns of a script that an editor on Windows wrote, as
// cloud-init does: its interpreter would not be found.
func unixLines(b []byte) []byte {
	if line, _, ok := bytes.Cut(b, []byte("\n")); ok && bytes.HasSuffix(line, []byte("\r")) {
		return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	}
	return b
}

// unzip returns b decompressed if it is gzip, and as it is if it is not.
func unzip(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	return gunzip(b)
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err != nil {
		return nil, err
	}
	if len(plain) > maxUnpacked {
		return nil, fmt.Errorf("it has over %d MiB when decompressed", maxUnpacked>>20)
	}
	return plain, nil
}

// compileMultipart does the work of compileUserData for scripts and at most one
// #cloud-config in one message. Scripts run before its runcmd, as with cloud-init.
func compileMultipart(b []byte) ([]byte, error) {
	message, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("content-type: %w", err)
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return nil, fmt.Errorf("content-type is %s, want multipart/mixed", kind)
	}
	config := &cloudConfig{}
	var scripts [][]byte
	configs := 0
	parts := multipart.NewReader(message.Body, params["boundary"])
	for n := 1; ; n++ {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return config.script(scripts), nil
		}
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", n, err)
		}
		content, err := partContent(part)
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", n, err)
		}
		switch {
		case isScript(content):
			scripts = append(scripts, unixLines(content))
		case isCloudConfig(content):
			if configs++; configs > 1 {
				return nil, fmt.Errorf("part %d is a second #cloud-config, want one: merge them", n)
			}
			if config, err = parseCloudConfig(content); err != nil {
				return nil, fmt.Errorf("part %d: %w", n, err)
			}
		default:
			return nil, fmt.Errorf("part %d begins with %.20q, want #! or #cloud-config", n, content)
		}
	}
}

func partContent(part *multipart.Part) ([]byte, error) {
	var body io.Reader = part
	switch coding := strings.ToLower(part.Header.Get("Content-Transfer-Encoding")); coding {
	case "", "7bit", "8bit", "binary":
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, part)
	case "quoted-printable":
		body = quotedprintable.NewReader(part)
	default:
		return nil, fmt.Errorf("content-transfer-encoding is %q, want base64, quoted-printable or none", coding)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	return unzip(b)
}
