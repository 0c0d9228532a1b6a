//go:build cgo

// Command hook shows what federated attention is made of, without a network: a contributor evaluates a note that the
// publisher never sees, the rows of the note leave through a layer hook and enter the publisher's cache through another,
// and the publisher answers from them.
//
//	go run ./llama/examples/hook models/SmolLM2-135M-Instruct.Q4_1.gguf
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"fedattn/fedkv"
	"fedattn/llama"
)

const (
	note     = "Notes of Ada:\nThe boiler room's door code is 4711. The boiler is serviced in May.\n\n"
	question = "What is the boiler room's door code?"

	answerTokens = 24
)

// Rows travel as the cache holds them here, so that nothing is lost. Other types are smaller.
var wire = fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: hook MODEL.gguf")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "hook:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, path string) error {
	model, err := llama.Load(path, llama.ModelParams{Threads: 1})
	if err != nil {
		return err
	}
	defer model.Close()

	// the stream: prefix, the contributor's note, the publisher's question
	frame, err := model.Frame("")
	if err != nil {
		return err
	}
	theirs, err := model.Tokenize(note)
	if err != nil {
		return err
	}
	ours, err := model.Tokenize(question)
	if err != nil {
		return err
	}
	prefix, ours := frame.Prefix, slices.Concat(ours, frame.Suffix)

	every, err := fedkv.ParseSchedule("all", model.Layers())
	if err != nil {
		return err
	}
	none, err := fedkv.ParseSchedule("none", model.Layers())
	if err != nil {
		return err
	}

	blocks, err := contribute(model, none, every, prefix, theirs)
	if err != nil {
		return err
	}
	bytes := 0
	for _, b := range blocks {
		bytes += len(b)
	}
	fmt.Fprintf(w, "note: %d tokens, left as %d blocks of rows, %d KiB\n", len(theirs), len(blocks), bytes>>10)

	for _, blocks := range [][][]byte{blocks, nil} {
		answer, placed, err := publish(model, every, prefix, ours, len(theirs), blocks)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "with the rows of %d layers: %s\n", placed, answer)
	}
	return nil
}

// contribute evaluates own behind the prefix and returns the rows of the layers that are sent, a block a layer. It needs
// rows of others at its sync layers.
func contribute(model *llama.Model, sync, sent fedkv.Schedule, prefix, own []fedkv.Token) ([][]byte, error) {
	cells := len(prefix) + len(own)
	ctx, err := model.NewContext(fedkv.CacheSpec{
		Sync: sync, LocalCells: cells, SyncCells: cells, MicroBatch: len(own), Outputs: 1,
	})
	if err != nil {
		return nil, err
	}
	defer ctx.Close()
	if err := ctx.Eval(prefix, 0, 0, nil); err != nil {
		return nil, err
	}
	var blocks [][]byte
	err = ctx.Eval(own, len(prefix), 0, &llama.Hook{
		Layers: sent,
		OnLayer: func(layer, first, n int) (stop bool, err error) {
			block, err := ctx.AppendRows(nil, layer, fedkv.Span(first, n), wire)
			blocks = append(blocks, block)
			return layer == sent.Last(), err // what comes behind the last rows is not needed
		},
	})
	return blocks, err
}

// publish evaluates own behind the prefix and n cells for another's tokens, whose rows are placed at each layer right
// before its attention looks at them, and decodes an answer. placed counts the layers that got rows.
func publish(model *llama.Model, sync fedkv.Schedule, prefix, own []fedkv.Token, n int, blocks [][]byte) (
	answer string, placed int, err error) {
	local := len(prefix) + len(own) + answerTokens
	ctx, err := model.NewContext(fedkv.CacheSpec{
		Sync: sync, LocalCells: local, SyncCells: local + n, MicroBatch: len(own), Outputs: 1,
	})
	if err != nil {
		return "", 0, err
	}
	defer ctx.Close()
	if err := ctx.Eval(prefix, 0, 0, nil); err != nil {
		return "", 0, err
	}
	if err := ctx.Reserve(len(prefix), n); err != nil {
		return "", 0, err
	}
	pos := len(prefix) + n
	if err := ctx.SetNext(pos); err != nil {
		return "", 0, err
	}
	err = ctx.Eval(own, pos, 1, &llama.Hook{
		Layers: sync,
		OnLayer: func(layer, _, _ int) (stop bool, err error) {
			if layer >= len(blocks) {
				return false, nil // cells without rows are not attended to
			}
			placed++
			return false, ctx.WriteRows(layer, fedkv.Span(len(prefix), n), 0, wire, blocks[layer])
		},
	})
	if err != nil {
		return "", 0, err
	}
	pos += len(own)

	sampler, err := model.NewSampler(llama.Sampling{}) // greedy
	if err != nil {
		return "", 0, err
	}
	defer sampler.Close()
	var text strings.Builder
	for range answerTokens {
		token, err := sampler.Next(ctx, -1)
		if err != nil {
			return "", 0, err
		}
		if model.EndsGeneration(token) {
			break
		}
		text.Write(model.Piece(token))
		if err := ctx.Eval([]fedkv.Token{token}, pos, 1, nil); err != nil {
			return "", 0, err
		}
		pos++
	}
	return text.String(), placed, nil
}
