//go:build !linux

package main

// memoryShare is 0, no limit, where the machine's memory cannot be asked for.
func memoryShare() int64 { return 0 }
