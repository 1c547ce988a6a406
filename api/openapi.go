package api

import (
	_ "embed"
	"net/http"
	"slices"
)

// document describes all routes, in OpenAPI 3.0. It is made from the routes, the wire types and their
// comments, and from the table in reference_test.go: go test ./api -run OpenAPI -update.
//
//go:embed openapi.yaml
var document []byte

// OpenAPI returns the description of this API, in YAML.
func OpenAPI() []byte { return slices.Clone(document) }

// describe answers with the description of this API. It is the same for everybody, and so
// nobody needs a token for it.
func describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml; charset=utf-8")
	w.Write(document) // fails if the client has left: there is nobody to tell
}
