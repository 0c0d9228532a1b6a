package lab

import (
	"context"
	"errors"
	"fmt"
	"math"

	"fedattn/fedkv"
)

// Error propagation, layer by layer: how far what leaves a layer in a session is from what leaves it in one process.
// Start reading at Analyze, then Summarise.

// Deviation is ‖session − one process‖ / ‖one process‖ in Frobenius norms of the residual stream after each layer,
// [layer]; NaN where nobody of the group evaluates the layer.
type Deviation struct {
	Publisher, Contributors []float64
	// tokens of the contributors that evaluate a layer: some may stop earlier than others
	reach []int
}

// Analyze runs a case and compares what leaves every layer with base, one process's states of the same prompt.
func (b Bench) Analyze(ctx context.Context, c Case, base *States) (Deviation, error) {
	setting, err := c.Setting(len(b.Engine.Shape().Layers), b.Log)
	if err != nil {
		return Deviation{}, err
	}
	watching := newObserver(b.Engine, base)
	if _, err := Run(ctx, watching, b.Network, b.Self, base.prompt, setting); err != nil {
		return Deviation{}, err
	}
	return watching.deviation()
}

func (o *observer) deviation() (Deviation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var d Deviation
	for layer, segments := range o.sums {
		last := len(segments) - 1
		if segments[last].values != len(o.base.rows[layer][last]) {
			return d, fmt.Errorf("layer %d: the publisher showed %d of %d values", layer, segments[last].values, len(o.base.rows[layer][last]))
		}
		var contributors gauge
		for _, s := range segments[:last] {
			contributors = contributors.plus(s)
		}
		d.Publisher = append(d.Publisher, segments[last].relative())
		d.Contributors = append(d.Contributors, contributors.relative())
		d.reach = append(d.reach, contributors.values)
	}
	return d, nil
}

// relative is the deviation, or NaN without rows.
func (g gauge) relative() float64 {
	switch {
	case g.values == 0:
		return math.NaN()
	case g.difference == 0:
		return 0
	}
	return math.Sqrt(g.difference / g.base)
}

// Kinds of layers.
const (
	SyncLayer  = "sync"
	LocalLayer = "local"
)

func kindOf(s fedkv.Schedule, layer int) string {
	if s.Sync(layer) {
		return SyncLayer
	}
	return LocalLayer
}

// LayerDeviation is what happens at one layer, mean over windows. Growth is the deviation after the layer over the one
// before it: above 1 the layer adds error, below 1 it contracts it. Null: there is none to tell, since nobody
// evaluates the layer, or since nothing deviates before it.
type LayerDeviation struct {
	Layer                 int      `json:"layer"`
	Kind                  string   `json:"kind"` // for the publisher: sync or local
	DeviationPublisher    float64  `json:"deviation_publisher"`
	DeviationPublisherSE  *float64 `json:"deviation_publisher_se"` // standard error of the mean over windows
	Growth                *float64 `json:"growth"`
	KindContributors      string   `json:"kind_contributors"`
	DeviationContributors *float64 `json:"deviation_contributors"`
	GrowthContributors    *float64 `json:"growth_contributors"`
}

// Analysis is the error propagation of a case.
type Analysis struct {
	Case
	Windows         int              `json:"windows"`
	Tokens          int              `json:"tokens"`
	PublisherTokens int              `json:"publisher_tokens"`
	PrefixTokens    int              `json:"prefix_tokens"`
	Layers          []LayerDeviation `json:"layers"`
	Fits            []Fit            `json:"fits"`
}

// Summarise joins a case's deviations in several windows of a text.
func Summarise(c Case, p Prompt, windows []Deviation) (Analysis, error) {
	if len(windows) == 0 {
		return Analysis{}, errors.New("no windows to summarise")
	}
	layers := len(windows[0].Publisher)
	schedules, err := fedkv.ParseSchedules(fmt.Sprintf("contributors=%s;publisher=%s", c.Contributors, c.Publisher), layers)
	if err != nil {
		return Analysis{}, err
	}
	a := Analysis{
		Case: c, Windows: len(windows), Tokens: p.Tokens(), PublisherTokens: len(p.Own()), PrefixTokens: len(p.Prefix),
		Fits: []Fit{}, // none is a list too
	}
	a.Fits = append(a.Fits, fits(rolePublisher, schedules.Publisher, windows, Deviation.publisherStep)...)
	a.Fits = append(a.Fits, fits(roleContributors, schedules.Contributors, windows, Deviation.contributorsStep)...)
	for l := range layers {
		d := LayerDeviation{
			Layer: l, Kind: kindOf(schedules.Publisher, l), KindContributors: kindOf(schedules.Contributors, l),
			Growth: growth(l, windows, Deviation.publisherStep), GrowthContributors: growth(l, windows, Deviation.contributorsStep),
		}
		publisher := make([]float64, len(windows))
		contributors := 0.0
		for i, w := range windows {
			publisher[i] = w.Publisher[l]
			contributors += w.Contributors[l] / float64(len(windows))
		}
		d.DeviationPublisher, d.DeviationPublisherSE = meanAndError(publisher)
		d.DeviationContributors = finite(contributors)
		a.Layers = append(a.Layers, d)
	}
	return a, nil
}

// A layerStep is the deviations before and after a layer, of the same tokens; false if there are none. Before the first
// layer is the embedding, which is the same for everybody.
type layerStep func(d Deviation, layer int) (before, after float64, ok bool)

func (d Deviation) publisherStep(layer int) (before, after float64, ok bool) {
	if layer > 0 {
		before = d.Publisher[layer-1]
	}
	return before, d.Publisher[layer], true
}

func (d Deviation) contributorsStep(layer int) (before, after float64, ok bool) {
	if layer > 0 {
		before = d.Contributors[layer-1]
		ok = d.reach[layer] == d.reach[layer-1]
	} else {
		ok = true
	}
	return before, d.Contributors[layer], ok && d.reach[layer] > 0
}

// growth is a layer's mean deviation over the mean one before it.
func growth(layer int, windows []Deviation, at layerStep) *float64 {
	var before, after float64
	for _, w := range windows {
		b, a, ok := at(w, layer)
		if !ok {
			return nil
		}
		before, after = before+b, after+a
	}
	return finite(after / before)
}

// meanAndError is the mean and its standard error, which takes two values at least.
func meanAndError(values []float64) (mean float64, se *float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	if n < 2 {
		return mean, nil
	}
	squares := 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return mean, finite(math.Sqrt(squares / (n - 1) / n))
}

// finite is nil for what JSON and tables cannot show.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}
