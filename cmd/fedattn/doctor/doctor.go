// Package doctor looks at a machine as a participant needs it: network, memory, processor. Each finding says what is
// there, whether it will do, and what to do if it will not.
//
// Start reading at Machine.
package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	Fine Level = "ok"
	Slow Level = "slow" // works, with less than the machine could
	Bad  Level = "bad"  // something will not work
)

// Finding is what was found about one thing.
type Finding struct {
	About  string `json:"about"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// wantBuffer is what QUIC asks of the kernel for its sockets, in bytes.
const wantBuffer = 7 << 20

// sysctl is the line that grants it; a container cannot say it, its host can.
const sysctl = "as root, on the host of a container: sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000"

// leastMemory is what the smallest useful model takes, in bytes.
const leastMemory = 400 << 20

// Machine looks at this machine below root, which is / but in tests. interfaces are those on which devices are looked
// for, available is the free memory in bytes, 0 if nobody knows.
func Machine(root string, interfaces []string, available int64) []Finding {
	return []Finding{network(interfaces), buffers(root), gso(), processor(root), memory(available), swap(root)}
}

func network(interfaces []string) Finding {
	if len(interfaces) == 0 {
		return Finding{"network", Bad, "no interface with multicast is up: devices are not found by themselves",
			"connect to a network, or name devices with --peer ID@HOST:PORT; in a container, give it the host's network"}
	}
	return Finding{About: "network", Level: Fine, Found: "devices are looked for on " + strings.Join(interfaces, ", ")}
}

func buffers(root string) Finding {
	least := int64(-1)
	for _, name := range []string{"rmem_max", "wmem_max"} {
		n, ok := number(filepath.Join(root, "proc/sys/net/core", name))
		if !ok {
			return Finding{About: "UDP buffers", Level: Fine, Found: "their limit is not known here"}
		}
		if least < 0 || n < least {
			least = n
		}
	}
	found := fmt.Sprintf("sockets may have %d KiB", least>>10)
	if least < wantBuffer {
		return Finding{"UDP buffers", Slow, found + fmt.Sprintf(", %d KiB are wanted: rows may be lost and sent again", wantBuffer>>10), sysctl}
	}
	return Finding{About: "UDP buffers", Level: Fine, Found: found}
}

func gso() Finding {
	if off, err := strconv.ParseBool(os.Getenv("QUIC_GO_DISABLE_GSO")); err == nil && off {
		return Finding{"segment offload", Slow, "QUIC_GO_DISABLE_GSO turns it off", "unset it unless the network adapter drops packets with it"}
	}
	return Finding{About: "segment offload", Level: Fine, Found: "used where the kernel has it; if nothing arrives from a Pi, set QUIC_GO_DISABLE_GSO=true there"}
}

// features are those that speed up quantised models, by what the kernel calls them.
var features = []string{"avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "fma", "f16c", "asimd", "asimddp", "asimdhp", "i8mm", "sve", "sve2"}

// needed is the feature without which quantised models are slow, by architecture.
var needed = map[string]string{"amd64": "avx2", "arm64": "asimddp"}

func processor(root string) Finding {
	text, _ := os.ReadFile(filepath.Join(root, "proc/cpuinfo"))
	var have []string
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); name == "flags" || name == "Features" {
			all := strings.Fields(value)
			for _, f := range features {
				if slices.Contains(all, f) {
					have = append(have, f)
				}
			}
			break
		}
	}
	found := fmt.Sprintf("%d cores, %s", runtime.NumCPU(), runtime.GOARCH)
	if len(text) == 0 {
		return Finding{About: "processor", Level: Fine, Found: found}
	}
	found += ": " + strings.Join(have, " ")
	if f := needed[runtime.GOARCH]; f != "" && !slices.Contains(have, f) {
		return Finding{"processor", Slow, found + "; it lacks " + f, "choose a small model: quantised weights are slow here"}
	}
	return Finding{About: "processor", Level: Fine, Found: found}
}

func memory(available int64) Finding {
	if available <= 0 {
		return Finding{About: "memory", Level: Fine, Found: "what is free is not known here"}
	}
	found := fmt.Sprintf("%.1f GB are free", float64(available)/1e9)
	if available < leastMemory {
		return Finding{"memory", Bad, found, "end other programs: the smallest recommended model takes 0.4 GB"}
	}
	return Finding{About: "memory", Level: Fine, Found: found + "; fedattn models list says what fits"}
}

func swap(root string) Finding {
	text, err := os.ReadFile(filepath.Join(root, "proc/swaps"))
	if err != nil || strings.Count(strings.TrimSpace(string(text)), "\n") == 0 {
		return Finding{About: "swap", Level: Fine, Found: "none"}
	}
	return Finding{About: "swap", Level: Fine, Found: "there is some; a model that is swapped out answers minutes later, --mlock keeps it in memory"}
}

// number reads a file that holds one.
func number(path string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
