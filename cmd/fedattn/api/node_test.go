package api

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"fedattn/fedkv/node"
	condition "fedattn/fedkv/node/status"
	"fedattn/fedkv/receipt"
)

func TestNodeMetrics(t *testing.T) {
	now := condition.Report{State: condition.Ready, Name: "secret-name", Tokens: 52, Serving: 1, Waiting: 2, Threads: 3, Heat: "82 °C"}
	m := NewNodeMetrics("v1", func() condition.Report { return now }, func() float64 { return 7.5 })
	m.Session(node.Contribution{Tokens: 52, Bytes: 1000, Kept: true, Name: "secret-peer", Documents: []string{"secret-text"}}, receipt.Sent)
	m.Session(node.Contribution{Tokens: 52, Queries: 30}, receipt.Sent)
	m.Session(node.Contribution{}, receipt.Refused)
	web := httptest.NewServer(m.HTTP().Handler)
	defer web.Close()
	read := func() string {
		resp, err := http.Get(web.URL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", resp.Status, err)
		}
		return string(text)
	}
	text := read()
	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if strings.Contains(text, "secret") {
		t.Error("it names somebody, or something")
	}
	shown := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader([]byte(text))); lines.Scan(); {
		shown[lines.Text()] = true
	}
	for _, line := range []string{
		"fedattn_node_ready 1", "fedattn_node_document_tokens 52", "fedattn_node_sessions_running 1", "fedattn_node_sessions_waiting 2",
		"fedattn_node_threads 3", "fedattn_node_throttled 1", `fedattn_node_sessions_total{outcome="sent"} 2`,
		`fedattn_node_sessions_total{outcome="refused"} 1`, `fedattn_node_sessions_total{outcome="failed"} 0`,
		"fedattn_node_contributed_tokens_total 104", "fedattn_node_sent_bytes_total 1000", "fedattn_node_reused_sessions_total 1",
		"fedattn_node_answered_queries_total 30", "fedattn_node_energy_joules_total 7.5", `fedattn_node_info{version="v1"} 1`,
	} {
		if !shown[line] {
			t.Errorf("there is no %q in\n%s", line, text)
		}
	}
	now = condition.Report{State: condition.Stopping}
	if text := read(); !strings.Contains(text, "\nfedattn_node_ready 0\n") || !strings.Contains(text, "\nfedattn_node_throttled 0\n") {
		t.Errorf("a node that stops:\n%s", text)
	}
	if resp, err := http.Get(web.URL + "/"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("another path: %v, %v", resp.Status, err)
	}
}

func TestNodeMetricsWithoutASensor(t *testing.T) {
	families, err := NewNodeMetrics("v1", func() condition.Report { return condition.Report{} }, nil).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.Contains(f.GetName(), "energy") {
			t.Errorf("there is %v", f)
		}
	}
}
