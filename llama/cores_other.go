//go:build !linux

package llama

import "io/fs"

var systemFiles fs.FS

// allowedCPUs is nil: what the Go runtime found out is all that is known.
func allowedCPUs() []int { return nil }
