package lab

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"regexp"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node"
)

// Case is one combination to measure.
type Case struct {
	Name         string `json:"name"` // empty unless the case is one of the named ones
	Participants int    `json:"participants"`
	Contributors string `json:"contributors"` // schedule
	Publisher    string `json:"publisher"`    // schedule
	WireK        string `json:"wire_k"`       // such as q8_0, or q4_0,0-2=q8_0 with other types at some layers
	WireV        string `json:"wire_v"`
	Rows         string `json:"rows"`       // which rows of a segment are sent; empty: all
	LocalRows    string `json:"local_rows"` // which rows of a segment its own tokens attend to at local layers; empty: all
	Positions    string `json:"positions"`
	Home         string `json:"home,omitempty"` // f16 or q8_0: rows stay where they are, and queries travel so; empty: rows are sent
	Seed         uint64 `json:"seed"`           // of everything random in the session
}

// Names of the cases between which all others lie.
const (
	CentralisedName = "centralised" // one process evaluates everything
	LocalOnlyName   = "local-only"  // nobody attends to anybody: the publisher knows the prefix and its own segment
)

// AllRows is the policy that sends every row of a segment.
const AllRows = "all"

// centralisedCase describes the one process as if it were a session of its publisher alone.
func centralisedCase(seed uint64) Case {
	return Case{
		Name: CentralisedName, Participants: 1, Contributors: "none", Publisher: "none", WireK: "f16", WireV: "f16",
		Rows: AllRows, LocalRows: AllRows, Positions: "inplace", Seed: seed,
	}
}

// LocalOnly is the session in which the publisher gets nothing.
func LocalOnly(participants int, seed uint64) Case {
	return Case{
		Name: LocalOnlyName, Participants: participants, Contributors: "none", Publisher: "none",
		WireK: "f16", WireV: "f16", Rows: AllRows, LocalRows: AllRows, Positions: "canonical", Seed: seed,
	}
}

// Line is a measured Case: what measure.Result says of its windows, and what the sessions took. Bytes are those of
// rows, without headers, and like the seconds they are means over the windows. The keys are those of llama-perplexity
// where it has one.
type Line struct {
	Case
	Windows         int     `json:"windows"`
	Tokens          int     `json:"tokens"` // of one window
	PublisherTokens int     `json:"publisher_tokens"`
	PrefixTokens    int     `json:"prefix_tokens"`
	KLDMean         float64 `json:"kld_mean"`
	KLDMeanSE       float64 `json:"kld_mean_se"`
	KLDMeanSkip8    float64 `json:"kld_mean_skip8"`
	KLDMeanSkip8SE  float64 `json:"kld_mean_skip8_se"`
	KLDMedian       float64 `json:"kld_median"`
	KLDP99          float64 `json:"kld_p99"`
	KLDMax          float64 `json:"kld_max"`
	SameTop         float64 `json:"same_top"`
	SameTopSE       float64 `json:"same_top_se"`
	PPL             float64 `json:"ppl"`
	PPLSE           float64 `json:"ppl_se"`
	PPLBase         float64 `json:"ppl_base"`
	MaxAbsLogitDiff float64 `json:"max_abs_logit_diff"`
	Traffic
	Seconds float64 `json:"seconds"`
}

// Traffic is what a session moves and how often it waits.
type Traffic struct {
	KVBytes          int64   `json:"kv_bytes"`                    // every copy on every link, those between contributors included
	HomeBytes        int64   `json:"home_bytes,omitempty"`        // of queries and their answers, if rows stay home
	KVBytesPublisher int64   `json:"kv_bytes_publisher"`          // of these, what the publisher received
	KVBytesPerToken  float64 `json:"kv_bytes_received_per_token"` // the same for each of the contributors' tokens
	Barriers         int     `json:"barriers"`                    // see fedkv.Schedules.Barriers
}

// Setting resolves a case for a model with the given number of layers.
func (c Case) Setting(layers int, log zerolog.Logger) (Setting, error) {
	schedules, err := c.schedules(layers)
	if err != nil {
		return Setting{}, err
	}
	wire, err := c.wire(layers)
	if err != nil {
		return Setting{}, err
	}
	rows, err := fedkv.ParseRowPolicy(cmp.Or(c.Rows, AllRows))
	if err != nil {
		return Setting{}, err
	}
	local, err := fedkv.ParseLocalRows(cmp.Or(c.LocalRows, AllRows))
	if err != nil {
		return Setting{}, err
	}
	rows.Seed, local.Seed = c.Seed, c.Seed
	positions, err := fedkv.ParsePositions(c.Positions)
	if err != nil {
		return Setting{}, err
	}
	home := fedkv.Type(0)
	if c.Home != "" {
		if home, err = fedkv.ParseHome(c.Home); err != nil {
			return Setting{}, err
		}
	}
	return Setting{
		Schedules: schedules, Wire: wire, Rows: rows, LocalRows: local, Positions: positions, Home: home, Timeout: sessionTimeout, Log: log,
	}, nil
}

func (c Case) schedules(layers int) (fedkv.Schedules, error) {
	return fedkv.ParseSchedules(fmt.Sprintf("contributors=%s;publisher=%s", c.Contributors, c.Publisher), layers)
}

// wire puts the types of K and of V together, each of which may have exceptions for some layers.
func (c Case) wire(layers int) (fedkv.Wire, error) {
	k, err := fedkv.ParseWire(c.WireK, layers)
	if err != nil {
		return fedkv.Wire{}, err
	}
	v, err := fedkv.ParseWire(c.WireV, layers)
	if err != nil {
		return fedkv.Wire{}, err
	}
	for l := range layers {
		k = k.With(l, fedkv.WireTypes{K: k.At(l).K, V: v.At(l).V})
	}
	return k, nil
}

// twice is one name for both K and V, as Wire writes it where they are equal.
var twice = regexp.MustCompile(`([^,=/]+)/[^,=/]+`)

// WireNames are the types of K and of V as a Case has them.
func WireNames(w fedkv.Wire) (k, v string) {
	ofK, ofV := w, w
	for l := range w.Len() {
		t := w.At(l)
		ofK, ofV = ofK.With(l, fedkv.WireTypes{K: t.K, V: t.K}), ofV.With(l, fedkv.WireTypes{K: t.V, V: t.V})
	}
	return twice.ReplaceAllString(ofK.String(), "$1"), twice.ReplaceAllString(ofV.String(), "$1")
}

// sessionTimeout bounds one measured session; small devices evaluate long texts slowly.
const sessionTimeout = time.Hour

// Bench is what cases are measured on.
type Bench struct {
	Engine Engine
	// Contributors is their engine, if it is another one, see Setting.
	Contributors node.Engine
	Network      Network
	Self         fedkv.Hello
	Log          zerolog.Logger
}

// Run takes a prompt through the session that a case describes.
func (b Bench) Run(ctx context.Context, c Case, p Prompt) (Result, error) {
	setting, err := c.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return Result{}, err
	}
	setting.Contributors = b.Contributors
	return Run(ctx, b.Engine, b.Network, b.Self, p, setting)
}

// Window is a stretch of text, shared out, with what one process makes of it.
type Window struct {
	Prompt Prompt
	Base   []float32 // Centralised's logits of the publisher's segment, [own tokens][vocabulary]
}

// Measured is a case after its runs.
type Measured struct {
	Line
	Series []measure.Series // one for each window
	Logits []float32        // the publisher's of the last window, [own tokens][vocabulary]
}

// Measure runs a case on one window and compares its logits with base, those of Centralised.
func (b Bench) Measure(ctx context.Context, c Case, p Prompt, base []float32) (Line, error) {
	m, err := b.MeasureWindows(ctx, c, []Window{{p, base}})
	return m.Line, err
}

// MeasureWindows runs a case on at least one window, all of them cut alike.
func (b Bench) MeasureWindows(ctx context.Context, c Case, windows []Window) (Measured, error) {
	var m Measured
	var runs []Result
	for _, w := range windows {
		result, err := b.Run(ctx, c, w.Prompt)
		if err != nil {
			return Measured{}, err
		}
		series, err := measure.Each(w.Base, result.Logits, b.Engine.Vocabulary(), w.Prompt.Own())
		if err != nil {
			return Measured{}, err
		}
		m.Logits, result.Logits = result.Logits, nil // one window's logits are enough to hold
		m.Series, runs = append(m.Series, series), append(runs, result)
	}
	m.Line = newLine(c, windows[0].Prompt, measure.Pool(m.Series...))
	tokens := 0
	for _, w := range windows {
		tokens += w.Prompt.Contributed()
	}
	m.Traffic, m.Seconds = traffic(runs, tokens)
	schedules, err := c.schedules(len(b.Engine.Shape().Layers))
	m.Barriers = schedules.Barriers(len(windows[0].Prompt.Segments))
	if c.Home != "" {
		m.Barriers = runs[0].Report.Home.Rounds // each is a round trip
	}
	return m, err
}

// Centralised is the line of the one process that windows are compared with; seconds is its mean time.
func (b Bench) Centralised(windows []Window, seed uint64, seconds float64) (Line, error) {
	var series []measure.Series
	for _, w := range windows {
		s, err := measure.Each(w.Base, w.Base, b.Engine.Vocabulary(), w.Prompt.Own())
		if err != nil {
			return Line{}, err
		}
		series = append(series, s)
	}
	line := newLine(centralisedCase(seed), windows[0].Prompt, measure.Pool(series...))
	line.Seconds = seconds
	return line, nil
}

// traffic is the mean of some runs' traffic, of which the contributors had tokens in all.
func traffic(runs []Result, tokens int) (t Traffic, seconds float64) {
	var received, sent, home int64
	for _, r := range runs {
		sent += r.Sent
		received += r.Report.Received()
		home += r.Report.Home.Sent + r.Report.Home.Received
		seconds += r.Seconds
	}
	n := float64(len(runs))
	t.KVBytes, t.KVBytesPublisher = int64(math.Round(float64(sent)/n)), int64(math.Round(float64(received)/n))
	t.HomeBytes = int64(math.Round(float64(home) / n))
	if tokens > 0 {
		t.KVBytesPerToken = float64(received) / float64(tokens)
	}
	return t, seconds / n
}

// compare is the line of a single run against another one.
func (b Bench) compare(c Case, p Prompt, base, run []float32) (Line, error) {
	r, err := measure.Compare(base, run, b.Engine.Vocabulary(), p.Own())
	return newLine(c, p, r), err
}

func newLine(c Case, p Prompt, r measure.Result) Line {
	return Line{
		Case: c, Windows: r.Windows, Tokens: p.Tokens(), PublisherTokens: len(p.Own()), PrefixTokens: len(p.Prefix),
		KLDMean: r.KLMean, KLDMeanSE: r.KLMeanSE, KLDMeanSkip8: r.KLMeanSkip8, KLDMeanSkip8SE: r.KLMeanSkip8SE,
		KLDMedian: r.KLMedian, KLDP99: r.KLP99, KLDMax: r.KLMax, SameTop: r.SameTop, SameTopSE: r.SameTopSE,
		PPL: r.PPL, PPLSE: r.PPLSE, PPLBase: r.PPLBase, MaxAbsLogitDiff: r.MaxLogitDelta,
	}
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
