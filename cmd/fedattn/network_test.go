//go:build faults && unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fedattn/transport/shaper"
)

// Real processes ask each other through networks that lose, delay and reorder packets, or are dead for seconds (make
// test-faults). What is promised: every question ends in an answer, or in an error that says why, by its deadline + 10 %;
// in gather the answer is, byte for byte, the one of those who are not named as missing. A run in which the network did
// nothing is invalid, and tried again.
//
// FEDATTN_NETWORK_RUNS is how often each cell runs (0: only the first cells, once), FEDATTN_FAULT_SEED the seed.

var networkCells = []string{
	"loss=5%", "handshake=30%", "up=5s,down=2s", "loss=30%", // these also without FEDATTN_NETWORK_RUNS
	"loss=0%", "loss=1%", "loss=2%", "loss=10%", "reorder=25%", "loss=2%,reorder=25%,delay=20ms,rate=2500000",
}

const (
	fewCells     = 4
	mostAttempts = 40 // to have the network do something
)

// networkBench is a bench whose nodes are reached through a bad network each.
type networkBench struct {
	faultBench
	without map[string]string // what the asker says in gather, by who is missing, over a good network
}

// through puts a path before every node, also between nodes, and returns what is to be asked instead of them.
func (b *networkBench) through(t *testing.T, path shaper.Path, seed uint64) (list []*shaper.Proxy, address [3]string) {
	t.Helper()
	for i, a := range b.address {
		id, at, _ := strings.Cut(a, "@")
		p, err := shaper.Start("127.0.0.1:0", at, path, seed+uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		list, address[i] = append(list, p), id+"@"+p.Addr()
	}
	return list, address
}

// want is the answer of gather without some nodes.
func (b *networkBench) want(t *testing.T, missing []string) string {
	key := strings.Join(missing, ",")
	if answer, known := b.without[key]; known {
		return answer
	}
	var out []int
	for i, name := range faultNames {
		if slices.Contains(missing, name) {
			out = append(out, i)
		}
	}
	a, _, _ := b.ask(t, "gather", out...)
	b.without[key] = a.Answer
	return a.Answer
}

func TestBadNetworks(t *testing.T) {
	b := &networkBench{faultBench{workplace: newWorkplace(t)}, map[string]string{}}
	b.model = b.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext))
	for i := range b.nodes {
		b.startNode(i, "")
	}
	if b.want(t, nil) == b.want(t, []string{"shed"}) {
		t.Fatal("the answer does not depend on who takes part: nothing can be tested with it")
	}
	runs, seed := int(fromEnv(t, "FEDATTN_NETWORK_RUNS", 0)), uint64(fromEnv(t, "FEDATTN_FAULT_SEED", 1))
	cells := networkCells
	if runs == 0 {
		cells, runs = cells[:fewCells], 1
	}
	draw := rand.New(rand.NewPCG(seed, 6))
	n, failures, invalid, answers, whole := 0, 0, 0, 0, 0
	for _, cell := range cells {
		path, err := shaper.ParsePath(cell)
		if err != nil {
			t.Fatal(err)
		}
		for run := range runs {
			for _, regime := range []string{"gather", "lockstep"} {
				n++
				t.Run(fmt.Sprintf("%s/%s/%d", cell, regime, run), func(t *testing.T) {
					b.t = t
					valid := false
					for range mostAttempts {
						outcome := b.once(t, path, regime, draw.Uint64())
						if valid = outcome.valid; valid {
							answers += outcome.answers
							whole += outcome.whole
							break
						}
					}
					if !valid {
						invalid++
						t.Error("INVALID: the network did nothing")
					}
					if t.Failed() {
						failures++
					}
				})
			}
		}
	}
	commit, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	t.Logf("T6: N %d, seed %d, commit %s, failures %d, invalid %d, answers %d (%d of everybody), upper bound %.2g at 95 %%",
		n, seed, bytes.TrimSpace(commit), failures, invalid, answers, whole, 3/float64(n))
}

type networkOutcome struct {
	valid          bool
	answers, whole int
}

// once asks one question over a bad network.
func (b *networkBench) once(t *testing.T, path shaper.Path, regime string, seed uint64) (o networkOutcome) {
	proxies, address := b.through(t, path, seed)
	defer func() {
		for _, p := range proxies {
			p.Close()
		}
	}()
	if path.Down > 0 { // the session begins shortly before nothing passes, or while nothing does
		time.Sleep(path.Up - time.Duration(seed%1200)*time.Millisecond + 200*time.Millisecond)
	}
	args := []string{"ask", "--model", b.model, "--threads", "1", "--json", "--predict", "48", "--schedule", regime,
		"--temp", "3", "--seed", "7", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--config", "asker",
		"--setup-timeout", faultSetup.String(), "--timeout", faultTimeout.String(), "--wire", "f16"}
	for _, a := range address {
		args = append(args, "--peer", a)
	}
	c := b.command(append(args, "Where is the key?")...)
	var log bytes.Buffer
	c.Stderr = &log
	begin := time.Now()
	out, err := c.Output()
	took := time.Since(begin)
	faults := int64(0)
	for _, p := range proxies {
		faults += p.Counts().Faults()
	}
	o.valid = faults > 0 || path.String() == "clear"
	if limit := (faultSetup + faultTimeout) * 11 / 10; took > limit {
		t.Errorf("it took %v, at most %v are promised: %s", took, limit, &log)
	}
	if err != nil {
		if c.ProcessState.ExitCode() != exitFailure || !strings.Contains(log.String(), "fedattn: ") || len(out) > 0 {
			t.Errorf("neither an answer nor an error: %v, %q, %s", err, out, &log)
		}
		return o
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Errorf("%v in %s", err, out)
		return o
	}
	o.answers = 1
	names := missing(a)
	if len(names) == 0 {
		o.whole = 1
	}
	for i, p := range a.Federation.Peers {
		if p.Missing != nil && (p.Missing.Text == "" || !strings.Contains(log.String(), "missing: ")) {
			t.Errorf("nobody says why %s is missing: %s", faultNames[i], &log)
		}
	}
	if regime == "gather" {
		if want := b.want(t, names); a.Answer != want {
			t.Errorf("without %v it says %q, want %q", names, a.Answer, want)
		}
	}
	for i, node := range b.nodes {
		select {
		case <-node.ended:
			log, _ := os.ReadFile(b.path(faultNames[i] + ".log"))
			t.Fatalf("%s has ended: %s", faultNames[i], log)
		default:
		}
	}
	return o
}
