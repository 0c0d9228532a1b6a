package bench

import (
	"os"
	"runtime"
	"strings"
	"time"
)

// Environment is where and how something was measured.
type Environment struct {
	Time      time.Time `json:"time"`
	Host      string    `json:"host"`
	Version   string    `json:"version"`   // of this program
	LlamaCPP  string    `json:"llama_cpp"` // commit
	Go        string    `json:"go"`
	System    string    `json:"system"` // GOOS/GOARCH
	Kernel    string    `json:"kernel,omitempty"`
	CPU       string    `json:"cpu"`
	CPUs      []int     `json:"cpus"`  // that this program may use
	Cores     Cores     `json:"cores"` // of each device; null: they share them
	Memory    int64     `json:"memory"`
	Governor  string    `json:"governor,omitempty"` // of the processors' clock
	Load      string    `json:"load,omitempty"`     // averages before the first test
	Power     string    `json:"power,omitempty"`    // sensor
	Arguments []string  `json:"arguments"`
	Model     struct {
		File       string `json:"file"`
		Type       string `json:"type"`
		Size       int64  `json:"size"`
		Parameters int64  `json:"n_params"`
	} `json:"model"`
}

// Here is the environment of this process, as far as the system tells.
func Here() (e Environment) {
	e.Time, e.Go, e.System, e.CPU, e.CPUs = time.Now().UTC(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH, CPUName(), Allowed()
	e.Host, _ = os.Hostname()
	e.Kernel = word("/proc/sys/kernel/osrelease")
	e.Governor = word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
	e.Load = word("/proc/loadavg")
	return e
}

// About adds what all rows have in common.
func (e *Environment) About(s Subject) {
	e.LlamaCPP = s.Build
	e.Model.File, e.Model.Type, e.Model.Size, e.Model.Parameters = s.ModelFile, s.ModelType, s.ModelSize, s.Parameters
}

func word(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// CPUName is what the processor calls itself, or the architecture.
func CPUName() string {
	for line := range strings.Lines(word("/proc/cpuinfo")) {
		key, value, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); key == "model name" || key == "Model" { // Model: of a Raspberry Pi
			return strings.TrimSpace(value)
		}
	}
	if board := strings.TrimRight(word("/proc/device-tree/model"), "\x00"); board != "" {
		return board
	}
	return runtime.GOARCH
}
