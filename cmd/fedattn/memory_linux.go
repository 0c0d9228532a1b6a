package main

import "golang.org/x/sys/unix"

// stagingShare is the part of the machine's memory that rows may take before they are placed.
const stagingShare = 8

// memoryShare is that part in bytes.
func memoryShare() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) / stagingShare
}
