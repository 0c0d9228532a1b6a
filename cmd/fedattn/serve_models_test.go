package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"fedattn/models"
)

// severalModels is a server of two models and one that is no model, and OpenAI's client of it.
type severalModels struct {
	*testing.T
	client openai.Client
	url    string
}

func serveSeveral(t *testing.T, memory func(need int64) int64) severalModels {
	t.Helper()
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"m.gguf": tinyTransformer(tinyTemplate, 1, tinyContext), "second.gguf": tinyTransformer(tinyTemplate, 2, tinyContext),
		"broken.gguf": []byte("GGUF, and nothing else"), "note.txt": []byte("The key hangs there."),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{
		"serve", "-m", "m.gguf", "--also", "second=second.gguf", "--also", "broken=broken.gguf", "-t", "1", "--http", "127.0.0.1:0",
		"--doc", "note.txt", "-n", "8", "--context", strconv.Itoa(2 * tinyContext),
	}
	if memory != nil {
		need, m, err := models.NeedOfFile(filepath.Join(dir, "m.gguf"))
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--memory", strconv.FormatInt(memory(need.At(m.Context)), 10))
	}
	p, url, err := start(dir, isolated(dir), filepath.Join(dir, "log"), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if code, err := p.end(syscall.SIGTERM, 5*time.Second); err != nil || code != exitOK {
			t.Errorf("it ends with %d, %v", code, err)
			p.kill()
		}
	})
	ready := false
	for end := time.Now().Add(firstOutput); !ready && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get(url + "/health"); err == nil {
			resp.Body.Close()
			ready = resp.StatusCode == http.StatusOK
		}
	}
	return severalModels{t, openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("-"), option.WithMaxRetries(0)), url}
}

// letters keep an answer's text the same on its way to the client and back: random weights say half characters too.
const letters = `root ::= [a-z]+`

func (s severalModels) ask(model string, said ...openai.ChatCompletionMessageParamUnion) *openai.ChatCompletion {
	s.Helper()
	got, err := s.client.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{Model: model, Messages: said},
		option.WithJSONSet("grammar", letters))
	if err != nil {
		s.Fatal(err)
	}
	if model != "" && got.Model != model {
		s.Errorf("%q answers for %q", got.Model, model)
	}
	return got
}

func (s severalModels) refused(model string) *openai.Error {
	s.Helper()
	_, err := s.client.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("one")},
	})
	var refused *openai.Error
	if !errors.As(err, &refused) {
		s.Fatalf("%s: %v", model, err)
	}
	return refused
}

// loaded is the names of the models that are in memory.
func (s severalModels) loaded() string {
	s.Helper()
	list, err := s.client.Models.List(context.Background())
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, m := range list.Data {
		if strings.Contains(m.RawJSON(), `"value":"loaded"`) {
			names = append(names, m.ID)
		}
	}
	return strings.Join(names, " ")
}

func TestServeSeveralModels(t *testing.T) {
	s := serveSeveral(t, nil)
	if got := s.loaded(); got != "m" {
		t.Errorf("before any request %q are loaded", got)
	}
	one := openai.UserMessage("one")
	first, second := s.ask("m", one), s.ask("second", one)
	if first.Choices[0].Message.Content == second.Choices[0].Message.Content {
		t.Errorf("both models say %q", first.Choices[0].Message.Content)
	}
	if !strings.Contains(second.RawJSON(), `"name":"note.txt","local":true`) {
		t.Errorf("the second model does not know the document: %s", second.RawJSON())
	}
	if byDefault := s.ask("", one); byDefault.Model != "m" || byDefault.Choices[0].Message.Content != first.Choices[0].Message.Content {
		t.Errorf("without a name %q says %q", byDefault.Model, byDefault.Choices[0].Message.Content)
	}
	// each has its own conversation, which the other does not disturb
	for model, before := range map[string]*openai.ChatCompletion{"m": first, "second": second} {
		more := s.ask(model, one, openai.AssistantMessage(before.Choices[0].Message.Content), openai.UserMessage("two"))
		if more.Usage.PromptTokensDetails.CachedTokens < before.Usage.PromptTokens {
			t.Errorf("%s: %d cached after %d", model, more.Usage.PromptTokensDetails.CachedTokens, before.Usage.PromptTokens)
		}
	}
	if got := s.loaded(); got != "m second" {
		t.Errorf("after both were asked %q are loaded", got)
	}
	if e := s.refused("third"); e.StatusCode != http.StatusNotFound || e.Code != "model_not_found" {
		t.Errorf("a model that is not listed: %v", e)
	}
	if e := s.refused("broken"); e.StatusCode != http.StatusInternalServerError || e.Code != "model_not_loaded" || !strings.Contains(e.Message, "broken.gguf") {
		t.Errorf("a file that is no model: %v", e)
	}
	if got := s.loaded(); got != "m second" {
		t.Errorf("after one that could not be loaded %q are", got)
	}
}

// Where there is room for one model, the other leaves when it comes, and says the same when it is back.
func TestServeModelsLeaveForOthers(t *testing.T) {
	s := serveSeveral(t, func(need int64) int64 { return need * 3 / 2 })
	one := openai.UserMessage("one")
	said := map[string]string{}
	for _, model := range []string{"m", "second", "m", "second"} {
		text := s.ask(model, one).Choices[0].Message.Content
		if before, asked := said[model]; asked && text != before {
			t.Errorf("%s said %q, and when it is back %q", model, before, text)
		}
		said[model] = text
		if got := s.loaded(); got != model {
			t.Errorf("after %s was asked %q are loaded", model, got)
		}
	}
	// one that is broken takes nobody's place
	if s.refused("broken"); s.loaded() != "second" {
		t.Errorf("after one that could not be loaded %q are", s.loaded())
	}
}
