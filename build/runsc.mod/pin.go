//go:build pin

// Package runsc pins gVisor: go.mod and go.sum beside this file say which, and `go build` checks the sums.
package runsc

import _ "gvisor.dev/gvisor/runsc"
