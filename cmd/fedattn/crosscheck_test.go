package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node/lab"
	"fedattn/llama"
	"fedattn/models"
)

// Sessions are held to a numpy forward pass with explicit masks, which shares no code with fedattn or llama.cpp. What it
// computed lies in fedkv/testdata/crosscheck; its README says how.

// Mean KL(numpy ‖ fedattn) in nats that a session may have. With float32 weights little but rounding to f16 differs, of
// rows and of attention's sums; with quantised weights llama.cpp also rounds activations to eight bits, and numpy does
// not.
const (
	crosscheckTinyLimit  = 1e-5
	crosscheckModelLimit = 0.006
)

// crosscheck is a token stream, and what numpy says of it.
type crosscheck struct {
	ModelSHA256 string `json:"model_sha256"`
	Tokens      []fedkv.Token
	Bounds      []int // prefix length, starts of segments 2 to N, length of all
	Seed        uint64
	Schedules   []crosscheckCase
	engine      *llama.Engine
	bench       lab.Bench
}

// crosscheckCase is one that numpy computed.
type crosscheckCase struct {
	Name                    string
	Contributors, Publisher []int  // sync layers
	LocalRows               string `json:"local_rows"`
}

func (c crosscheckCase) String() string { return c.Name + ", local rows " + c.LocalRows }

// newCrosscheck loads the stream of this name, and the model file that its vectors were computed with.
func newCrosscheck(t *testing.T, name, model string) *crosscheck {
	t.Helper()
	var c crosscheck
	content, err := os.ReadFile(crosscheckFile(name + ".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Schedules) != 9 || len(c.Bounds) < 4 || c.Bounds[len(c.Bounds)-1] != len(c.Tokens) {
		t.Fatalf("%s.json has %d schedules, and bounds %v for %d tokens", name, len(c.Schedules), c.Bounds, len(c.Tokens))
	}
	digest, err := models.Digest(t.Context(), model, "")
	if err != nil {
		t.Fatal(err)
	}
	if digest.String() != c.ModelSHA256 {
		t.Fatalf("the vectors of %s are of the model %s, this one is %s", name, c.ModelSHA256, digest)
	}
	m, err := llama.Load(model, llama.ModelParams{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if c.engine, err = llama.NewEngine(m, digest); err != nil {
		t.Fatal(err)
	}
	c.bench = lab.Bench{Engine: c.engine, Network: lab.Memory, Self: self(c.engine, "lab", fedkv.RolePublisher), Log: zerolog.Nop()}
	return &c
}

func crosscheckFile(name string) string {
	return filepath.Join("..", "..", "fedkv", "testdata", "crosscheck", name)
}

func (c *crosscheck) prompt() lab.Prompt {
	p := lab.Prompt{Prefix: c.Tokens[:c.Bounds[0]]}
	for i, start := range c.Bounds[:len(c.Bounds)-1] {
		p.Segments = append(p.Segments, c.Tokens[start:c.Bounds[i+1]])
	}
	return p
}

// schedules of a case; numpy wrote down the layers that it meant by the name.
func (c *crosscheck) schedules(t *testing.T, i int) fedkv.Schedules {
	t.Helper()
	layers := len(c.engine.Shape().Layers)
	want := c.Schedules[i]
	s, err := fedkv.ParseSchedules(want.Name, layers)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Contributors.Layers(), want.Contributors) || !slices.Equal(s.Publisher.Layers(), want.Publisher) {
		t.Fatalf("%s means layers %v and %v of %d, to numpy %v and %v", want.Name, s.Contributors.Layers(), s.Publisher.Layers(),
			layers, want.Contributors, want.Publisher)
	}
	return s
}

// run takes the stream through a session and returns the publisher's logits, [own tokens][vocabulary].
func (c *crosscheck) run(t *testing.T, s fedkv.Schedules, localRows string) []float32 {
	t.Helper()
	r, err := c.bench.Run(t.Context(), lab.Case{
		Participants: len(c.Bounds) - 1, Contributors: s.Contributors.String(), Publisher: s.Publisher.String(),
		WireK: "f16", WireV: "f16", Rows: lab.AllRows, LocalRows: localRows, Positions: "inplace", Seed: c.Seed,
	}, c.prompt())
	if err != nil {
		t.Fatalf("%v: %v", s, err)
	}
	return r.Logits
}

// TestCrosscheckTiny holds every schedule to numpy, and shows that a wrong one does not pass: neither another of the
// list nor one that is off by a single layer.
func TestCrosscheckTiny(t *testing.T) {
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	model := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(model, crosscheckModel(), 0o666); err != nil {
		t.Fatal(err)
	}
	c := newCrosscheck(t, "tiny", model)
	own := c.prompt().Own()
	shape, values := readNPY[float32](t, crosscheckFile("tiny.npy"))
	if !slices.Equal(shape, []int{len(c.Schedules), len(own), c.engine.Vocabulary()}) {
		t.Fatalf("tiny.npy has shape %v", shape)
	}
	vectors := slices.Collect(slices.Chunk(values, len(own)*c.engine.Vocabulary()))
	kl := func(schedule int, run []float32) float64 {
		t.Helper()
		r, err := measure.Compare(vectors[schedule], run, c.engine.Vocabulary(), own)
		if err != nil {
			t.Fatal(err)
		}
		return r.KLMean
	}
	const wrong = 5 * crosscheckTinyLimit // a wrong mask costs more, be it wrong at one layer only

	for i, want := range c.Schedules {
		s := c.schedules(t, i)
		run := c.run(t, s, want.LocalRows)
		for j, other := range c.Schedules {
			got := kl(j, run)
			if i != j {
				if !(got > wrong) {
					t.Errorf("%v passes for %v: mean KL %g", want, other, got)
				}
				continue
			}
			t.Logf("%v: mean KL %.2g", want, got)
			if !(got <= crosscheckTinyLimit) {
				t.Errorf("%v: mean KL %g, at most %g", want, got, crosscheckTinyLimit)
			}
		}
		for layer := range s.Publisher.Len() {
			off := s
			off.Publisher = flipped(t, s.Publisher, layer)
			if got := kl(i, c.run(t, off, want.LocalRows)); !(got > wrong) {
				t.Errorf("%v with the publisher's layer %d wrong: mean KL %g", want, layer, got)
			}
			if layer >= s.Publisher.Last() {
				continue // the publisher receives nothing that depends on it
			}
			off = s
			off.Contributors = flipped(t, s.Contributors, layer)
			if got := kl(i, c.run(t, off, want.LocalRows)); !(got > wrong) {
				t.Errorf("%v with the contributors' layer %d wrong: mean KL %g", want, layer, got)
			}
		}
	}

	// rows that stay home are the rows that gather sends: the same mask, and no more than the rounding of queries to q8_0
	// or f16 between them
	for i, want := range c.Schedules {
		if want.Name != "gather" {
			continue
		}
		r, err := c.bench.Run(t.Context(), lab.Case{
			Participants: len(c.Bounds) - 1, Contributors: "none", Publisher: "all", WireK: "f16", WireV: "f16", Rows: lab.AllRows,
			Positions: "inplace", Home: "f16",
		}, c.prompt())
		if err != nil {
			t.Fatal(err)
		}
		got := kl(i, r.Logits)
		t.Logf("home: mean KL %.2g", got)
		if !(got <= crosscheckTinyLimit) {
			t.Errorf("home: mean KL %g to gather, at most %g", got, crosscheckTinyLimit)
		}
	}

	for _, sameBatches := range []bool{true, false} {
		one, err := lab.Centralised(t.Context(), c.engine, c.prompt(), sameBatches)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range c.Schedules {
			if got := kl(i, one); (want.Name == "all") != (got <= crosscheckTinyLimit) {
				t.Errorf("one process (same batches: %v) against %v: mean KL %g", sameBatches, want, got)
			}
		}
	}
}

// flipped is a schedule with a layer that syncs made local, or the other way round.
func flipped(t *testing.T, s fedkv.Schedule, layer int) fedkv.Schedule {
	t.Helper()
	layers := slices.DeleteFunc(s.Layers(), func(l int) bool { return l == layer })
	if len(layers) == s.Count() {
		layers = append(layers, layer)
	}
	out, err := fedkv.NewSchedule(s.Len(), layers...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCrosscheckModel does the same with a real quantised model. Only the most likely tokens' probabilities are
// committed, so what is measured is the KL divergence between distributions in which all other tokens count as one: a
// lower bound of the true one. `make crosscheck` measures that.
func TestCrosscheckModel(t *testing.T) {
	if testing.Short() {
		t.Skip("evaluates the real model")
	}
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	c := newCrosscheck(t, "smollm2", modelPath(t))
	own := len(c.prompt().Own())
	topShape, top := readNPY[int32](t, crosscheckFile("smollm2-top.npy"))
	shape, logprobs := readNPY[float32](t, crosscheckFile("smollm2-logprobs.npy"))
	if !slices.Equal(shape, topShape) || len(shape) != 3 || shape[0] != len(c.Schedules) || shape[1] != own {
		t.Fatalf("smollm2-top.npy and smollm2-logprobs.npy have shapes %v and %v", topShape, shape)
	}
	per := shape[1] * shape[2]
	for i, want := range c.Schedules {
		var run [][]float64 // next-token probabilities
		for logits := range slices.Chunk(c.run(t, c.schedules(t, i), want.LocalRows), c.engine.Vocabulary()) {
			run = append(run, softmax(logits))
		}
		nearest := math.Inf(1)
		for j, other := range c.Schedules {
			got := partitionKL(run, top[j*per:(j+1)*per], logprobs[j*per:(j+1)*per])
			if i == j {
				t.Logf("%v: mean KL %.2g", want, got)
				if !(got <= crosscheckModelLimit) {
					t.Errorf("%v: mean KL %g, at most %g", want, got, crosscheckModelLimit)
				}
				continue
			}
			nearest = min(nearest, got)
			if !(got > crosscheckModelLimit) {
				t.Errorf("%v passes for %v: mean KL %g", want, other, got)
			}
		}
		t.Logf("%v: mean KL from the nearest other schedule %.2g", want, nearest)
	}
}

// partitionKL is the mean KL divergence from the distribution that gives the tokens top, [len(run)][k], these
// log-probabilities, to the one with run's probabilities, [tokens][vocabulary]; all other tokens are one event.
func partitionKL(run [][]float64, top []int32, logprobs []float32) float64 {
	k := len(top) / len(run)
	total := 0.0
	for i, q := range run {
		restP, restQ := 1.0, 1.0
		for n := i * k; n < (i+1)*k; n++ {
			logP, probQ := float64(logprobs[n]), q[top[n]]
			p := math.Exp(logP)
			total += p * (logP - math.Log(probQ))
			restP -= p
			restQ -= probQ
		}
		total += restP * math.Log(restP/restQ)
	}
	return total / float64(len(run))
}

func softmax(logits []float32) []float64 {
	largest, sum := float64(slices.Max(logits)), 0.0
	p := make([]float64, len(logits))
	for i, x := range logits {
		p[i] = math.Exp(float64(x) - largest)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func TestPartitionKL(t *testing.T) {
	log := func(p float64) float32 { return float32(math.Log(p)) }
	run := [][]float64{softmax([]float32{log(0.5), log(0.25), log(0.125), log(0.125)})}
	if got := partitionKL(run, []int32{1, 0}, []float32{log(0.25), log(0.5)}); math.Abs(got) > 1e-7 {
		t.Errorf("of a distribution from itself: %g", got)
	}
	// the rest has 1/2 here and 1/4 there
	want := 0.25*math.Log(0.25/0.5) + 0.5*math.Log(0.5/0.25) // the second token is as likely in both
	if got := partitionKL(run, []int32{0, 1}, []float32{log(0.25), log(0.25)}); math.Abs(got-want) > 1e-7 {
		t.Errorf("got %g, want %g", got, want)
	}
}

var npyHeader = regexp.MustCompile(`^\{'descr': '<(..)', 'fortran_order': False, 'shape': \(([0-9, ]+)\), \} *\n$`)

// readNPY reads an array from a file in NumPy's format, version 1.0.
func readNPY[T float32 | int32](t *testing.T, path string) (shape []int, values []T) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const before = 10 // magic number, version, length of the header
	if len(content) < before || string(content[:8]) != "\x93NUMPY\x01\x00" {
		t.Fatalf("%s is not of NumPy's format 1.0", path)
	}
	end := before + int(binary.LittleEndian.Uint16(content[8:]))
	header := npyHeader.FindSubmatch(content[before:min(end, len(content))])
	var zero T
	if header == nil || string(header[1]) != map[any]string{float32(0): "f4", int32(0): "i4"}[zero] {
		t.Fatalf("%s is no array of %T: %q", path, zero, content[before:min(end, len(content))])
	}
	n := 1
	for field := range strings.SplitSeq(string(header[2]), ",") {
		d, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		shape, n = append(shape, d), n*d
	}
	values = make([]T, n)
	if err := binary.Read(bytes.NewReader(content[end:]), binary.LittleEndian, values); err != nil || len(content) != end+4*n {
		t.Fatalf("%s has %d bytes after its header, for shape %v: %v", path, len(content)-end, shape, err)
	}
	return shape, values
}

// crosscheckModel is the file that fedkv/testdata/crosscheck/tiny.py writes: the same bytes.
func crosscheckModel() []byte {
	const layers, width, heads, kvHeads, headSize, hidden = 6, 64, 4, 2, 32, 96
	const seed, spread = 20, 0.25
	g := newGGUF("llama")
	g.number("llama.context_length", 2048)
	g.number("llama.embedding_length", width)
	g.number("llama.block_count", layers)
	g.number("llama.feed_forward_length", hidden)
	g.number("llama.attention.head_count", heads)
	g.number("llama.attention.head_count_kv", kvHeads)
	g.number("llama.attention.key_length", headSize)
	g.number("llama.attention.value_length", headSize)
	g.number("llama.rope.dimension_count", headSize)
	g.fraction("llama.attention.layer_norm_rms_epsilon", 1e-5)
	tokens := g.byteVocabulary()
	tensor := func(name string, mean float32, dimensions ...uint64) {
		next := splitMix64(seed<<32 | g.tensors)
		g.values(name+".weight", func() float32 {
			uniform := float32(next()>>40)/(1<<23) - 1
			return float32(uniform*spread) + mean
		}, dimensions...)
	}
	tensor("token_embd", 0, width, tokens)
	tensor("output_norm", 1, width)
	for i := range layers {
		layer := func(name string) string { return fmt.Sprintf("blk.%d.%s", i, name) }
		tensor(layer("attn_norm"), 1, width)
		tensor(layer("attn_q"), 0, width, heads*headSize)
		tensor(layer("attn_k"), 0, width, kvHeads*headSize)
		tensor(layer("attn_v"), 0, width, kvHeads*headSize)
		tensor(layer("attn_output"), 0, heads*headSize, width)
		tensor(layer("ffn_norm"), 1, width)
		tensor(layer("ffn_gate"), 0, width, hidden)
		tensor(layer("ffn_up"), 0, width, hidden)
		tensor(layer("ffn_down"), 0, hidden, width)
	}
	return g.bytes()
}

// splitMix64 is the generator of this name (Steele, Lea, Flood 2014): a few lines in any language.
func splitMix64(state uint64) (next func() uint64) {
	return func() uint64 {
		state += 0x9E3779B97F4A7C15
		z := state
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return z ^ z>>31
	}
}
