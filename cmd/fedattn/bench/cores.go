package bench

import (
	"fmt"
	"strings"
)

// Cores are the processors of each device, the asking one first; nil if devices share what there is.
type Cores [][]int

// Assign gives each device as many processors of its own as it has threads, or nothing if there are not enough.
func Assign(allowed []int, devices, threads int) Cores {
	if threads < 1 || devices*threads > len(allowed) {
		return nil
	}
	var c Cores
	for i := range devices {
		c = append(c, allowed[i*threads:(i+1)*threads])
	}
	return c
}

// of a device; nil is any.
func (c Cores) of(device int) []int {
	if device < len(c) {
		return c[device]
	}
	return nil
}

// Mask is a device's processors as llama-bench's --cpu-mask has them; 0x0 for any.
func (c Cores) Mask(device int) string {
	cpus := c.of(device)
	if len(cpus) == 0 {
		return "0x0"
	}
	digits := make([]byte, cpus[len(cpus)-1]/4+1) // the least first
	for _, cpu := range cpus {
		if at := cpu / 4; at < len(digits) {
			digits[at] |= 1 << (cpu % 4)
		}
	}
	var text strings.Builder
	text.WriteString("0x")
	for i := len(digits) - 1; i >= 0; i-- {
		fmt.Fprintf(&text, "%x", digits[i])
	}
	return text.String()
}
