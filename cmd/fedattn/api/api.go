// Package api is the HTTP side of fedattn: the OpenAI-compatible API, what monitoring reads, and a web page. It knows no
// model and no network of peers: whoever answers is a Backend.
//
// Start reading at New. request.go reads what clients send, respond.go and stream.go answer in OpenAI's shapes, guard.go
// says who may ask, metrics.go counts, page.go serves the page.
package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Backend answers. Answer may be called from several goroutines; it decides itself how many run at once.
type Backend interface {
	// Models are those that clients may choose from, always the same ones; the first is the default.
	Models() []Model
	// Answer answers a request; emit gets the text as it comes, whole characters at a time.
	Answer(ctx context.Context, r Request, emit func(text string) error) (Result, error)
	// Overview is what the page shows of peers and documents, as JSON.
	Overview() any
}

// Model is one that clients may choose.
type Model struct {
	Name   string
	Loaded bool // it is in memory; another one is loaded when it is asked
}

// Request is what a client wants.
type Request struct {
	Model    string
	System   string
	Turns    []Turn // said before
	Prompt   string // the user's last words, or the text to be continued
	Raw      bool   // to be continued as it is, without a chat template
	Sampling Sampling
}

// Turn is what was said, and answered.
type Turn struct{ User, Answer string }

// Sampling is what a client says of it; nil is the server's own.
type Sampling struct {
	Temperature, TopP, MinP, RepeatPenalty, PresencePenalty, FrequencyPenalty *float64
	TopK, MaxTokens                                                           *int
	Seed                                                                      *int64
	Stop                                                                      []string
	Grammar                                                                   string // GBNF
	Schema                                                                    string // JSON; empty: none
}

// Result is what came of a request.
type Result struct {
	Finish           string // stop or length
	PromptTokens     int
	CachedTokens     int // of them, how many this device did not evaluate for this request: cached ones, and peers' rows
	CompletionTokens int
	PromptMS         float64
	CompletionMS     float64
	TTFTMS           float64
	SyncMS           float64
	ReceivedBytes    int64
	Missing          int // peers
	Federation       any // as fedattn ask --json has it
}

// Limits of what clients may send and wait for.
const (
	maxBody       = 8 << 20 // bytes
	maxWaiting    = 32      // requests behind the one that runs
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	writeTimeout  = 30 * time.Second // of each piece of an answer
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// Config says how a server is reached.
type Config struct {
	Key      string // what clients have to know; empty: nobody but this machine reaches it
	Loopback bool   // it listens for this machine only
	Version  string

	Allocated func() int64 // bytes that C code has allocated, for metrics; nil: not told
}

// Server is the API. Until Ready is called it says that it is loading.
type Server struct {
	cfg     Config
	started time.Time
	mux     *http.ServeMux
	metrics *metrics
	turns   chan struct{} // one for each request that may run or wait

	mu      sync.Mutex
	backend Backend
}

// New makes a server without a backend.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, started: time.Now(), mux: http.NewServeMux(), turns: make(chan struct{}, maxWaiting+1)}
	s.metrics = newMetrics(func() float64 { return float64(len(s.turns)) }, cfg.Allocated)
	s.handle("GET /health", s.health, false)
	s.handle("GET /v1/health", s.health, false)
	s.handle("GET /v1/models", s.models, true)
	s.handle("POST /v1/chat/completions", s.chat, true)
	s.handle("POST /v1/completions", s.completion, true)
	s.handle("GET /v1/federation", s.overview, true)
	s.handle("GET /metrics", s.metrics.serve, true)
	s.page()
	s.handle("/", func(w http.ResponseWriter, r *http.Request) { writeError(w, notFound(r)) }, true)
	return s
}

// Ready hands over the backend.
func (s *Server) Ready(b Backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backend = b
	s.metrics.serves(b.Models())
}

func (s *Server) ready() (Backend, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backend == nil {
		return nil, loading()
	}
	return s.backend, nil
}

// HTTP is a server for a listener, with all of its limits set.
func (s *Server) HTTP() *http.Server {
	return &http.Server{Handler: s, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	s.mux.ServeHTTP(w, r)
}

// handle counts requests and lets in who may ask.
func (s *Server) handle(pattern string, serve http.HandlerFunc, guarded bool) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		counted := &counter{ResponseWriter: w}
		began := time.Now()
		defer func() { s.metrics.request(r.Pattern, counted.code(), time.Since(began)) }()
		err := s.checkOrigin(r)
		if err == nil && guarded {
			err = s.checkKey(r)
		}
		if err != nil {
			writeError(counted, err)
			return
		}
		serve(counted, r)
	})
}

// counter remembers the status that was written.
type counter struct {
	http.ResponseWriter
	status int
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *counter) code() int {
	if c.status == 0 {
		return http.StatusOK
	}
	return c.status
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if _, err := s.ready(); err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

type modelList struct {
	Object string      `json:"object"`
	Data   []modelInfo `json:"data"`
}

type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Status  status `json:"status"` // as llama-server's
}

type status struct {
	Value string `json:"value"` // loaded or unloaded
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	b, err := s.ready()
	if err != nil {
		writeError(w, err)
		return
	}
	list := modelList{Object: "list", Data: []modelInfo{}}
	for _, m := range b.Models() {
		state := status{"unloaded"}
		if m.Loaded {
			state.Value = "loaded"
		}
		list.Data = append(list.Data, modelInfo{m.Name, "model", s.started.Unix(), "fedattn", state})
	}
	writeJSON(w, http.StatusOK, list)
}

func (s *Server) overview(w http.ResponseWriter, _ *http.Request) {
	b, err := s.ready()
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, b.Overview())
}

// Registry is what /metrics shows.
func (s *Server) Registry() *prometheus.Registry { return s.metrics.registry }
