package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"
)

// What is in the repository is what its data give.
func TestCommittedFigures(t *testing.T) {
	folder := filepath.Join("..", "..", "docs", "figures")
	files, err := drawAll(os.DirFS(filepath.Join(folder, "data")), os.DirFS(filepath.Join("..", "..", profiles)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, f := range files {
		want[f.name] = true
		committed, err := os.ReadFile(filepath.Join(folder, f.name))
		if err != nil || !bytes.Equal(committed, f.content) {
			t.Errorf("%s is not what its data give: run make figures (%v)", f.name, err)
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() && !want[e.Name()] {
			t.Errorf("%s has no data", e.Name())
		}
	}
}

const evalLines = `{"name":"centralised","participants":1,"contributors":"none","publisher":"none","kld_mean":0,"barriers":0}
{"name":"local-only","participants":4,"contributors":"none","publisher":"none","kld_mean":0.9,"barriers":0}
{"name":"","participants":4,"contributors":"none","publisher":"all","kld_mean":0.03,"kv_bytes_received_per_token":8832,"barriers":1}
{"name":"lockstep","participants":4,"contributors":"all","publisher":"all","kld_mean":0.005,"kv_bytes_received_per_token":8832,"barriers":30}
{"name":"","participants":4,"contributors":"1,3,5","publisher":"1,3,5","kld_mean":0.3,"kv_bytes_received_per_token":4416,"barriers":15}
{"name":"","participants":8,"contributors":"none","publisher":"2-","kld_mean":0.08,"kv_bytes_received_per_token":8000,"barriers":1}
{"name":"","participants":8,"contributors":"all","publisher":"all","kld_mean":0,"kv_bytes_received_per_token":23000,"barriers":30}
`

const profileJSON = `{"publisher_leave_one_out":[0.01,0.02],"publisher_single":[0.9,0.8],"contributors_leave_one_out":[0.01,0.03],"contributors_single":[0.5,0.4]}`

func testData() fstest.MapFS {
	return fstest.MapFS{
		"quality.jsonl":   {Data: []byte(evalLines)},
		"intervals.jsonl": {Data: []byte(evalLines)},
	}
}

func testProfiles() fstest.MapFS { return fstest.MapFS{"tiny.json": {Data: []byte(profileJSON)}} }

func TestFiguresAreDeterministicXML(t *testing.T) {
	a, err := drawAll(testData(), testProfiles())
	if err != nil {
		t.Fatal(err)
	}
	b, err := drawAll(testData(), testProfiles())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range a {
		names = append(names, a[i].name)
		if a[i].name != b[i].name || !bytes.Equal(a[i].content, b[i].content) {
			t.Errorf("%s differs from one time to the next", a[i].name)
		}
		if !strings.HasSuffix(a[i].name, ".svg") {
			continue
		}
		d := xml.NewDecoder(bytes.NewReader(a[i].content))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", a[i].name, err)
			}
		}
	}
	want := []string{
		"quality-bytes.svg", "quality-bytes.csv", "quality-barriers.svg", "quality-barriers.csv", "kl-interval.svg", "kl-interval.csv",
		"kl-participants.svg", "kl-participants.csv", "importance-leave-one-out-tiny.svg", "importance-leave-one-out-tiny.csv",
		"importance-single-tiny.svg", "importance-single-tiny.csv",
	}
	if !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
}

// The points of a figure are in its CSV, those that a logarithmic axis cannot show too.
func TestCSV(t *testing.T) {
	figures, err := qualityFigures("", []byte(evalLines))
	if err != nil {
		t.Fatal(err)
	}
	want := `series,KiB that the publisher receives for each of the contributors' tokens,mean KL divergence,label
"gather, N=4",8.625,0.03,
"lockstep, N=4",8.625,0.005,lockstep
"lockstep, N=4",4.3125,0.3,
"Pareto front, N=4",4.3125,0.3,
"Pareto front, N=4",8.625,0.005,
"gather, N=8",7.8125,0.08,
"lockstep, N=8",22.4609,0,
"Pareto front, N=8",7.8125,0.08,
"Pareto front, N=8",22.4609,0,
q4_K_M weights of Llama-3-8B,,0.031,
q3_K_M weights of Llama-3-8B,,0.1,
local only,,0.9,
`
	if got := string(figures[0].csv()); got != want {
		t.Errorf("got\n%s", got)
	}
}

// Nothing beats a point of the front, everything else is beaten or equalled, and the front is a part of the points.
func TestFront(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		coordinate := rapid.Map(rapid.IntRange(0, 6), func(i int) float64 { return float64(i) })
		points := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) point {
			return point{x: coordinate.Draw(t, "x"), y: coordinate.Draw(t, "y")}
		}), 1, 20).Draw(t, "points")
		best := front(points)
		for _, p := range points {
			reached := false
			for _, b := range best {
				if p.x <= b.x && p.y <= b.y && (p.x < b.x || p.y < b.y) {
					t.Fatalf("%v beats %v", p, b)
				}
				reached = reached || b.x <= p.x && b.y <= p.y
			}
			if !reached {
				t.Fatalf("%v is left out of %v", p, best)
			}
		}
		for i, b := range best {
			if !slices.Contains(points, b) || i > 0 && b.x <= best[i-1].x {
				t.Fatalf("%v is not a front of %v", best, points)
			}
		}
	})
}

func TestInterval(t *testing.T) {
	for _, c := range []struct {
		contributors, publisher string
		h                       int
	}{
		{"all", "all", 1}, {"1,3,5,7", "1,3,5,7", 2}, {"3,7,11", "3,7,11", 4}, {"7", "7", 8},
		{"none", "all", 0}, {"none", "none", 0}, {"0,2,4", "0,2,4", 0}, {"1,3,6", "1,3,6", 0}, {"1,3", "all", 0}, {"2-", "2-", 0},
	} {
		h, ok := interval(evalLine{Contributors: c.contributors, Publisher: c.publisher})
		if h != c.h && ok || ok != (c.h > 0) {
			t.Errorf("%+v: %d, %v", c, h, ok)
		}
	}
}

func TestDataThatCannotBeDrawn(t *testing.T) {
	for name, content := range map[string]string{
		"quality.jsonl": "{", "intervals.jsonl": "\n", "errors.jsonl": "[]", "inversion.jsonl": "3", "x.json": "{}", "y.json": "",
	} {
		files := fstest.MapFS{name: {Data: []byte(content)}}
		_, err := drawAll(files, files)
		if err == nil || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := drawAll(fstest.MapFS{}, fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "no measurements") {
		t.Errorf("nothing: %v", err)
	}
	zero := strings.ReplaceAll(evalLines, `"kld_mean":0.`, `"kld_mean":-0.`)
	if _, err := drawAll(fstest.MapFS{"quality.jsonl": {Data: []byte(zero)}}, fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "no point") {
		t.Errorf("no positive values on a logarithmic axis: %v", err)
	}
}

// Contributors end before the publisher: their lines are shorter, and rings are local layers.
func TestErrorFigures(t *testing.T) {
	const line = `{"name":%q,"participants":%d,"layers":[{"layer":0,"kind":"sync","deviation_publisher":0,"kind_contributors":"local","deviation_contributors":0.2},
		{"layer":1,"kind":"local","deviation_publisher":0.1,"kind_contributors":"sync","deviation_contributors":null}]}`
	one := strings.ReplaceAll(line, "\n", " ")
	figures, err := errorFigures("", fmt.Appendf(nil, one+"\n"+one+"\n"+one+"\n", "gather", 2, "gather", 4, "H=2", 4))
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, f := range figures {
		for _, s := range f.series {
			shown = append(shown, fmt.Sprintf("%s/%s %v", f.name, s.name, s.points))
		}
	}
	want := []string{
		"error-publisher/gather [{0 0  false} {1 0.1  true}]", "error-publisher/H=2 [{0 0  false} {1 0.1  true}]",
		"error-contributors/gather [{0 0.2  true}]", "error-contributors/H=2 [{0 0.2  true}]",
		"error-participants/gather, N=2 [{0 0  false} {1 0.1  true}]", "error-participants/gather, N=4 [{0 0  false} {1 0.1  true}]",
	}
	if !slices.Equal(shown, want) {
		t.Errorf("%q", shown)
	}
}

func TestInversionFigure(t *testing.T) {
	figures, err := inversionFigures("inversion.jsonl", []byte(`{"attack":"guess","layer":-1,"rows":"none","tokens":48,"recovered_share":0.25}
{"attack":"search","layer":8,"wire_k":"q8_0","wire_v":"q4_0","rows":"all","tokens":48,"recovered_share":0.5}
{"attack":"search","layer":1,"wire_k":"q8_0","wire_v":"q4_0","rows":"all","tokens":48,"recovered_share":1}
{"attack":"search","layer":1,"wire_k":"q8_0","wire_v":"q4_0","rows":"random=0.5","tokens":48,"recovered_share":0.75}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := "series,layer,\"tokens recovered, %\",label\n\"search, q8_0/q4_0\",1,100,\n\"search, q8_0/q4_0\",8,50,\n" +
		"\"search, q8_0/q4_0, random=0.5\",1,75,\nno rows: the model's guess,,25,\n"
	if len(figures) != 1 || string(figures[0].csv()) != want {
		t.Errorf("points are\n%s, expected\n%s", figures[0].csv(), want)
	}
}

// What fedattn bench left becomes figures for each link; what is not of a figure's kind is not in it.
func TestBenchFigures(t *testing.T) {
	figures, err := benchFigures("raw.jsonl", []byte(`
{"program":"llama.cpp","n_prompt":2048,"n_gen":0,"n_depth":0,"n_nodes":null,"ttft_ms":8000,"speedup":null}
{"program":"llama.cpp","n_prompt":512,"n_gen":0,"n_depth":0,"n_nodes":null,"ttft_ms":2000,"speedup":null}
{"program":"llama.cpp","n_prompt":0,"n_gen":32,"n_depth":2048,"n_nodes":null,"ttft_ms":null,"speedup":null}
{"program":"fedattn","n_prompt":2048,"n_gen":0,"n_depth":0,"n_nodes":2,"schedule":"gather","kept":"cold","link":"100mbit/2ms","ttft_ms":4000,"speedup":2}
{"program":"fedattn","n_prompt":0,"n_gen":32,"n_depth":2048,"n_nodes":2,"schedule":"gather","kept":null,"link":"100mbit/2ms","ttft_ms":null,"speedup":0.98}
{"program":"llama.cpp RPC","n_prompt":2048,"n_gen":0,"n_depth":0,"n_nodes":2,"link":"loopback","ttft_ms":6000,"speedup":1.3}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range figures {
		if _, err := f.svg(); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
		for _, s := range f.series {
			for _, p := range s.points {
				got[f.name] += fmt.Sprintf("%s %g %g; ", s.name, p.x, p.y)
			}
		}
	}
	for name, want := range map[string]string{
		"ttft-100mbit-2ms":   "one device 512 2; one device 2048 8; gather, N=2, cold 2048 4; ",
		"prompt-100mbit-2ms": "gather, N=2, cold 2048 2; ",
		"answer-100mbit-2ms": "gather, N=2 2048 0.98; ",
		"ttft-loopback":      "one device 512 2; one device 2048 8; llama.cpp RPC, N=2 2048 6; ",
		"prompt-loopback":    "llama.cpp RPC, N=2 2048 1.3; ",
	} {
		if got[name] != want {
			t.Errorf("%s has %q, want %q", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("and there is %v", got)
	}
}
