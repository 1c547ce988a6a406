// Package examples is a first application: weir.yaml asks for three web servers behind
// a load balancer, and user-data.sh makes a new machine one of them.
//
// weir dev starts with it when it is not told otherwise. cloud-config.yaml is the same
// as user-data.sh for those who prefer cloud-init's own language.
package examples

import "embed"

// FS has weir.yaml and the files that it names.
//
//go:embed weir.yaml user-data.sh cloud-config.yaml
var FS embed.FS
