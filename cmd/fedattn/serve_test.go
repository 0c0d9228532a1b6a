package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
)

// A server with a tiny model: what it answers means nothing, but it is the whole way from a client to the model's cache.
func TestServeAnswersOpenAIsClient(t *testing.T) {
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"m.gguf": tinyTransformer(tinyTemplate, 1, tinyContext), "note.txt": []byte("The key hangs there."), "key": []byte("k\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, url, err := start(dir, isolated(dir), filepath.Join(dir, "log"), "serve", "-m", "m.gguf", "-t", "1", "--http", "127.0.0.1:0",
		"--api-key-file", "key", "--doc", "note.txt", "-n", "8")
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	ready := false
	for end := time.Now().Add(firstOutput); !ready && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get(url + "/health"); err == nil {
			resp.Body.Close()
			if ready = resp.StatusCode == http.StatusOK; !ready && resp.StatusCode != http.StatusServiceUnavailable {
				t.Fatalf("health: %s", resp.Status)
			}
		}
	}
	c := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("k"), option.WithMaxRetries(0))
	ask := func(params openai.ChatCompletionNewParams) *openai.ChatCompletion {
		t.Helper()
		got, err := c.Chat.Completions.New(context.Background(), params)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	params := openai.ChatCompletionNewParams{Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("one")}}
	first := ask(params)
	if !strings.Contains(first.RawJSON(), `"name":"note.txt","local":true`) || first.Usage.CompletionTokens < 1 {
		t.Errorf("%s", first.RawJSON())
	}
	// what was said is still in the cache: nothing but the new words is evaluated
	params.Messages = append(params.Messages, openai.AssistantMessage(first.Choices[0].Message.Content), openai.UserMessage("two"))
	second := ask(params)
	if second.Usage.PromptTokensDetails.CachedTokens < first.Usage.PromptTokens {
		t.Errorf("%d cached after %d", second.Usage.PromptTokensDetails.CachedTokens, first.Usage.PromptTokens)
	}
	// another conversation does not see this one: it is as the first
	params.Messages = params.Messages[:1]
	if again := ask(params); again.Choices[0].Message.Content != first.Choices[0].Message.Content {
		t.Errorf("%q after %q", again.Choices[0].Message.Content, first.Choices[0].Message.Content)
	}
	schema := params
	schema.ResponseFormat.OfJSONSchema = &openai.ResponseFormatJSONSchemaParam{JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{
		Name: "where", Schema: map[string]any{"enum": []string{"here", "there"}},
	}}
	schema.MaxTokens = param.NewOpt[int64](20)
	if got := ask(schema).Choices[0].Message.Content; got != `"here"` && got != `"there"` {
		t.Errorf("of two words it says %q", got)
	}
	raw, err := c.Completions.New(context.Background(), openai.CompletionNewParams{
		Model: "m", Prompt: openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("once upon")}, MaxTokens: param.NewOpt[int64](3),
	})
	if err != nil || raw.Usage.CompletionTokens < 1 {
		t.Errorf("%v, %v", raw, err)
	}
	long := openai.ChatCompletionNewParams{Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(strings.Repeat("x", 3*tinyContext))}}
	_, err = c.Chat.Completions.New(context.Background(), long)
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.Code != "context_length_exceeded" {
		t.Errorf("a long question: %v", err)
	}
	if code, err := p.end(syscall.SIGTERM, 5*time.Second); err != nil || code != exitOK {
		t.Errorf("it ends with %d, %v", code, err)
	}
}
