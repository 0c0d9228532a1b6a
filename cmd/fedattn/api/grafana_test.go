package api

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The dashboard in deploy/ asks for metrics that there are.
func TestDashboardAsksForKnownMetrics(t *testing.T) {
	b, err := os.ReadFile("../../../deploy/grafana/fedattn.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) {
		t.Fatal("it is no JSON")
	}
	s := New(Config{})
	s.metrics.request("r", 200, 1)
	s.Ready(&parrot{})
	families, err := s.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range families {
		known[f.GetName()] = true
	}
	found := regexp.MustCompile(`fedattn_[a-z_]+`).FindAllString(string(b), -1)
	for _, name := range found {
		if !known[strings.TrimSuffix(name, "_bucket")] {
			t.Errorf("there is no %s", name)
		}
	}
	if len(found) < 10 {
		t.Errorf("only %d metrics", len(found))
	}
}
