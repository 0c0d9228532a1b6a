package api

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browserPatience bounds a whole visit.
const browserPatience = 2 * time.Minute

// gardener is a parrot with a federation behind it.
type gardener struct{ parrot }

func (g *gardener) Overview() any {
	return map[string]any{
		"model": "garden.gguf", "busy": false,
		"models":    []any{map[string]any{"name": "parrot", "loaded": true}, map[string]any{"name": "other", "loaded": false}},
		"peers":     []any{map[string]any{"name": "garden-pi", "tokens": 0, "bytes": 0, "state": "not asked yet"}},
		"documents": []any{map[string]any{"name": "<b>notes</b>.txt", "tokens": 12, "policy": "for this device's answers only"}},
		"receipts": []any{map[string]any{"time": "2026-06-01T10:00:00Z", "name": "laptop", "documents": []string{"log.txt"}, "bytes": 38100,
			"outcome": "sent"}},
	}
}

func (g *gardener) Answer(ctx context.Context, r Request, emit func(string) error) (Result, error) {
	result, err := g.parrot.Answer(ctx, r, emit)
	result.Federation = map[string]any{
		"bytes": 38100, "ttft_ms": 1500.0, "wait_ms": 300.0, "sync_ms": 100.0,
		"peers": []any{
			map[string]any{"name": "garden-pi", "tokens": 512, "bytes": 38100},
			map[string]any{"name": "shed", "tokens": 0, "bytes": 0, "missing": map[string]any{"text": "nothing came for 2.0 s"}},
		},
	}
	return result, err
}

// visit opens the page in a Chromium of this machine. What the console complains of fails the test.
func visit(t *testing.T, b Backend, cfg Config) (ctx context.Context, url string) {
	t.Helper()
	var chromium string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	if chromium == "" {
		t.Skip("there is no Chromium on this machine")
	}
	web, _ := serve(t, cfg, b)
	ctx, cancel := context.WithTimeout(t.Context(), browserPatience)
	t.Cleanup(cancel)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.WSURLReadTimeout(browserPatience))
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var complaints []string
	err := chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			complaints = append(complaints, string(e.Type))
		case *log.EventEntryAdded:
			complaints = append(complaints, e.Entry.Text)
		case *page.EventJavascriptDialogOpening:
			complaints = append(complaints, "a dialog: "+e.Message)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		complaints = slices.DeleteFunc(complaints, func(c string) bool {
			return cfg.Key != "" && strings.Contains(c, "401") // the browser tells of what the page then asks a key for
		})
		if len(complaints) > 0 {
			t.Errorf("the browser complains: %q", complaints)
		}
	})
	return ctx, web.URL
}

type action = chromedp.Action[chromedp.Void]

func do(t *testing.T, ctx context.Context, actions ...action) {
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

func run[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func call[P, R any](t *testing.T, ctx context.Context, command cdp.Command[P, R], params P) R {
	t.Helper()
	r, err := chromedp.Call(ctx, command, params)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// seen waits until an element has a text in it.
func seen(selector, text string) action {
	return func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		there := chromedp.PollFunction[bool](`(s, t) => { const e = document.querySelector(s); return e && e.innerText.includes(t) }`,
			chromedp.WithPollingArgs(selector, text), chromedp.WithPollingTimeout(30*time.Second))
		if _, err := there(ctx, target); err != nil {
			return chromedp.Void{}, fmt.Errorf("%s never shows %q: %w", selector, text, err)
		}
		return chromedp.Void{}, nil
	}
}

func evaluate[T any](t *testing.T, ctx context.Context, script string) (v T) {
	t.Helper()
	return run(t, ctx, chromedp.Evaluate[T](script))
}

func TestPageInABrowser(t *testing.T) {
	g := &gardener{}
	ctx, url := visit(t, g, Config{Loopback: true})
	do(t, ctx, chromedp.EmulateViewport(1200, 900), chromedp.Navigate(url), seen("#state", "garden.gguf, ready"), seen("#peers", "not asked yet"),
		seen("#documents", "<b>notes</b>.txt: 12 tokens, for this device's answers only"), seen("#receipts", "38.1 kB"))

	// by keyboard alone; what looks like markup stays text
	const question = `Where <img src=x onerror=alert(1)> is it?`
	do(t, ctx, chromedp.Focus("#question"), chromedp.KeyEvent(question), chromedp.KeyEvent(kb.Enter),
		seen("#talk li:last-child", "“"+question+"”"), seen("#peers", "missing: nothing came for 2.0 s"), seen("#facts", "1.5 s"))
	if n := evaluate[int](t, ctx, `document.querySelectorAll("#talk img, #documents b").length`); n != 0 {
		t.Errorf("%d elements were made of text", n)
	}
	if text := evaluate[string](t, ctx, `document.querySelector("#peers tr").innerText`); !strings.Contains(text, "garden-pi") || !strings.Contains(text, "512") {
		t.Errorf("the devices: %q", text)
	}
	// the second question brings the first along
	do(t, ctx, chromedp.KeyEvent("again"), chromedp.KeyEvent(kb.Enter), seen("#talk li:last-child", "“again”"))
	if turns := g.last().Turns; len(turns) != 1 || turns[0].User != question {
		t.Errorf("said before: %v", turns)
	}

	// where there are several models one can be chosen; the parrot knows them by their names
	if got := g.last().Model; got != "parrot" {
		t.Errorf("nobody chose, and %q is asked", got)
	}
	do(t, ctx, chromedp.Focus("#model"), chromedp.KeyEvent("o"), chromedp.Focus("#question"), chromedp.KeyEvent("once more"), chromedp.KeyEvent(kb.Enter),
		seen("#talk li:last-child", "“once more”"))
	if got := g.last().Model; got != "other" {
		t.Errorf("of the other model's turn %q is asked", got)
	}

	// everything that can be used has a name
	tree := call(t, ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	named := 0
	for _, n := range tree {
		if n.Ignored || n.Role == nil {
			continue
		}
		switch role := strings.Trim(string(n.Role.Value), `"`); role {
		case "button", "textbox", "table", "columnheader", "heading":
			if name := n.Name; role != "table" && (name == nil || len(strings.Trim(string(name.Value), `"`)) == 0) {
				t.Errorf("a %s without a name", role)
			}
			named++
		}
	}
	if named < 8 {
		t.Errorf("%d named elements", named)
	}

	// light and dark, desk and phone
	light := screenshot(t, ctx)
	call(t, ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	})
	dark := screenshot(t, ctx)
	if l, d := brightness(light), brightness(dark); l < 0.8 || d > 0.4 {
		t.Errorf("brightness %.2f in light and %.2f in dark", l, d)
	}
	for _, shot := range []image.Image{light, dark} {
		if n := colours(shot); n < 20 { // text has edges
			t.Errorf("a picture of %d colours", n)
		}
	}
	do(t, ctx, chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	if wide := evaluate[int](t, ctx, `document.scrollingElement.scrollWidth`); wide > 360 {
		t.Errorf("%d pixels wide on a phone of 360", wide)
	}
}

func TestPageStopsAnAnswer(t *testing.T) {
	g := &gardener{parrot{hang: true, hung: make(chan struct{}), released: make(chan error, 1)}}
	ctx, url := visit(t, g, Config{Loopback: true})
	do(t, ctx, chromedp.Navigate(url), chromedp.Focus("#question"), chromedp.KeyEvent("a long question\r"), seen("#talk li:last-child", "“a long"))
	<-g.hung
	do(t, ctx, chromedp.KeyEvent(kb.Escape), seen("#talk li.failed", "stopped"))
	select {
	case <-g.released:
	case <-time.After(30 * time.Second):
		t.Fatal("the server answers on")
	}
	if evaluate[bool](t, ctx, `document.querySelector("#send").disabled`) {
		t.Error("nothing can be asked after it")
	}
}

func TestPageAsksForTheKey(t *testing.T) {
	ctx, url := visit(t, &gardener{}, Config{Key: "open sesame"})
	do(t, ctx, chromedp.Navigate(url), chromedp.WaitVisible("#login"), chromedp.SendKeys("#key", "open sesame\r"),
		seen("#state", "ready"), chromedp.WaitNotVisible("#login"))
}

func screenshot(t *testing.T, ctx context.Context) image.Image {
	t.Helper()
	picture, err := png.Decode(bytes.NewReader(run(t, ctx, chromedp.CaptureScreenshot())))
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// brightness is the mean of all pixels, 0 to 1.
func brightness(p image.Image) float64 {
	sum, n := 0.0, 0
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y; y += 3 {
		for x := p.Bounds().Min.X; x < p.Bounds().Max.X; x += 3 {
			r, g, b, _ := p.At(x, y).RGBA()
			sum += float64(r+g+b) / 3 / 0xffff
			n++
		}
	}
	return sum / float64(n)
}

func colours(p image.Image) int {
	found := map[[3]uint32]bool{}
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y; y++ {
		for x := p.Bounds().Min.X; x < p.Bounds().Max.X; x++ {
			r, g, b, _ := p.At(x, y).RGBA()
			found[[3]uint32{r, g, b}] = true
		}
	}
	return len(found)
}
