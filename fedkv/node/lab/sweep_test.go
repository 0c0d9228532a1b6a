package lab

import (
	"context"
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node/nodetest"
)

// What a sweep says of a setting is what its session says, bit for bit, in logits and in bytes.
func TestASweepIsTheSession(t *testing.T) {
	e := nodetest.NewEngine()
	layers := len(e.Shape().Layers)
	p, err := Cut(stream(70), 70, 5, 9, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ contributors, publisher, wire string }{
		{"none", "all", "f16/f16"},
		{"none", "all", "q8_0/q4_0"},
		{"none", "1-3", "q4_0/q4_0,2=f16/q8_0"},
		{"none", "none", "q8_0/q4_0"},
		{"all", "all", "q8_0/q4_0"},
		{"0,2", "1-", "f16/f16"},
	} {
		contributors, err := fedkv.ParseSchedule(c.contributors, layers)
		if err != nil {
			t.Fatal(err)
		}
		publisher, err := fedkv.ParseSchedule(c.publisher, layers)
		if err != nil {
			t.Fatal(err)
		}
		wire, err := fedkv.ParseWire(c.wire, layers)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSweep(context.Background(), e, p, contributors, wire)
		if err != nil {
			t.Fatal(err)
		}
		// the second answer must not depend on the first
		if _, _, err := s.Publish(context.Background(), contributors, wire); err != nil {
			t.Fatal(err)
		}
		got, bytes, err := s.Publish(context.Background(), publisher, wire)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		positions := fedkv.Canonical
		if contributors.Count() > 0 {
			positions = fedkv.InPlace
		}
		want, err := Run(context.Background(), e, Memory, e.Hello("lab", fedkv.RolePublisher), p, Setting{
			Schedules: fedkv.Schedules{Contributors: contributors, Publisher: publisher}, Wire: wire,
			Positions: positions, Timeout: sessionTimeout,
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want.Logits) {
			t.Errorf("%+v: other logits", c)
		}
		if bytes != want.Report.Received() {
			t.Errorf("%+v: %d bytes, the session received %d", c, bytes, want.Report.Received())
		}
	}
	if n := e.OpenCaches(); n != 0 {
		t.Errorf("%d caches are still open", n)
	}
}
