package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are in base units, seconds and bytes; what vLLM and llama-server count too has their names behind the prefix.
type metrics struct {
	registry *prometheus.Registry
	show     http.Handler

	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	running   prometheus.Gauge
	prompt    *prometheus.CounterVec
	cached    *prometheus.CounterVec
	generated *prometheus.CounterVec
	ttft      *prometheus.HistogramVec
	prefill   *prometheus.CounterVec
	decode    *prometheus.CounterVec
	sync      *prometheus.CounterVec
	received  *prometheus.CounterVec
	missing   *prometheus.CounterVec
}

// seconds from a hundredth to ten minutes: a Pi takes its time.
var seconds = []float64{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600}

func newMetrics(held func() float64, allocated func() int64) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	model := []string{"model_name"} // as vLLM's
	counter := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fedattn_" + name, Help: help}, model)
		m.registry.MustRegister(c)
		return c
	}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fedattn_http_requests_total", Help: "HTTP requests by route and status."}, []string{"route", "code"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "fedattn_http_request_duration_seconds", Help: "Time to the end of the response.", Buckets: seconds}, []string{"route"})
	m.running = prometheus.NewGauge(prometheus.GaugeOpts{Name: "fedattn_num_requests_running", Help: "Requests that are answered or wait for the model."})
	places := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "fedattn_num_requests_held", Help: "Requests that hold a place in the queue, the one that runs among them."}, held)
	m.ttft = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "fedattn_time_to_first_token_seconds", Help: "From the request's turn to the first token of its answer.", Buckets: seconds}, model)
	m.registry.MustRegister(m.requests, m.duration, m.running, places, m.ttft,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if allocated != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "fedattn_engine_allocated_bytes",
			Help: "Memory that the engine has allocated, beside Go's and the mapped model."}, func() float64 { return float64(allocated()) }))
	}
	m.prompt = counter("prompt_tokens_total", "Tokens that answers rest on, of this device and of peers.")
	m.cached = counter("cached_tokens_total", "Of the prompt tokens, those that were in the cache or came as rows.")
	m.generated = counter("generation_tokens_total", "Tokens of answers.")
	m.prefill = counter("prefill_seconds_total", "Time that own tokens took.")
	m.decode = counter("decode_seconds_total", "Time that answers took after their first token.")
	m.sync = counter("sync_seconds_total", "Time spent waiting for rows and placing them.")
	m.received = counter("received_bytes_total", "Rows received from peers.")
	m.missing = counter("missing_peers_total", "Peers that an answer did without.")
	m.show = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// serves makes the models' counters begin at zero.
func (m *metrics) serves(list []Model) {
	for _, model := range list {
		m.ttft.WithLabelValues(model.Name)
		m.counted(model.Name, Result{})
	}
}

func (m *metrics) serve(w http.ResponseWriter, r *http.Request) { m.show.ServeHTTP(w, r) }

func (m *metrics) request(route string, code int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) answered(model string, r Result) {
	m.ttft.WithLabelValues(model).Observe(r.TTFTMS / 1000)
	m.counted(model, r)
}

// counted adds up what came of a request.
func (m *metrics) counted(model string, r Result) {
	m.prompt.WithLabelValues(model).Add(float64(r.PromptTokens))
	m.cached.WithLabelValues(model).Add(float64(r.CachedTokens))
	m.generated.WithLabelValues(model).Add(float64(r.CompletionTokens))
	m.prefill.WithLabelValues(model).Add(r.PromptMS / 1000)
	m.decode.WithLabelValues(model).Add(r.CompletionMS / 1000)
	m.sync.WithLabelValues(model).Add(r.SyncMS / 1000)
	m.received.WithLabelValues(model).Add(float64(r.ReceivedBytes))
	m.missing.WithLabelValues(model).Add(float64(r.Missing))
}
