package main

import (
	"crypto/rand"
	"fmt"

	"fedattn/fedkv/node"
	"fedattn/fedkv/node/lab"
	"fedattn/transport"
)

// loopback is a lab network of QUIC endpoints with identities of their own, on this machine's loopback address.
func loopback(n int) (devices []lab.Device, closeAll func(), err error) {
	var endpoints []*transport.Endpoint
	closeAll = func() {
		for _, e := range endpoints {
			_ = e.Close()
		}
	}
	for range n {
		identity, err := transport.NewIdentity(rand.Reader)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		e, err := transport.Listen(transport.Config{Identity: identity, Listen: "127.0.0.1:0"})
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("a participant's endpoint: %w", err)
		}
		endpoints = append(endpoints, e)
		devices = append(devices, lab.Device{
			Address: node.Address{ID: string(identity.ID()), HostPort: e.Addr().String()},
			Peers:   peers{Endpoint: e},
		})
	}
	return devices, closeAll, nil
}

// networks by the name that --transport takes.
var networks = map[string]lab.Network{"memory": lab.Memory, "quic": loopback}
