package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/device"
	"fedattn/transport"
)

func TestPrinter(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain\ttext\n", "plain\ttext\n"},
		{"naïve – 日本語 🙂 ÿ", "naïve – 日本語 🙂 ÿ"},
		{"a\x1b[31mred\x1b[0m", "a[31mred[0m"},                   // colours
		{"\x1b]0;title\x07", "]0;title"},                         // the window's title
		{"over\rwritten\b\b", "overwritten"},                     // what hides text
		{"\u009b31m\u0080\u009f\u00a0\u00bf", "31m\u00a0\u00bf"}, // C1 controls, and what follows them in Unicode
		{"\x7f\x00", ""},
		{"\x9b31m", "\ufffd31m"},                 // a terminal without UTF-8 would obey
		{"\xc2\xc2\x9b\xc2\xa0", "\ufffd\u00a0"}, // broken UTF-8 hides no control
		{"\xe6\x97", ""},                         // not whole yet
	} {
		var whole printer
		if got := string(whole.clean([]byte(c.in))); got != c.want {
			t.Errorf("%q is shown as %q, want %q", c.in, got, c.want)
		}
		// tokens end anywhere
		var pieces printer
		var got []byte
		for i := range len(c.in) {
			got = append(got, pieces.clean([]byte{c.in[i]})...)
		}
		if string(got) != c.want {
			t.Errorf("%q byte by byte is shown as %q, want %q", c.in, got, c.want)
		}
	}
}

// failing is a stream that takes some bytes.
type failing struct{ room int }

func (f *failing) Write(b []byte) (int, error) {
	if f.room < len(b) {
		return 0, syscall.EPIPE
	}
	f.room -= len(b)
	return len(b), nil
}

func TestOutputKeepsTheFirstError(t *testing.T) {
	broken := 0
	w := &failing{room: 4}
	out := &output{w: w, broken: func() { broken++ }}
	for i, text := range []string{"1234", "56", "7"} {
		if _, err := out.Write([]byte(text)); (err == nil) != (i == 0) {
			t.Errorf("write %d: %v", i, err)
		}
		w.room += 100 * i // it would take more now
	}
	if broken != 1 || !errors.Is(out.failure(), syscall.EPIPE) {
		t.Errorf("broken %d times, %v", broken, out.failure())
	}
}

func TestColour(t *testing.T) {
	pipe, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer end.Close()
	if colour(end) || colour(&bytes.Buffer{}) {
		t.Error("colours in a pipe")
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_900: "999.9 kB", 38_100_000: "38.1 MB", 5e9: "5.00 GB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}

func TestWhyMissing(t *testing.T) {
	id := transport.ID(nobody)
	told := reporter{addresses: []transport.PeerAddress{{ID: id, HostPort: "pi:7843"}}}
	for want, m := range map[string]fedkv.Missing{
		"no answer from peer AAAAAAA at pi:7843":                  {Text: "no answer from peer AAAAAAA at pi:7843", Phase: fedkv.PhaseConnect, Layer: -1},
		"peer AAAAAAA at pi:7843: it is busy":                     {Text: "it is busy", Phase: fedkv.PhaseConnect, Layer: -1},
		"garden: its text is too long":                            {Name: "garden", Text: "its text is too long", Phase: fedkv.PhaseSetup, Layer: -1},
		"garden, lost before its rows of layer 0 came: silence":   {Name: "garden", Text: "silence", Phase: fedkv.PhasePrefill, Layer: 0},
		"garden, lost when its rows of layer 7 were due: silence": {Name: "garden", Text: "silence", Phase: fedkv.PhaseTransfer, Layer: 7},
		"garden: " + fedkv.ErrTokenizer.Error():                   {Name: "garden", Code: fedkv.CodeTokenizer, Text: "ours is 1 and theirs is 2", Phase: fedkv.PhaseConnect, Layer: -1},
		"asker: its text is too long":                             {Origin: 1, Name: "asker", Text: "its text is too long", Phase: fedkv.PhaseSetup, Layer: -1},
	} {
		if got := told.why(m); got != want {
			t.Errorf("%+v is told as %q, want %q", m, got, want)
		}
	}
}

func TestEnergyOfAnAnswer(t *testing.T) {
	board := device.Board{Root: t.TempDir()}
	zone := filepath.Join(board.Root, "class/powercap/intel-rapl:0")
	if err := os.MkdirAll(zone, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		file := filepath.Join(zone, name)
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	write("name", "package-0")
	write("energy_uj", "1000000")
	power, err := board.Begin()
	if err != nil {
		t.Fatal(err)
	}
	write("energy_uj", "9000000")
	told := reporter{power: power}
	r := node.Report{Decoded: 16}
	if got := told.footer(r); !strings.HasSuffix(got, "| sync 0 % | energy 8.0 J, 0.50 J/tok ]") {
		t.Errorf("the footer is %q", got)
	}
	if e := told.federation(r).Energy; e == nil || *e != (energyJSON{8, 0.5, "package-0"}) {
		t.Errorf("for programs it is %+v", e)
	}
	told.power = nil
	if got := told.footer(r); !strings.HasSuffix(got, "| sync 0 % ]") || told.federation(r).Energy != nil {
		t.Errorf("without a sensor the footer is %q", got)
	}
}
