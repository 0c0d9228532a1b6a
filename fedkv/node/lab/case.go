package lab

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
)

// Case is one combination to measure.
type Case struct {
	Name         string `json:"name,omitempty"`
	Participants int    `json:"participants"`
	Contributors string `json:"contributors"` // schedule
	Publisher    string `json:"publisher"`    // schedule
	WireK        string `json:"wire_k"`
	WireV        string `json:"wire_v"`
	Rows         string `json:"rows"` // which rows of a segment are sent
	Positions    string `json:"positions"`
	Seed         uint64 `json:"seed"` // of everything random in the session
}

// AllRows is the policy that sends every row of a segment.
const AllRows = "all"

// Line is a measured Case. The keys are those of llama-perplexity where it has one.
type Line struct {
	Case
	Tokens          int     `json:"tokens"`
	PublisherTokens int     `json:"publisher_tokens"`
	PrefixTokens    int     `json:"prefix_tokens"`
	KLDMean         float64 `json:"kld_mean"`
	KLDMeanSkip8    float64 `json:"kld_mean_skip8"`
	KLDMedian       float64 `json:"kld_median"`
	KLDP99          float64 `json:"kld_p99"`
	KLDMax          float64 `json:"kld_max"`
	SameTop         float64 `json:"same_top"`
	PPL             float64 `json:"ppl"`
	PPLBase         float64 `json:"ppl_base"`
	MaxAbsLogitDiff float64 `json:"max_abs_logit_diff"`
	KVBytes         int64   `json:"kv_bytes"`           // of rows that the publisher received
	KVBytesPerToken float64 `json:"kv_bytes_per_token"` // the same, for each of the contributors' tokens
	Seconds         float64 `json:"seconds"`
}

// Setting resolves a case for a model with the given number of layers.
func (c Case) Setting(layers int, log zerolog.Logger) (Setting, error) {
	schedules, err := c.schedules(layers)
	if err != nil {
		return Setting{}, err
	}
	if c.Rows != AllRows && c.Rows != "" {
		return Setting{}, fmt.Errorf("unknown rows %q; known are %s", c.Rows, AllRows)
	}
	types, err := fedkv.ParseWireTypes(c.WireK + "/" + c.WireV)
	if err != nil {
		return Setting{}, err
	}
	positions, err := fedkv.ParsePositions(c.Positions)
	if err != nil {
		return Setting{}, err
	}
	return Setting{Schedules: schedules, Types: types, Positions: positions, Timeout: sessionTimeout, Log: log}, nil
}

func (c Case) schedules(layers int) (fedkv.Schedules, error) {
	return fedkv.ParseSchedules(fmt.Sprintf("contributors=%s;publisher=%s", c.Contributors, c.Publisher), layers)
}

// sessionTimeout bounds one measured session; small devices evaluate long texts slowly.
const sessionTimeout = time.Hour

// Bench is what cases are measured on.
type Bench struct {
	Engine  Engine
	Network Network
	Self    fedkv.Hello
	Log     zerolog.Logger
}

// Run takes a prompt through the session that a case describes.
func (b Bench) Run(ctx context.Context, c Case, p Prompt) (Result, error) {
	setting, err := c.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return Result{}, err
	}
	return Run(ctx, b.Engine, b.Network, b.Self, p, setting)
}

// Measure runs a case and compares its logits with base, those of Centralised.
func (b Bench) Measure(ctx context.Context, c Case, p Prompt, base []float32) (Line, error) {
	result, err := b.Run(ctx, c, p)
	if err != nil {
		return Line{}, err
	}
	return b.Compare(c, p, base, result)
}

// Compare measures the result of a case's run against base, the logits of Centralised.
func (b Bench) Compare(c Case, p Prompt, base []float32, result Result) (Line, error) {
	line, err := b.compare(c, p, base, result.Logits)
	line.Seconds = result.Seconds
	line.KVBytes = result.Report.Received()
	if n := p.Tokens() - len(p.Prefix) - len(p.Own()); n > 0 {
		line.KVBytesPerToken = float64(line.KVBytes) / float64(n)
	}
	return line, err
}

func (b Bench) compare(c Case, p Prompt, base, run []float32) (Line, error) {
	r, err := measure.Compare(base, run, b.Engine.Vocabulary(), p.Own())
	return Line{
		Case: c, Tokens: p.Tokens(), PublisherTokens: len(p.Own()), PrefixTokens: len(p.Prefix),
		KLDMean: r.KLMean, KLDMeanSkip8: r.KLMeanSkip8, KLDMedian: r.KLMedian, KLDP99: r.KLP99, KLDMax: r.KLMax,
		SameTop: r.SameTop, PPL: r.PPL, PPLBase: r.PPLBase, MaxAbsLogitDiff: r.MaxLogitDelta,
	}, err
}

// Deviation is by which share the mean KL of a line differs from a reference.
func (l Line) Deviation(reference float64) float64 {
	if reference == 0 {
		if l.KLDMean == 0 {
			return 0
		}
		return math.Inf(1)
	}
	return l.KLDMean/reference - 1
}
