package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// usage counts tokens as OpenAI does.
type usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	PromptDetails    *promptDetail `json:"prompt_tokens_details,omitempty"`
}

type promptDetail struct {
	CachedTokens int `json:"cached_tokens"`
}

// timings are llama-server's.
type timings struct {
	CacheN             int     `json:"cache_n"`
	PromptN            int     `json:"prompt_n"`
	PromptMS           float64 `json:"prompt_ms"`
	PromptPerSecond    float64 `json:"prompt_per_second"`
	PredictedN         int     `json:"predicted_n"`
	PredictedMS        float64 `json:"predicted_ms"`
	PredictedPerSecond float64 `json:"predicted_per_second"`
}

func (r Result) usage() *usage {
	return &usage{r.PromptTokens, r.CompletionTokens, r.PromptTokens + r.CompletionTokens, &promptDetail{r.CachedTokens}}
}

func (r Result) timings() *timings {
	rate := func(n int, ms float64) float64 {
		if ms <= 0 {
			return 0
		}
		return 1000 * float64(n) / ms
	}
	fresh := r.PromptTokens - r.CachedTokens
	return &timings{r.CachedTokens, fresh, r.PromptMS, rate(fresh, r.PromptMS), r.CompletionTokens, r.CompletionMS, rate(r.CompletionTokens, r.CompletionMS)}
}

// reply is a completion, or a chunk of one.
type reply struct {
	ID         string   `json:"id"`
	Object     string   `json:"object"`
	Created    int64    `json:"created"`
	Model      string   `json:"model"`
	Choices    []choice `json:"choices"`
	Usage      *usage   `json:"usage,omitempty"`
	Timings    *timings `json:"timings,omitempty"`
	Federation any      `json:"federation,omitempty"`
}

type choice struct {
	Index        int     `json:"index"`
	Message      *said   `json:"message,omitempty"` // a chat's answer
	Delta        *said   `json:"delta,omitempty"`   // a piece of it
	Text         *string `json:"text,omitempty"`    // of a completion
	FinishReason *string `json:"finish_reason"`
	Logprobs     any     `json:"logprobs"`
}

type said struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

func newID(prefix string) string {
	b := make([]byte, 12)
	_, _ = rand.Read(b)
	return prefix + hex.EncodeToString(b)
}

// kind is what differs between the two kinds of completion.
type kind struct {
	prefix, object, chunk string
	whole, piece          func(text string) choice
}

var chatKind = kind{
	"chatcmpl-", "chat.completion", "chat.completion.chunk",
	func(text string) choice { return choice{Message: &said{"assistant", &text}} },
	func(text string) choice { return choice{Delta: &said{Content: &text}} },
}

var textKind = kind{
	"cmpl-", "text_completion", "text_completion",
	func(text string) choice { return choice{Text: &text} },
	func(text string) choice { return choice{Text: &text} },
}

// requestBody is either kind of request.
type requestBody interface {
	request() (Request, error) // but for model and sampling
	options() *common
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	s.complete(w, r, &chatBody{}, chatKind)
}

func (s *Server) completion(w http.ResponseWriter, r *http.Request) {
	s.complete(w, r, &completionBody{}, textKind)
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request, in requestBody, k kind) {
	b, err := s.ready()
	if err == nil {
		err = read(w, r, in)
	}
	var req Request
	if err == nil {
		req, err = in.request()
	}
	if err == nil {
		req.Sampling, err = in.options().sampling()
	}
	if err == nil {
		req.Model, err = pick(b, in.options().Model)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	s.answer(w, r, b, req, *in.options(), k)
}

// answer runs a request, at once or in pieces. The request's context ends when its client leaves.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, b Backend, req Request, in common, k kind) {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	default:
		writeError(w, busy())
		return
	}
	// the connection may serve other requests afterwards
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	head := reply{ID: newID(k.prefix), Object: k.object, Created: time.Now().Unix(), Model: req.Model}
	if in.Stream {
		s.stream(w, r, b, req, in, k, head)
		return
	}
	var text strings.Builder
	result, err := s.run(r.Context(), b, req, func(piece string) error { text.WriteString(piece); return nil })
	if err != nil {
		writeError(w, err)
		return
	}
	c := k.whole(text.String())
	c.FinishReason = &result.Finish
	head.Choices = []choice{c}
	head.Usage, head.Timings, head.Federation = result.usage(), result.timings(), result.Federation
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	writeJSON(w, http.StatusOK, head)
}

// run asks the backend, and counts.
func (s *Server) run(ctx context.Context, b Backend, req Request, emit func(string) error) (Result, error) {
	s.metrics.running.Inc()
	defer s.metrics.running.Dec()
	whole := characters{emit: emit}
	result, err := b.Answer(ctx, req, whole.write)
	if err == nil {
		err = whole.end()
	}
	if err == nil {
		s.metrics.answered(req.Model, result)
	}
	return result, err
}

// characters passes text on in whole characters: a token may end within one. What is no UTF-8 becomes U+FFFD.
type characters struct {
	rest string
	emit func(string) error
}

func (c *characters) write(piece string) error {
	c.rest += piece
	n := len(c.rest)
	for back := 1; back < utf8.UTFMax && back <= n; back++ {
		if tail := c.rest[n-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRuneInString(tail) {
				n -= back
			}
			break
		}
	}
	text := c.rest[:n]
	c.rest = c.rest[n:]
	if text == "" {
		return nil
	}
	return c.emit(strings.ToValidUTF8(text, "\uFFFD"))
}

func (c *characters) end() error {
	if c.rest == "" {
		return nil
	}
	text := c.rest
	c.rest = ""
	return c.emit(strings.ToValidUTF8(text, "\uFFFD"))
}
