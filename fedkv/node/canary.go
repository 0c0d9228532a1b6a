package node

import (
	"fmt"

	"fedattn/fedkv"
)

// Canary evaluates the public tokens of fedkv.CanaryText, so that others can tell whether this engine computes what
// theirs do. It is for a model that was just loaded; nothing of it changes later. Values that are not finite are an error
// of code value.
func Canary(e Engine) (fedkv.Canary, error) {
	tokens, err := e.Tokenize(fedkv.CanaryText)
	if err != nil {
		return nil, err
	}
	tokens = tokens[:min(len(tokens), fedkv.CanaryTokens)]
	shape, n := e.Shape(), len(tokens)
	every, err := fedkv.ParseSchedule("all", len(shape.Layers))
	if err != nil {
		return nil, err
	}
	cache, err := e.Open(fedkv.CacheSpec{Sync: every, LocalCells: n, SyncCells: n, MicroBatch: n, Outputs: 1})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	at := fedkv.CanaryFirst(e.Fingerprint().ContextTrain)
	if at > 0 {
		if err := cache.SetNext(at); err != nil {
			return nil, err
		}
	}
	if err := cache.Eval(tokens, at, 1, nil); err != nil {
		return nil, err
	}
	last := []int32{int32(at + n - 1)}
	var canary fedkv.Canary
	add := func(what string, vector []float32) {
		if err == nil {
			if canary, err = canary.Append(vector); err != nil {
				err = fedkv.Errorf(fedkv.CodeValue, "%s of a few public words: %v; check the model file and this device's memory", what, err)
			}
		}
	}
	for _, layer := range fedkv.CanaryLayers(len(shape.Layers)) {
		row := shape.Layers[layer]
		bytes, failed := cache.AppendRows(nil, layer, last, fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16})
		if failed != nil {
			return nil, failed
		}
		values := make([]float32, row.K+row.V)
		if err := fedkv.F16.DecodeRow(values, bytes); err != nil {
			return nil, err
		}
		add(fmt.Sprintf("the K row of layer %d", layer), values[:row.K])
		add(fmt.Sprintf("the V row of layer %d", layer), values[row.K:])
	}
	logits, failed := cache.Logits(-1)
	if failed != nil {
		return nil, failed
	}
	add("the logits", logits)
	return canary, err
}
