package main

import (
	"fmt"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"

	"fedattn/fedkv/node"
)

// layersJSON is the sync layers of an answer one by one.
type layersJSON struct {
	Layers []layerJSON     `json:"layers"`
	Home   []homeLayerJSON `json:"home_layers,omitempty"`
}

// layerJSON is one of them. Times are in milliseconds.
type layerJSON struct {
	Layer   int             `json:"layer"`
	WaitMS  float64         `json:"wait_ms"`
	PlaceMS float64         `json:"place_ms"`
	Peers   []layerPeerJSON `json:"peers"`
}

type layerPeerJSON struct {
	Name  string `json:"name"`
	Rows  int    `json:"rows"`
	Bytes int64  `json:"bytes"`
	// LastMS is when its last block came, after the question; of rows that were asked for before it, negative.
	LastMS float64 `json:"last_ms"`
}

// homeLayerJSON is rounds of one token at a layer, in microseconds.
type homeLayerJSON struct {
	Layer    int     `json:"layer"`
	Rounds   int     `json:"rounds"`
	MinUS    float64 `json:"min_us"`
	MedianUS float64 `json:"median_us"`
	MaxUS    float64 `json:"max_us"`
}

// layers is nil unless they are to be told.
func (t reporter) layers(r node.Report) *layersJSON {
	if !t.perLayer {
		return nil
	}
	out := &layersJSON{Layers: []layerJSON{}}
	for _, l := range r.Layers {
		j := layerJSON{Layer: l.Layer, WaitMS: l.WaitMS, PlaceMS: l.PlaceMS, Peers: []layerPeerJSON{}}
		for _, p := range r.Peers {
			if rows, there := rowsAt(p, l.Layer); there {
				j.Peers = append(j.Peers, layerPeerJSON{t.shown(p), rows.Rows, rows.Bytes, afterQuestion(r, rows)})
			}
		}
		out.Layers = append(out.Layers, j)
	}
	for _, h := range r.Home.Layers {
		out.Home = append(out.Home, homeLayerJSON(h))
	}
	return out
}

// traceLayers prints the same as tables.
func (t reporter) traceLayers(r node.Report) {
	if len(r.Layers) > 0 {
		rows := newTable(t.err, "layer", "waited ms", "placed ms", "peer", "rows", "bytes", "last block ms")
		for _, l := range r.Layers {
			head := table.Row{l.Layer, fmt.Sprintf("%.1f", l.WaitMS), fmt.Sprintf("%.1f", l.PlaceMS)}
			for _, p := range r.Peers {
				if at, there := rowsAt(p, l.Layer); there {
					rows.AppendRow(append(head, t.shown(p), at.Rows, at.Bytes, fmt.Sprintf("%.0f", afterQuestion(r, at))))
					head = table.Row{"", "", ""}
				}
			}
			if head[0] != "" {
				rows.AppendRow(append(head, "", "", "", ""))
			}
		}
		rows.Render()
	}
	if len(r.Home.Layers) > 0 {
		rows := newTable(t.err, "layer", "round trips", "min us", "median us", "max us")
		for _, h := range r.Home.Layers {
			rows.AppendRow(table.Row{h.Layer, h.Rounds, fmt.Sprintf("%.0f", h.MinUS), fmt.Sprintf("%.0f", h.MedianUS), fmt.Sprintf("%.0f", h.MaxUS)})
		}
		rows.Render()
	}
}

// rowsAt is what came of a contributor for a layer.
func rowsAt(p node.PeerReport, layer int) (rows node.LayerRows, there bool) {
	i := slices.IndexFunc(p.Layers, func(l node.LayerRows) bool { return l.Layer == layer })
	if i < 0 {
		return rows, false
	}
	return p.Layers[i], true
}

// shown is a contributor's name, or the beginning of its ID.
func (t reporter) shown(p node.PeerReport) string {
	name := t.name(p.Origin, p.Name)
	if name == "" && t.isPeer(p) {
		name = t.addresses[p.Origin].ID.Short()
	}
	return name
}

// afterQuestion is when a layer's last block came, in milliseconds.
func afterQuestion(r node.Report, l node.LayerRows) float64 {
	return 1000 * l.Last.Sub(r.Started).Seconds()
}
