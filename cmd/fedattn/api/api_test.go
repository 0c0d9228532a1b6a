package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// parrot says again what it is told, byte by byte, so that characters come in pieces.
type parrot struct {
	mu       sync.Mutex
	asked    []Request
	fails    error
	after    int // bytes after which it fails
	hang     bool
	hung     chan struct{} // it has begun to wait
	released chan error    // why the wait ended
}

func (p *parrot) Models() []Model { return []Model{{"parrot", true}, {"other", false}} }
func (p *parrot) Overview() any   { return map[string]any{"model": "parrot", "peers": []string{}} }

func (p *parrot) Answer(ctx context.Context, r Request, emit func(string) error) (Result, error) {
	p.mu.Lock()
	p.asked = append(p.asked, r)
	p.mu.Unlock()
	text := "“" + r.Prompt + "”"
	for i := range len(text) {
		if p.fails != nil && i == p.after {
			return Result{}, p.fails
		}
		if p.hang && i == 10 {
			close(p.hung)
			<-ctx.Done()
			p.released <- ctx.Err()
			return Result{}, ctx.Err()
		}
		if err := emit(text[i : i+1]); err != nil {
			return Result{}, err
		}
	}
	return Result{Finish: "stop", PromptTokens: 20, CachedTokens: 5, CompletionTokens: 7, CompletionMS: 70, TTFTMS: 1500, ReceivedBytes: 1000,
		Federation: map[string]any{"bytes": 1000, "peers": []string{"pi"}}}, nil
}

func (p *parrot) last() Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[len(p.asked)-1]
}

func serve(t *testing.T, cfg Config, b Backend) (*httptest.Server, *Server) {
	t.Helper()
	s := New(cfg)
	if b != nil {
		s.Ready(b)
	}
	web := httptest.NewUnstartedServer(nil)
	web.Config = s.HTTP()
	web.Start()
	t.Cleanup(web.Close)
	return web, s
}

func client(web *httptest.Server, key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(web.URL+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
}

func words(text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: "parrot", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}}
}

// What follows is the contract with OpenAI's own client.

func TestOpenAIClientChats(t *testing.T) {
	p := &parrot{}
	web, _ := serve(t, Config{Key: "k"}, p)
	params := openai.ChatCompletionNewParams{
		Model: "parrot", MaxCompletionTokens: param.NewOpt[int64](9), Temperature: param.NewOpt(0.5), Seed: param.NewOpt[int64](4),
		Stop: openai.ChatCompletionNewParamsStopUnion{OfStringArray: []string{"END", "\n\n"}},
		Messages: []openai.ChatCompletionMessageParamUnion{
			openai.SystemMessage("Be brief."), openai.UserMessage("one"), openai.AssistantMessage("1"), openai.UserMessage("two"), openai.UserMessage("three"),
		},
	}
	params.ResponseFormat.OfJSONSchema = &openai.ResponseFormatJSONSchemaParam{JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{
		Name: "x", Schema: map[string]any{"type": "integer"},
	}}
	c := client(web, "k")
	got, err := c.Chat.Completions.New(context.Background(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got.Choices[0].Message.Content != "“two\n\nthree”" || got.Choices[0].FinishReason != "stop" || got.Usage.TotalTokens != 27 ||
		got.Usage.PromptTokensDetails.CachedTokens != 5 || got.Model != "parrot" || string(got.Object) != "chat.completion" {
		t.Errorf("%s", got.RawJSON())
	}
	var extra struct {
		Federation struct{ Bytes int }
		Timings    struct {
			PredictedPerSecond float64 `json:"predicted_per_second"`
		}
	}
	if err := json.Unmarshal([]byte(got.RawJSON()), &extra); err != nil || extra.Federation.Bytes != 1000 || extra.Timings.PredictedPerSecond != 100 {
		t.Errorf("%+v, %v", extra, err)
	}
	r := p.last()
	if r.System != "Be brief." || len(r.Turns) != 1 || r.Turns[0] != (Turn{"one", "1"}) || *r.Sampling.MaxTokens != 9 || *r.Sampling.Temperature != 0.5 ||
		*r.Sampling.Seed != 4 || len(r.Sampling.Stop) != 2 || r.Sampling.Schema != `{"type":"integer"}` {
		t.Errorf("%+v", r)
	}
}

func TestOpenAIClientStreams(t *testing.T) {
	web, _ := serve(t, Config{}, &parrot{})
	params := words("äöü")
	params.StreamOptions.IncludeUsage = param.NewOpt(true)
	c := client(web, "")
	stream := c.Chat.Completions.NewStreaming(context.Background(), params)
	defer stream.Close()
	var all openai.ChatCompletionAccumulator
	federation := 0
	for stream.Next() {
		chunk := stream.Current()
		all.AddChunk(chunk)
		if strings.Contains(chunk.RawJSON(), `"federation"`) {
			federation++
			if chunk.Choices[0].FinishReason != "stop" {
				t.Errorf("federation is not in the final chunk: %s", chunk.RawJSON())
			}
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all.Choices) != 1 || all.Choices[0].Message.Content != "“äöü”" || all.Usage.TotalTokens != 27 || federation != 1 || string(all.Choices[0].Message.Role) != "assistant" {
		t.Errorf("%+v, %d times federation", all.Choices, federation)
	}
}

func TestOpenAIClientCompletesAndLists(t *testing.T) {
	p := &parrot{}
	web, _ := serve(t, Config{}, p)
	c := client(web, "")
	got, err := c.Completions.New(context.Background(), openai.CompletionNewParams{
		Model: "parrot", Prompt: openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("once")}, MaxTokens: param.NewOpt[int64](3),
	})
	if err != nil || got.Choices[0].Text != "“once”" || !p.last().Raw {
		t.Errorf("%v, %v", got, err)
	}
	stream := c.Completions.NewStreaming(context.Background(), openai.CompletionNewParams{
		Model: "parrot", Prompt: openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("twice")},
	})
	defer stream.Close()
	var text string
	for stream.Next() {
		text += stream.Current().Choices[0].Text
	}
	if stream.Err() != nil || text != "“twice”" {
		t.Errorf("%q, %v", text, stream.Err())
	}
	list, err := c.Models.List(context.Background())
	if err != nil || len(list.Data) != 2 || list.Data[0].ID != "parrot" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestOpenAIClientGetsErrorsInItsShape(t *testing.T) {
	p := &parrot{}
	web, _ := serve(t, Config{Key: "right"}, p)
	c, stranger := client(web, "right"), client(web, "wrong")
	check := func(name string, status int, code string, err error) {
		t.Helper()
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != status || e.Code != code || e.Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := stranger.Chat.Completions.New(context.Background(), words("x"))
	check("key", http.StatusUnauthorized, "invalid_api_key", err)
	other := words("x")
	other.Model = "gpt"
	_, err = c.Chat.Completions.New(context.Background(), other)
	check("model", http.StatusNotFound, "model_not_found", err)
	p.fails = TooLong(errors.New("the context is full"))
	_, err = c.Chat.Completions.New(context.Background(), words("x"))
	check("context", http.StatusBadRequest, "context_length_exceeded", err)
	p.fails = errors.New("broken")
	_, err = c.Chat.Completions.New(context.Background(), words("x"))
	check("server", http.StatusInternalServerError, "internal", err)
	p.after = 6
	stream := c.Chat.Completions.NewStreaming(context.Background(), words("x and more"))
	defer stream.Close()
	for stream.Next() {
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("in the middle of a stream: %v", err)
	}
	web, _ = serve(t, Config{}, nil)
	c = client(web, "")
	_, err = c.Chat.Completions.New(context.Background(), words("x"))
	check("loading", http.StatusServiceUnavailable, "loading", err)
}

func TestAClientThatLeavesEndsTheAnswer(t *testing.T) {
	for _, streaming := range []bool{true, false} {
		p := &parrot{hang: true, hung: make(chan struct{}), released: make(chan error, 1)}
		web, _ := serve(t, Config{}, p)
		ctx, cancel := context.WithCancel(context.Background())
		c := client(web, "")
		done := make(chan struct{})
		go func() {
			defer close(done)
			if !streaming {
				_, _ = c.Chat.Completions.New(ctx, words("a long answer"))
				return
			}
			stream := c.Chat.Completions.NewStreaming(ctx, words("a long answer"))
			defer stream.Close()
			for stream.Next() {
			}
		}()
		<-p.hung
		cancel()
		<-done
		select {
		case err := <-p.released:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("streaming %v: the answer goes on", streaming)
		}
	}
}

// The Python client, where there is one.
func TestOpenAIPythonClient(t *testing.T) {
	if exec.Command("python3", "-c", "import openai").Run() != nil {
		t.Skip("the Python package openai is not here")
	}
	web, _ := serve(t, Config{Key: "k"}, &parrot{})
	cmd := exec.Command("python3", "testdata/client.py", web.URL+"/v1", "k")
	cmd.Env = append(os.Environ(), "NO_PROXY=*")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "“one” “two” parrot invalid_api_key\n" {
		t.Errorf("%s, %v", out, err)
	}
}

// post sends a body as a browser would, or anybody else.
func post(t *testing.T, web *httptest.Server, body string, header map[string]string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, web.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		if req.Header.Set(k, v); k == "Host" {
			req.Host = v
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for k := range resp.Header {
		if strings.HasPrefix(k, "Access-Control-") {
			t.Errorf("a CORS header: %s", k)
		}
	}
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestOtherSitesAreKeptOut(t *testing.T) {
	web, _ := serve(t, Config{Loopback: true}, &parrot{})
	const fine = `{"messages":[{"role":"user","content":"x"}]}`
	for name, c := range map[string]struct {
		header map[string]string
		want   int
	}{
		"nobody":       {nil, 200},
		"own page":     {map[string]string{"Origin": web.URL}, 200},
		"other origin": {map[string]string{"Origin": "https://evil.example"}, 403},
		"no origin":    {map[string]string{"Origin": "null"}, 403},
		"rebound name": {map[string]string{"Host": "evil.example"}, 403},
		"plain text":   {map[string]string{"Content-Type": "text/plain"}, 415},
		"localhost":    {map[string]string{"Host": "localhost:80"}, 200},
	} {
		if code, body := post(t, web, fine, c.header); code != c.want {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
}

func TestMistakesOfClients(t *testing.T) {
	web, _ := serve(t, Config{}, &parrot{})
	const said = `"messages":[{"role":"user","content":"x"}]`
	for body, param := range map[string]string{
		`{`:               "",
		`{"messages":[]}`: "messages",
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}`: "messages",
		`{"messages":[{"role":"assistant","content":"y"}]}`:                               "messages[0].role",
		`{"messages":[{"role":"tool","content":"y"}]}`:                                    "messages[0].role",
		`{"messages":[{"role":"user","content":"x"},{"role":"system","content":"y"}]}`:    "messages[1].role",
		`{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`:                 "messages[0].content",
		`{"messages":[{"role":"user","content":7}]}`:                                      "messages[0].content",
		`{` + said + `,"temperature":-1}`:                                                 "temperature",
		`{` + said + `,"temperature":"hot"}`:                                              "temperature",
		`{` + said + `,"top_p":1.5}`:                                                      "top_p",
		`{` + said + `,"max_tokens":0}`:                                                   "max_tokens",
		`{` + said + `,"n":2}`:                                                            "n",
		`{` + said + `,"logprobs":true}`:                                                  "logprobs",
		`{` + said + `,"stop":["a",""]}`:                                                  "stop",
		`{` + said + `,"stop":7}`:                                                         "stop",
		`{` + said + `,"tools":[{}]}`:                                                     "tools",
		`{` + said + `,"response_format":{"type":"xml"}}`:                                 "response_format",
		`{` + said + `,"response_format":{"type":"json_schema"}}`:                         "response_format",
		`{` + said + `,"response_format":{"type":"json_object"},"grammar":"x"}`:           "grammar",
	} {
		code, text := post(t, web, body, nil)
		var e errorBody
		if err := json.Unmarshal([]byte(text), &e); err != nil || code != http.StatusBadRequest || e.Error.Type != "invalid_request_error" {
			t.Errorf("%s: %d %s", body, code, text)
			continue
		}
		got := ""
		if e.Error.Param != nil {
			got = *e.Error.Param
		}
		if !strings.HasSuffix(got, param) {
			t.Errorf("%s: the field is %q, want %q: %s", body, got, param, text)
		}
	}
	if code, _ := post(t, web, `{`+said+`,"tools":[],"logprobs":false,"n":1,"stop":null,"unknown":{}}`, nil); code != 200 {
		t.Errorf("fields that say nothing: %d", code)
	}
	if code, _ := post(t, web, `{"x":"`+strings.Repeat("x", maxBody)+`"}`, nil); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large request: %d", code)
	}
	for path, want := range map[string]int{"/v1/nothing": 404, "/nothing": 404, "/v1/chat/completions": 404, "/health": 200} {
		resp, err := http.Get(web.URL + path)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %v, %v", path, resp.Status, err)
		}
		resp.Body.Close()
	}
}

func TestMetricsAreLinted(t *testing.T) {
	web, _ := serve(t, Config{Key: "k", Allocated: func() int64 { return 1 << 20 }}, &parrot{})
	c := client(web, "k")
	if _, err := c.Chat.Completions.New(context.Background(), words("x")); err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest(http.MethodGet, web.URL+"/metrics", nil)
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without the key: %v, %v", resp.Status, err)
	}
	req.Header.Set("Authorization", "Bearer k")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	shown := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		shown[lines.Text()] = true
	}
	for _, line := range []string{
		`fedattn_prompt_tokens_total{model_name="parrot"} 20`, `fedattn_generation_tokens_total{model_name="parrot"} 7`,
		`fedattn_received_bytes_total{model_name="parrot"} 1000`, `fedattn_prompt_tokens_total{model_name="other"} 0`,
		`fedattn_engine_allocated_bytes 1.048576e+06`, `fedattn_time_to_first_token_seconds_sum{model_name="parrot"} 1.5`, `fedattn_http_requests_total{code="200",route="POST /v1/chat/completions"} 1`,
	} {
		if !shown[line] {
			t.Errorf("there is no %q in\n%s", line, text)
		}
	}
}

func TestThePageIsStrict(t *testing.T) {
	web, _ := serve(t, Config{Key: "k"}, nil)
	for _, path := range []string{"/", "/page.js", "/page.css"} {
		resp, err := http.Get(web.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		text := string(b)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Security-Policy") != policy || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v %v", path, resp.Status, resp.Header)
		}
		// nothing from elsewhere, and no markup made of what comes
		for _, word := range []string{"http://", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="} {
			if strings.Contains(text, word) {
				t.Errorf("%s has %q in it", path, word)
			}
		}
	}
}
