package main

import (
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

func TestLostLine(t *testing.T) {
	told := reporter{addresses: []transport.PeerAddress{{ID: "AAAAAAA-B", Name: "garden-pi"}, {ID: "CCCCCCC-D"}, {ID: "EEEEEEE-F"}}}
	missing := func(code fedkv.Code, name string, layer int, silent float64) node.PeerReport {
		phase := fedkv.PhaseTransfer
		if layer < 0 {
			phase = fedkv.PhaseConnect
		}
		return node.PeerReport{Missing: &fedkv.Missing{Code: code, Name: name, Phase: phase, Layer: layer}, SilentMS: silent}
	}
	for want, peers := range map[string][3]node.PeerReport{
		"": {},
		"2/3 peers, missing: garden-pi (timed out after 2.0 s in layer 17)": {missing(fedkv.CodeLost, "calls itself otherwise", 17, 2000)},
		"2/3 peers, missing: garden-pi (timed out after 61.5 s in layer 3)": {missing(fedkv.CodeDeadline, "", 3, 61499)},
		"2/3 peers, missing: CCCCCCC (timed out)":                           {{}, missing(fedkv.CodeDeadline, "", -1, 0)},
		"1/3 peers, missing: shed (lost in layer 0), EEEEEEE (home)":        {{}, missing(fedkv.CodeLost, "shed", 0, 0), missing(fedkv.CodeHome, "", -1, 0)},
		"0/3 peers, missing: garden-pi (stopped), CCCCCCC (memory), EEEEEEE (too-long)": {
			missing(fedkv.CodeCancelled, "", -1, 0), missing(fedkv.CodeMemory, "", -1, 0), missing(fedkv.CodeTooLong, "", -1, 0)},
		"1/3 peers, missing: garden-pi (not reached), CCCCCCC (shutting down)": {
			missing(fedkv.CodeLost, "", -1, 0), missing(fedkv.CodeStopping, "", -1, 0)},
	} {
		var r node.Report
		for i, p := range peers {
			p.Origin = i
			r.Peers = append(r.Peers, p)
		}
		r.Peers = append(r.Peers, node.PeerReport{Origin: 3}) // this device's own documents are no peer
		if got := told.lost(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
