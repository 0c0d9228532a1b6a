package node

import (
	"context"
	"slices"
	"time"

	"fedattn/fedkv"
)

// The self-test's texts: so many rows stand for a long text, and so many tokens for a prompt, fewer where it would take too
// long.
const (
	speedDepth  = 1024
	speedPrompt = 256
	speedSteps  = 5 // single tokens, of which the median counts
)

// MeasureSpeed times a few evaluations, for about budget: a prompt and single tokens, with nothing before them and behind a
// long text. The long text costs nothing, since rows of zeros are placed for it, as those of others would be.
func MeasureSpeed(ctx context.Context, engine Engine, budget time.Duration) (fedkv.Speed, error) {
	shape := engine.Shape()
	words, err := engine.Tokenize(fedkv.CanaryText)
	if err != nil {
		return fedkv.Speed{}, err
	}
	if len(words) == 0 {
		return fedkv.Speed{}, fedkv.Errorf(fedkv.CodeInternal, "the model makes no tokens of plain words")
	}
	for len(words) < speedPrompt {
		words = append(words, words...)
	}
	all, err := fedkv.ParseSchedule("all", len(shape.Layers))
	if err != nil {
		return fedkv.Speed{}, err
	}
	const own = speedPrompt + 2*speedSteps
	depth := speedDepth
	if trained := engine.Fingerprint().ContextTrain; trained > 0 {
		depth = min(depth, max(trained-own, 1))
	}
	cache, err := engine.Open(fedkv.CacheSpec{Sync: all, LocalCells: own, SyncCells: own + depth, MicroBatch: speedPrompt, Outputs: 1})
	if err != nil {
		return fedkv.Speed{}, err
	}
	defer cache.Close()
	defer interruptAfter(ctx, cache)()
	t := stopwatch{cache: cache, words: words, left: budget}

	// the first evaluation reads the weights from disk, which no later one does
	if err := t.evaluate(0, 1, false); err != nil {
		return fedkv.Speed{}, err
	}
	few := 16
	if err := t.prompt(0, few); err != nil {
		return fedkv.Speed{}, err
	}
	if err := t.singles(few); err != nil {
		return fedkv.Speed{}, err
	}
	perToken := t.last.Seconds() // of a single token, which is more than one of a prompt
	n := speedPrompt
	for n > 2*few && float64(n)*perToken/4 > t.left.Seconds()/2 {
		n /= 2
	}
	if err := t.prompt(0, n); err != nil {
		return fedkv.Speed{}, err
	}
	if err := cache.Truncate(0); err != nil {
		return fedkv.Speed{}, err
	}
	if err := placeZeros(cache, shape, depth); err != nil {
		return fedkv.Speed{}, err
	}
	if err := t.prompt(depth, max(few, n/2)); err != nil {
		return fedkv.Speed{}, err
	}
	if err := t.singles(depth + max(few, n/2)); err != nil {
		return fedkv.Speed{}, err
	}
	return fedkv.FitSpeed(shape, t.samples), nil
}

// placeZeros puts rows of zeros at positions [0, n) of all layers, behind which the next token goes.
func placeZeros(cache Cache, shape fedkv.Shape, n int) error {
	if err := cache.Reserve(0, n); err != nil {
		return err
	}
	at := fedkv.Span(0, n)
	for l, layer := range shape.Layers {
		k, v, err := layer.BlockSize(cacheTypes, n)
		if err != nil {
			return err
		}
		if err := cache.WriteRows(l, at, 0, cacheTypes, make([]byte, k+v)); err != nil {
			return err
		}
	}
	return cache.SetNext(n)
}

// stopwatch times evaluations.
type stopwatch struct {
	cache   Cache
	words   []fedkv.Token
	left    time.Duration
	last    time.Duration
	samples []fedkv.SpeedSample
}

func (t *stopwatch) evaluate(at, n int, counts bool) error {
	began := time.Now()
	if err := t.cache.Eval(t.words[:n], at, 1, nil); err != nil {
		return err
	}
	t.last = time.Since(began)
	t.left -= t.last
	if counts {
		t.samples = append(t.samples, fedkv.SpeedSample{Depth: at, Tokens: n, Seconds: t.last.Seconds()})
	}
	return nil
}

// prompt times n tokens behind depth others, which are rows of zeros or nothing.
func (t *stopwatch) prompt(depth, n int) error {
	if err := t.cache.Truncate(depth); err != nil {
		return err
	}
	if depth > 0 {
		if err := t.cache.SetNext(depth); err != nil {
			return err
		}
	}
	return t.evaluate(depth, n, true)
}

// singles times tokens one by one behind depth others, and keeps their median.
func (t *stopwatch) singles(depth int) error {
	var times []time.Duration
	for i := range speedSteps {
		if err := t.evaluate(depth+i, 1, false); err != nil {
			return err
		}
		times = append(times, t.last)
	}
	slices.Sort(times)
	t.last = times[len(times)/2]
	t.samples = append(t.samples, fedkv.SpeedSample{Depth: depth + speedSteps/2, Tokens: 1, Seconds: t.last.Seconds()})
	return nil
}
