package digitalocean_test

import "errors"

var errLost = errors.New("connection reset by peer")
