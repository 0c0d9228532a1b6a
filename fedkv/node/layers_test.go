package node_test

import "testing"

// What is told of the layers adds up to what is told of the whole.
func TestLayersAddUp(t *testing.T) {
	for _, schedule := range []string{"gather", "H=2"} {
		play(t, schedule, func(t *testing.T) {
			s := newStage(t, schedule, f16, 30, 25, 4)
			s.open()
			o := s.mustAsk(answering(2))
			s.close()
			r := o.report
			if len(r.Layers) != s.schedules.Publisher.Count() {
				t.Errorf("%d layers of %d", len(r.Layers), s.schedules.Publisher.Count())
			}
			sync := 0.0
			for i, l := range r.Layers {
				if !s.schedules.Publisher.Sync(l.Layer) || i > 0 && l.Layer <= r.Layers[i-1].Layer || l.WaitMS < 0 || l.PlaceMS < 0 {
					t.Errorf("%+v", l)
				}
				sync += l.WaitMS + l.PlaceMS
			}
			if d := sync - r.SyncMS; d > 1e-6 || d < -1e-6 {
				t.Errorf("the layers took %g ms, all of them %g", sync, r.SyncMS)
			}
			for _, p := range r.Peers {
				rows, bytes := 0, int64(0)
				for _, l := range p.Layers {
					if l.Last.IsZero() {
						t.Errorf("%s: no time of layer %d", p.Name, l.Layer)
					}
					rows, bytes = rows+l.Rows, bytes+l.Bytes
				}
				if rows != p.Rows || bytes != p.Bytes || rows == 0 {
					t.Errorf("%s: %d rows in %d bytes, by layers %d in %d", p.Name, p.Rows, p.Bytes, rows, bytes)
				}
			}
		})
	}
}

func TestHomeLayers(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", f16, 30, 25, 4)
		s.open()
		o := s.mustAsk(answering(4), stay())
		s.close()
		layers := o.report.Home.Layers
		if len(layers) != s.engine.Model.Layers {
			t.Fatalf("%d layers", len(layers))
		}
		for i, l := range layers {
			if l.Layer != i || l.Rounds != len(o.after)-1 || l.MinUS > l.MedianUS || l.MedianUS > l.MaxUS {
				t.Errorf("%+v", l)
			}
		}
	})
}
