package apitest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestNewReportsWhy(t *testing.T) {
	silence(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text.gguf")
	broken := filepath.Join(dir, "broken.gguf")
	for path, content := range map[string]string{text: "not a model", broken: "GGUF but nothing else"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"":                              "No such file",
		filepath.Join(dir, "none.gguf"): "No such file",
		dir:                             "is a directory",
		text:                            "not a GGUF file",
		broken:                          "cannot load it",
		text + "\x00.gguf":              "zero byte",
	} {
		l, err := llama.New(path)
		if l != nil {
			t.Errorf("New(%q) = %v", path, l)
		}
		wantError(t, err, want)
	}
}

func TestNewRefusesWrongOptions(t *testing.T) {
	silence(t)
	path := modelPath(t)
	for want, opt := range map[string]llama.ModelOption{
		"main GPU \"first\"":     llama.SetMainGPU("first"),
		"tensor split \"1;2\"":   llama.SetTensorSplit("1;2"),
		"/nonexistent/adapter":   llama.SetLoraAdapter("/nonexistent/adapter.gguf"),
		"not a GGUF file":        llama.SetLoraAdapter(os.Args[0]),
		"names 99 devices, llam": llama.SetTensorSplit(strings.Repeat("1,", 98) + "1"),
	} {
		l, err := llama.New(path, opt)
		if err == nil {
			l.Free()
		}
		wantError(t, err, want)
	}
}

func TestContextIsMadeByTheFirstEvaluation(t *testing.T) {
	l := load(t)
	if l.ModelHandle() == nil {
		t.Error("no model handle after New")
	}
	if l.ContextHandle() != nil {
		t.Error("New made a context")
	}
	if _, _, err := l.TokenizeString("one two"); err != nil || l.ContextHandle() != nil {
		t.Errorf("TokenizeString: %v, context %v; want none", err, l.ContextHandle())
	}
	if err := l.Eval("one two", greedy()...); err != nil {
		t.Fatal(err)
	}
	if l.ContextHandle() == nil {
		t.Error("no context after Eval")
	}
}

func TestFreeTwiceAndUseAfterFree(t *testing.T) {
	silence(t)
	l := load(t, llama.EnableEmbeddings)
	l.Free()
	l.Free()
	other := load(t) // must not be taken for the freed one
	l.Free()
	_, err := l.Predict("x")
	wantError(t, err, "freed")
	_, err = other.SpeculativeSampling(l, "x")
	wantError(t, err, "freed")
	_, err = other.SpeculativeSampling(nil, "x")
	wantError(t, err, "freed")
	_, _, err = l.TokenizeString("x")
	wantError(t, err, "freed")
	_, err = l.Embeddings("x")
	wantError(t, err, "freed")
	wantError(t, l.Eval("x"), "freed")
	wantError(t, l.SaveState(filepath.Join(t.TempDir(), "state")), "freed")
	if l.ModelHandle() != nil || l.ContextHandle() != nil || l.EmbeddingSize() != 0 {
		t.Error("handles after Free")
	}
	if other.ModelHandle() == nil {
		t.Error("freeing a model again freed another")
	}
	_, err = new(llama.LLama).Predict("x")
	wantError(t, err, "freed")
}

// What llama.cpp logs of the context that it makes for these options.
func contextLog(t *testing.T, opts ...llama.ModelOption) string {
	t.Helper()
	return logged(t, func() {
		if err := load(t, opts...).Eval("x", oneThread); err != nil {
			t.Fatal(err)
		}
	})
}

func wantLine(t *testing.T, log, name, value string) {
	t.Helper()
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, name) && strings.Contains(line, value) {
			return
		}
	}
	t.Errorf("no line of llama.cpp's log has %q and %q:\n%s", name, value, log)
}

func TestModelOptionsReachTheContext(t *testing.T) {
	log := contextLog(t, llama.SetContext(768), llama.SetNBatch(96), llama.EnableF16Memory,
		llama.WithRopeFreqBase(50000), llama.WithRopeFreqScale(0.5))
	wantLine(t, log, "n_ctx ", "= 768")
	wantLine(t, log, "n_batch ", "= 96")
	wantLine(t, log, "K (f16)", "V (f16)")
	wantLine(t, log, "freq_base ", "= 50000")
	wantLine(t, log, "freq_scale", "= 0.5")

	log = contextLog(t) // SmolLM2's own base is 100000
	wantLine(t, log, "n_ctx ", "= 512")
	wantLine(t, log, "K (f32)", "V (f32)")
	wantLine(t, log, "freq_base ", "= 100000")
	wantLine(t, log, "freq_scale", "= 1")
}

func TestContextOfZeroIsTheModelsOwn(t *testing.T) {
	wantLine(t, contextLog(t, llama.SetContext(0), llama.EnableF16Memory), "n_ctx ", "= 8192")
}

func TestModelSeed(t *testing.T) {
	ask := func(seed int) string {
		return text(t, load(t, llama.SetModelSeed(seed)), story, drawn(-1))
	}
	if a, b := ask(7), ask(7); a != b {
		t.Errorf("one seed, two texts: %q, %q", a, b)
	}
	if a, b := ask(7), ask(8); a == b {
		t.Errorf("two seeds, one text: %q", a)
	}
	if a, b := ask(0), ask(0); a == b {
		t.Errorf("no seed, twice the same text: %q", a)
	}
}

// On a build without a GPU, and for the kernels that llama.cpp now chooses by itself, these change no text.
func TestModelOptionsWithoutEffectOnTheText(t *testing.T) {
	want := predict(t, model(t), story, llama.SetTokens(3))
	for name, opt := range map[string]llama.ModelOption{
		"SetGPULayers":       llama.SetGPULayers(0),
		"SetMainGPU":         llama.SetMainGPU("0"),
		"SetTensorSplit":     llama.SetTensorSplit("1"),
		"EnabelLowVRAM":      llama.EnabelLowVRAM,
		"EnableNUMA":         llama.EnableNUMA,
		"SetMulMatQ":         llama.SetMulMatQ(false),
		"SetPerplexity":      llama.SetPerplexity(true),
		"SetLoraBase":        llama.SetLoraBase("/nonexistent"),
		"EnableEmbeddings":   llama.EnableEmbeddings,
		"SetMMap":            llama.SetMMap(false),
		"NewModelOptions":    func(o *llama.ModelOptions) { *o = llama.NewModelOptions(llama.SetContext(512)) },
		"DefaultModelOption": func(o *llama.ModelOptions) { *o = llama.DefaultModelOptions },
	} {
		if got := predict(t, load(t, opt), story, llama.SetTokens(3)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
