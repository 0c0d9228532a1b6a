package main

import (
	"testing"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

func TestLostLine(t *testing.T) {
	told := reporter{addresses: []transport.PeerAddress{{ID: "AAAAAAA-B", Name: "garden-pi"}, {ID: "CCCCCCC-D"}, {ID: "EEEEEEE-F"}}}
	missing := func(code fedkv.Code, name string, layer int) *fedkv.Missing {
		return &fedkv.Missing{Code: code, Name: name, Layer: layer}
	}
	for want, m := range map[string][3]*fedkv.Missing{
		"": {},
		"2/3 peers, missing: garden-pi (timed out in layer 17)":                         {missing(fedkv.CodeDeadline, "calls itself otherwise", 17)},
		"1/3 peers, missing: shed (lost in layer 0), EEEEEEE (home)":                    {nil, missing(fedkv.CodeLost, "shed", 0), missing(fedkv.CodeHome, "", -1)},
		"0/3 peers, missing: garden-pi (stopped), CCCCCCC (memory), EEEEEEE (too-long)": {missing(fedkv.CodeCancelled, "", -1), missing(fedkv.CodeMemory, "", -1), missing(fedkv.CodeTooLong, "", -1)},
	} {
		var r node.Report
		for i := range m {
			r.Peers = append(r.Peers, node.PeerReport{Origin: i, Missing: m[i]})
		}
		r.Peers = append(r.Peers, node.PeerReport{Origin: 3}) // this device's own documents are no peer
		if got := told.lost(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
