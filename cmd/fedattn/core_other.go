//go:build !linux

package main

func keepOffDisk() {}
