package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// common is what both kinds of completion may say.
type common struct {
	Model               string          `json:"model"`
	Stream              bool            `json:"stream"`
	StreamOptions       *streamOptions  `json:"stream_options"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Temperature         *float64        `json:"temperature"`
	TopP                *float64        `json:"top_p"`
	TopK                *int            `json:"top_k"`
	MinP                *float64        `json:"min_p"`
	RepeatPenalty       *float64        `json:"repeat_penalty"`
	PresencePenalty     *float64        `json:"presence_penalty"`
	FrequencyPenalty    *float64        `json:"frequency_penalty"`
	Seed                *int64          `json:"seed"`
	Stop                json.RawMessage `json:"stop"`
	N                   *int            `json:"n"`
	Logprobs            json.RawMessage `json:"logprobs"`
	Grammar             string          `json:"grammar"`
	ResponseFormat      *responseFormat `json:"response_format"`
	JSONSchema          json.RawMessage `json:"json_schema"` // as llama-server has it
}

func (c *common) options() *common { return c }

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type responseFormat struct {
	Type       string          `json:"type"`
	Schema     json.RawMessage `json:"schema"`
	JSONSchema *struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

type chatBody struct {
	common
	Messages []message       `json:"messages"`
	Tools    json.RawMessage `json:"tools"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type completionBody struct {
	common
	Prompt json.RawMessage `json:"prompt"`
	Echo   bool            `json:"echo"`
	Suffix string          `json:"suffix"`
	BestOf *int            `json:"best_of"`
}

// read reads a request's body.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	// a page of another site can send text without the browser asking first, but not JSON
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &Error{http.StatusUnsupportedMediaType, "invalid_request_error", "content_type", "", "send JSON, with Content-Type: application/json"}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &Error{http.StatusRequestEntityTooLarge, "invalid_request_error", "too_large", "", fmt.Sprintf("the request has more than %d MiB", maxBody>>20)}
	case err != nil:
		return wrong("", "the request did not come whole: %v", err)
	case !utf8.Valid(b):
		return wrong("", "the request is not UTF-8")
	}
	if err := json.Unmarshal(b, into); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return wrong(kind.Field, "%s cannot be a %s", kind.Field, kind.Value)
		}
		return wrong("", "the request is no JSON: %v", err)
	}
	return nil
}

func given(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) > 0 && string(raw) != "null" && string(raw) != "false" && string(raw) != "[]" && string(raw) != "0"
}

// sampling checks what a client says of it.
func (c common) sampling() (s Sampling, err error) {
	s = Sampling{
		Temperature: c.Temperature, TopP: c.TopP, MinP: c.MinP, TopK: c.TopK, RepeatPenalty: c.RepeatPenalty,
		PresencePenalty: c.PresencePenalty, FrequencyPenalty: c.FrequencyPenalty, Seed: c.Seed, MaxTokens: c.MaxTokens, Grammar: c.Grammar,
	}
	if c.MaxCompletionTokens != nil {
		s.MaxTokens = c.MaxCompletionTokens
	}
	for _, f := range []struct {
		name        string
		value       *float64
		least, most float64
	}{
		{"temperature", s.Temperature, 0, 100}, {"top_p", s.TopP, 0, 1}, {"min_p", s.MinP, 0, 1}, {"repeat_penalty", s.RepeatPenalty, 0, 100},
		{"presence_penalty", s.PresencePenalty, -100, 100}, {"frequency_penalty", s.FrequencyPenalty, -100, 100},
	} {
		if f.value != nil && !(*f.value >= f.least && *f.value <= f.most) {
			return s, wrong(f.name, "%s is %v: must be between %v and %v", f.name, *f.value, f.least, f.most)
		}
	}
	switch {
	case s.MaxTokens != nil && *s.MaxTokens < 1:
		return s, wrong("max_tokens", "max_tokens is %d: must be at least 1", *s.MaxTokens)
	case s.TopK != nil && (*s.TopK < 0 || *s.TopK > math.MaxInt32):
		return s, wrong("top_k", "top_k is %d: must be at least 0", *s.TopK)
	case c.N != nil && *c.N != 1:
		return s, wrong("n", "n is %d: there is one answer to a request", *c.N)
	case given(c.Logprobs):
		return s, wrong("logprobs", "there are no log probabilities here")
	}
	if s.Stop, err = stops(c.Stop); err != nil {
		return s, err
	}
	if s.Schema, err = c.schema(); err != nil {
		return s, err
	}
	if s.Schema != "" && s.Grammar != "" {
		return s, wrong("grammar", "grammar and a JSON schema exclude each other")
	}
	return s, nil
}

// maxStops is how many texts may end an answer, maxStop how many bytes each may have.
const (
	maxStops = 16
	maxStop  = 256
)

func stops(raw json.RawMessage) (list []string, err error) {
	if !given(raw) {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		list = []string{one}
	} else if json.Unmarshal(raw, &list) != nil {
		return nil, wrong("stop", "stop must be a text or a list of texts")
	}
	if len(list) > maxStops || slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > maxStop }) {
		return nil, wrong("stop", "stop may have %d texts of 1 to %d bytes", maxStops, maxStop)
	}
	return list, nil
}

// schema is what the answer has to be, empty for anything.
func (c common) schema() (string, error) {
	if given(c.JSONSchema) {
		return string(c.JSONSchema), nil
	}
	f := c.ResponseFormat
	if f == nil {
		return "", nil
	}
	switch f.Type {
	case "text", "":
		return "", nil
	case "json_object":
		if given(f.Schema) {
			return string(f.Schema), nil
		}
		return `{"type":"object"}`, nil
	case "json_schema":
		if f.JSONSchema != nil && given(f.JSONSchema.Schema) {
			return string(f.JSONSchema.Schema), nil
		}
		return "", wrong("response_format", "response_format has no json_schema.schema")
	}
	return "", wrong("response_format", "response_format %q is unknown; known are text, json_object, json_schema", f.Type)
}

// text is a message's content: a string, or parts that are texts.
func (m message) text(i int) (string, error) {
	var one string
	if json.Unmarshal(m.Content, &one) == nil {
		return one, nil
	}
	var parts []struct{ Type, Text string }
	if json.Unmarshal(m.Content, &parts) != nil {
		return "", wrong(fmt.Sprintf("messages[%d].content", i), "a message's content must be a text or a list of texts")
	}
	var b strings.Builder
	for _, p := range parts {
		if p.Type != "text" {
			return "", wrong(fmt.Sprintf("messages[%d].content", i), "a part of type %q cannot be read: texts only", p.Type)
		}
		b.WriteString(p.Text)
	}
	return b.String(), nil
}

// request sorts messages: instructions, turns, and the user's last words.
func (c *chatBody) request() (r Request, err error) {
	if given(c.Tools) {
		return r, wrong("tools", "tools cannot be called here")
	}
	var system []string
	said, open := "", false // the user's words that wait for an answer
	for i, m := range c.Messages {
		text, err := m.text(i)
		if err != nil {
			return r, err
		}
		switch m.Role {
		case "system", "developer":
			if open || len(r.Turns) > 0 {
				return r, wrong(fmt.Sprintf("messages[%d].role", i), "instructions come before everything that is said")
			}
			system = append(system, text)
		case "user":
			if open {
				text = said + "\n\n" + text
			}
			said, open = text, true
		case "assistant":
			if !open {
				return r, wrong(fmt.Sprintf("messages[%d].role", i), "an answer comes after what the user says")
			}
			r.Turns = append(r.Turns, Turn{said, text})
			said, open = "", false
		default:
			return r, wrong(fmt.Sprintf("messages[%d].role", i), "the role %q is unknown; known are system, developer, user, assistant", m.Role)
		}
	}
	if !open || strings.TrimSpace(said) == "" {
		return r, wrong("messages", "the last message must be the user's, with a text")
	}
	r.System, r.Prompt = strings.Join(system, "\n\n"), said
	return r, nil
}

func (c *completionBody) request() (r Request, err error) {
	var one string
	var many []string
	switch {
	case json.Unmarshal(c.Prompt, &one) == nil:
	case json.Unmarshal(c.Prompt, &many) == nil && len(many) == 1:
		one = many[0]
	default:
		return r, wrong("prompt", "prompt must be one text")
	}
	switch {
	case one == "":
		return r, wrong("prompt", "prompt is empty")
	case c.Echo || c.Suffix != "" || c.BestOf != nil && *c.BestOf != 1:
		return r, wrong("echo", "echo, suffix and best_of are not known here")
	}
	return Request{Raw: true, Prompt: one}, nil
}

// pick finds the model that a client names; the empty name is the first.
func pick(b Backend, name string) (string, error) {
	known := b.Models()
	if name == "" && len(known) > 0 {
		return known[0].Name, nil
	}
	if !slices.ContainsFunc(known, func(m Model) bool { return m.Name == name }) {
		return "", &Error{http.StatusNotFound, "invalid_request_error", "model_not_found", "model",
			fmt.Sprintf("the model %q is not here; GET /v1/models lists what is", name)}
	}
	return name, nil
}
