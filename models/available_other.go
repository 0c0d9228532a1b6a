//go:build !linux

package models

// Available is 0: how much memory is free is not known here.
func Available() int64 { return 0 }

// Total is 0: how much memory there is is not known here.
func Total() int64 { return 0 }
