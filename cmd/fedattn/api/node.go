package api

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"fedattn/fedkv/node"
	condition "fedattn/fedkv/node/status"
	"fedattn/fedkv/receipt"
)

// Prometheus asks one at a time, and gives up after 10 seconds by default.
const (
	maxScrapes    = 4
	scrapeTimeout = 10 * time.Second
)

// NodeMetrics shows a node to Prometheus: how it is, and sums of what it gave to others. They name no document and no peer.
type NodeMetrics struct {
	registry *prometheus.Registry

	sessions *prometheus.CounterVec
	tokens   prometheus.Counter
	bytes    prometheus.Counter
	queries  prometheus.Counter
	reused   prometheus.Counter
}

// NewNodeMetrics asks now for the node's state whenever somebody looks. joules is the energy that the board has drawn
// since the node began; nil where there is no sensor, and then nothing is shown of it.
func NewNodeMetrics(version string, now func() condition.Report, joules func() float64) *NodeMetrics {
	m := &NodeMetrics{registry: prometheus.NewRegistry()}
	gauge := func(name, help string, value func(condition.Report) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "fedattn_node_" + name, Help: help},
			func() float64 { return value(now()) }))
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "fedattn_node_" + name + "_total", Help: help})
		m.registry.MustRegister(c)
		return c
	}
	gauge("ready", "1 while other devices may ask.", func(r condition.Report) float64 { return truth(r.State == condition.Ready) })
	gauge("document_tokens", "Tokens of the texts that the node holds.", func(r condition.Report) float64 { return float64(r.Tokens) })
	gauge("sessions_running", "Questions that use the engine.", func(r condition.Report) float64 { return float64(r.Serving) })
	gauge("sessions_waiting", "Questions that wait for their turn.", func(r condition.Report) float64 { return float64(r.Waiting) })
	gauge("threads", "Threads that evaluate.", func(r condition.Report) float64 { return float64(r.Threads) })
	gauge("throttled", "1 while it uses fewer threads because the board throttles.", func(r condition.Report) float64 { return truth(r.Heat != "") })

	m.sessions = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fedattn_node_sessions_total", Help: "Sessions that are over, by how they ended."}, []string{"outcome"})
	for _, outcome := range []string{receipt.Sent, receipt.Failed, receipt.Refused} {
		m.sessions.WithLabelValues(outcome)
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "fedattn_node_info", Help: "1.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	m.registry.MustRegister(m.sessions, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.tokens = counter("contributed_tokens", "Tokens of texts that sessions were about.")
	m.bytes = counter("sent_bytes", "Rows that left this device.")
	m.queries = counter("answered_queries", "Queries that rows which stay here answered, each layer counted.")
	m.reused = counter("reused_sessions", "Sessions whose rows had been computed before.")
	if joules != nil {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "fedattn_node_energy_joules_total",
			Help: "What the board's power sensor has measured since the node began."}, joules))
	}
	return m
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Session counts one that is over.
func (m *NodeMetrics) Session(c node.Contribution, outcome string) {
	m.sessions.WithLabelValues(outcome).Inc()
	m.tokens.Add(float64(c.Tokens))
	m.bytes.Add(float64(c.Bytes))
	m.queries.Add(float64(c.Queries))
	m.reused.Add(truth(c.Kept))
}

// HTTP is a server of GET /metrics and nothing else.
func (m *NodeMetrics) HTTP() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}
