package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a root with these files below /proc.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, "proc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func about(t *testing.T, list []Finding, what string) Finding {
	t.Helper()
	for _, f := range list {
		if f.About == what {
			if (f.Level != Fine) != (f.Remedy != "") {
				t.Errorf("%+v: what is wrong has a remedy, and nothing else", f)
			}
			return f
		}
	}
	t.Fatalf("nothing about %s", what)
	return Finding{}
}

func TestFindings(t *testing.T) {
	t.Setenv("QUIC_GO_DISABLE_GSO", "")
	small := map[string]string{"sys/net/core/rmem_max": "212992\n", "sys/net/core/wmem_max": "7500000\n", "cpuinfo": "flags\t: fpu sse\nFeatures : fp\n"}
	large := map[string]string{"sys/net/core/rmem_max": "7500000\n", "sys/net/core/wmem_max": "7500000\n",
		"cpuinfo": "flags\t: fma avx2 asimddp\n", "swaps": "Filename\n/dev/x\n"}
	bad := Machine(machine(t, small), nil, 100<<20)
	good := Machine(machine(t, large), []string{"eth0"}, 8<<30)
	for what, level := range map[string]Level{"network": Bad, "UDP buffers": Slow, "processor": Slow, "memory": Bad, "swap": Fine, "segment offload": Fine} {
		if f := about(t, bad, what); f.Level != level {
			t.Errorf("%+v, want %s", f, level)
		}
		if f := about(t, good, what); f.Level != Fine {
			t.Errorf("%+v", f)
		}
	}
	if f := about(t, bad, "UDP buffers"); !strings.Contains(f.Remedy, "net.core.rmem_max=7500000") || !strings.Contains(f.Found, "208 KiB") {
		t.Errorf("%+v", f)
	}
	if f := about(t, good, "network"); !strings.Contains(f.Found, "eth0") {
		t.Errorf("%+v", f)
	}
	t.Setenv("QUIC_GO_DISABLE_GSO", "true")
	if f := gso(); f.Level != Slow {
		t.Errorf("%+v", f)
	}
	for _, f := range Machine(t.TempDir(), []string{"eth0"}, 0) { // nothing can be known
		if f.About != "segment offload" && f.Level != Fine {
			t.Errorf("%+v", f)
		}
	}
}
