//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/rowcache"
	"fedattn/llama"
)

const (
	warmNodes  = 3
	warmTokens = 48 // of each node's document in a test run
)

// A second question about unchanged documents is answered from rows that were kept, and its answer is that of a session
// in which nothing was kept. When one of the documents changes, what is computed again is the unit of kept rows: that
// document, or everything where one node holds them all. make bench-warm does it with the real model and documents of 512
// tokens, FEDATTN_WARM times, and prints the times to the first token.
func TestWarm(t *testing.T) {
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	pairs, tokens, path := 1, warmTokens, filepath.Join(t.TempDir(), "tiny.gguf")
	if n, err := strconv.Atoi(os.Getenv("FEDATTN_WARM")); err == nil && n > 0 {
		pairs, tokens, path = n, 512, modelPath(t)
	} else if err := os.WriteFile(path, tinyTransformer(tinyTemplate, 1, tinyContext), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := llama.Load(path, llama.ModelParams{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	engine := warmEngine(t, m)
	var ratios, colds, warms, changes, wholes []float64
	for pair := range pairs {
		first := fmt.Sprintf("What was repaired in week %d?", pair)
		second := fmt.Sprintf("And who did it, in week %d?", pair)
		var docs [][]fedkv.Token
		for i := range warmNodes {
			docs = append(docs, workshop(t, engine, i, tokens))
		}
		kept := newWarm(t, m, docs, true)
		before := kept.ask(first)
		warm := kept.ask(second)
		kept.docs[0].tokens = workshop(t, engine, warmNodes, tokens)
		changed := kept.ask(second)
		kept.close()
		fresh := newWarm(t, m, docs, false)
		cold := fresh.ask(second)
		fresh.close()
		one := newWarm(t, m, [][]fedkv.Token{slices.Concat(docs...)}, true)
		one.ask(first)
		one.docs[0].tokens = slices.Concat(append([][]fedkv.Token{kept.docs[0].tokens}, docs[1:]...)...)
		whole := one.ask(second)
		one.close()
		r, err := measure.Compare(cold.logits, warm.logits, m.Vocabulary(), []int32{0})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("pair %d: first token after %.2f s cold (first question %.2f s), %.2f s warm, ratio %.1f; KL of the warm answer against a fresh session %g",
			pair+1, cold.ttft, before.ttft, warm.ttft, cold.ttft/warm.ttft, r.KLMean)
		t.Logf("pair %d: with one document of three changed, %.2f s where each has a node, %.2f s where one node holds all",
			pair+1, changed.ttft, whole.ttft)
		if before.kept != 0 || warm.kept != warmNodes || cold.kept != 0 || changed.kept != warmNodes-1 || whole.kept != 0 {
			t.Errorf("rows of %d, %d, %d, %d and %d nodes had been kept", before.kept, warm.kept, cold.kept, changed.kept, whole.kept)
		}
		if !slices.Equal(cold.logits, warm.logits) {
			t.Errorf("the warm answer is another one: KL %g", r.KLMean)
		}
		ratios, colds, warms = append(ratios, cold.ttft/warm.ttft), append(colds, cold.ttft), append(warms, warm.ttft)
		changes, wholes = append(changes, changed.ttft), append(wholes, whole.ttft)
	}
	for _, list := range [][]float64{ratios, colds, warms, changes, wholes} {
		slices.Sort(list)
	}
	t.Logf("medians of %d: cold %.2f s, warm %.2f s, ratio %.1f; one document changed %.2f s, all of one node %.2f s",
		pairs, colds[pairs/2], warms[pairs/2], ratios[pairs/2], changes[pairs/2], wholes[pairs/2])
}

// warm is nodes with a document each, and an asker, over loopback. All have the model in common, and none of them has seen
// the prefix before.
type warm struct {
	t       *testing.T
	engine  *llama.Engine
	asker   node.Peers
	to      []node.Address
	docs    []*warmText
	stop    context.CancelFunc
	serving sync.WaitGroup
	hangUp  func()
	over    chan node.Contribution
}

// answered is what became of a question.
type answered struct {
	ttft   float64 // seconds
	logits []float32
	kept   int // nodes that had their rows
}

// warmText is a document that may change between questions.
type warmText struct{ tokens []fedkv.Token }

func (d *warmText) Segment(context.Context, fedkv.Plan) (fedkv.Text, error) {
	return fedkv.Text{Tokens: d.tokens}, nil
}

// warmEngine has seen no prefix yet.
func warmEngine(t *testing.T, m *llama.Model) *llama.Engine {
	t.Helper()
	engine, err := llama.NewEngine(m, fedkv.Digest(sha256.Sum256([]byte(m.Path()))))
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// newWarm has a node for each document.
func newWarm(t *testing.T, m *llama.Model, docs [][]fedkv.Token, keep bool) *warm {
	t.Helper()
	devices, hangUp, err := loopback(len(docs) + 1)
	if err != nil {
		t.Fatal(err)
	}
	engine := warmEngine(t, m)
	w := &warm{t: t, engine: engine, asker: devices[len(docs)].Peers, hangUp: hangUp, over: make(chan node.Contribution, len(docs))}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(t.Context())
	for i, d := range devices[:len(docs)] {
		doc := &warmText{docs[i]}
		w.docs = append(w.docs, doc)
		config := node.ContributorConfig{
			Engine: engine, Peers: d.Peers, Self: self(engine, fmt.Sprint("node ", i+1), fedkv.RoleContributor), ID: d.Address.ID,
			Source: doc, MaxContext: tinyContext, OnSession: func(c node.Contribution) { w.over <- c },
		}
		if keep {
			config.Rows = rowcache.Open(rowcache.Config{Memory: rowMemory})
		}
		c := node.NewContributor(config)
		w.serving.Go(func() { _ = c.Serve(ctx) })
		w.to = append(w.to, d.Address)
	}
	return w
}

// workshop is the log of one, in so many tokens.
func workshop(t *testing.T, e *llama.Engine, i, tokens int) []fedkv.Token {
	t.Helper()
	var text strings.Builder
	for day := range tokens {
		fmt.Fprintf(&text, "Day %d: bench %d repaired %d pumps and painted %d gates. ", day, i+1, (day*7+i)%13, (day*5+i*3)%11)
	}
	all, err := e.Tokenize(text.String())
	if err != nil {
		t.Fatal(err)
	}
	return all[:tokens]
}

// ask has the first token of an answer.
func (w *warm) ask(question string) (a answered) {
	w.t.Helper()
	frame, err := w.engine.Frame("You answer from the notes.")
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := w.engine.Tokenize(question)
	if err != nil {
		w.t.Fatal(err)
	}
	layers := w.engine.Layers()
	schedules, err := fedkv.ParseSchedules("gather", layers)
	if err != nil {
		w.t.Fatal(err)
	}
	q := node.Question{
		Engine: w.engine, Self: self(w.engine, "asker", fedkv.RolePublisher), ID: "asker",
		Prefix: frame.Prefix, Own: append(text, frame.Suffix...), Answer: 1, Schedules: schedules,
		Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, layers), Positions: fedkv.Canonical,
		MaxContext: tinyContext, Outputs: 1, SetupBy: time.Minute, GatherBy: 20 * time.Minute, RequireAll: true,
	}
	for _, to := range w.to {
		q.Contacts = append(q.Contacts, node.Contact{Dial: func(ctx context.Context) (node.Link, error) { return w.asker.Dial(ctx, to) }})
	}
	session, err := node.Ask(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	if a.logits, err = session.Logits(-1); err != nil {
		w.t.Fatal(err)
	}
	sampler, release, err := w.engine.Sampler(llama.Sampling{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer release()
	if _, err := session.Generate(w.t.Context(), sampler, 1, func([]byte) error { return nil }); err != nil {
		w.t.Fatal(err)
	}
	a.ttft = session.Report().TTFTMS / 1000
	if err := session.Close(); err != nil {
		w.t.Fatal(err)
	}
	for range w.to {
		if c := <-w.over; c.Kept {
			a.kept++
		}
	}
	return a
}

func (w *warm) close() {
	w.stop()
	w.serving.Wait()
	w.hangUp()
}
