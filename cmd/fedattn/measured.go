package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/llama"
	"fedattn/transport"
)

// What was measured is kept below the cache folder, a small file for each device's speed with a model and for each path to
// a peer, so that a plan need not measure again. It can all be had again, and is thrown away with the folder.

// selfTest is how long measuring this device's speed takes, about.
const selfTest = 2 * time.Second

// measuredFile is where something that was measured is kept; empty if the system has no such place.
func measuredFile(kind, name string) string {
	dir := cacheDir()
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "measured", kind, name+".json")
}

// readMeasured is false if there is nothing, or nothing that can be read.
func readMeasured(file string, into any) bool {
	text, err := os.ReadFile(file)
	return err == nil && json.Unmarshal(text, into) == nil
}

func writeMeasured(file string, value any) error {
	if file == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writeWhole(file, func(w io.Writer) error { return json.NewEncoder(w).Encode(value) })
}

// speedFile is of a model's weights, evaluated with so many threads.
func speedFile(engine *llama.Engine) string {
	weights := engine.Fingerprint().Weights
	return measuredFile("speed", fmt.Sprintf("%s-%d", hex.EncodeToString(weights[:8]), engine.Threads()))
}

// knownSpeed is this device's speed with the model, if it was measured before.
func knownSpeed(engine *llama.Engine) (s fedkv.Speed, known bool) {
	if !readMeasured(speedFile(engine), &s) || !plausible(s) {
		return fedkv.Speed{}, false
	}
	return s, true
}

// plausible refuses figures that a file may hold and no device has.
func plausible(s fedkv.Speed) bool {
	for _, v := range []float64{s.Call, s.Token, s.Pair, s.Step, s.StepPair, s.Take, s.Place, s.Watts} {
		if !(v >= 0) || v > 1e6 {
			return false
		}
	}
	return s.Known()
}

// ownSpeed is this device's speed with the model, measured unless it was before.
func ownSpeed(c *cli.Context, engine *llama.Engine, again bool) (fedkv.Speed, error) {
	if s, known := knownSpeed(engine); known && !again {
		return s, nil
	}
	fmt.Fprintf(c.App.ErrWriter, "measuring this device for about %v\n", selfTest)
	s, err := node.MeasureSpeed(c.Context, engine, selfTest)
	if err != nil {
		return s, fmt.Errorf("this device's speed: %s", engineText(err))
	}
	if !s.Known() {
		return s, errors.New("this device's speed cannot be measured: say it with --device self,prefill=N,decode=N")
	}
	return s, writeMeasured(speedFile(engine), s)
}

// measuredPath is what was measured of the way to a peer, and what its last session told of it.
type measuredPath struct {
	RTTMS float64 `json:"rtt_ms"`
	From  float64 `json:"bits_per_second_from"`
	To    float64 `json:"bits_per_second_to"`

	Tokens    int     `json:"tokens,omitempty"`     // of its text, with Weights' model
	PrefillMS float64 `json:"prefill_ms,omitempty"` // until they were computed
	Weights   string  `json:"weights,omitempty"`
	Home      bool    `json:"home,omitempty"` // its rows may not leave it
}

func (m measuredPath) way() fedkv.Way {
	return fedkv.Way{RTT: time.Duration(m.RTTMS * float64(time.Millisecond)), Up: m.From / 8, Down: m.To / 8}
}

func pathFile(id transport.ID) string { return measuredFile("path", string(id)) }

// knownPath is what was measured of the way to a peer before, if anything was.
func knownPath(id transport.ID) (m measuredPath, known bool) {
	if !readMeasured(pathFile(id), &m) {
		return measuredPath{}, false
	}
	for _, v := range []float64{m.RTTMS, m.From, m.To, m.PrefillMS, float64(m.Tokens)} {
		if !(v >= 0) || math.IsInf(v, 0) {
			return measuredPath{}, false
		}
	}
	return m, m.From > 0 && m.To > 0 && m.Tokens <= fedkv.MaxTokens
}

// measurePath connects to a peer and measures the way there; what its sessions told stays.
func measurePath(ctx context.Context, l lookout, to transport.PeerAddress) (m measuredPath, err error) {
	m, _ = knownPath(to.ID)
	link, err := l.reach(ctx, to)
	if err != nil {
		return m, err
	}
	defer link.Close(0, "")
	best := time.Duration(math.MaxInt64)
	for range 3 {
		rtt, err := echo(ctx, link)
		if err != nil {
			return m, err
		}
		best = min(best, rtt)
	}
	r, err := measureLink(ctx, link)
	if gone := link.Err(); err != nil && gone != nil {
		err = gone
	}
	if err != nil {
		return m, fmt.Errorf("its link cannot be measured: %w; say it with --device NAME,rtt=…,rate=…", err)
	}
	m.RTTMS, m.From, m.To = milliseconds(best), r.From, r.To
	return m, writeMeasured(pathFile(to.ID), m)
}
