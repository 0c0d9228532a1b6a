package main

import (
	"context"
	"fmt"
	"net"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/api"
	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/device"
)

func metricsFlag() cli.Flag {
	return &cli.StringFlag{Name: "metrics", DefaultText: "nowhere", Category: deviceCategory,
		Usage: "TCP `ADDRESS` of /metrics for Prometheus: numbers, no names of peers and texts; whoever reaches it sees them"}
}

// nodeMetrics counts a node's sessions; nil counts nothing.
type nodeMetrics struct{ shown *api.NodeMetrics }

// openMetrics begins to answer at --metrics, if there is one, until close is called.
func openMetrics(c *cli.Context, health *condition, log zerolog.Logger) (m *nodeMetrics, close func(), err error) {
	address := c.String("metrics")
	if address == "" {
		return nil, func() {}, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; give another address with --metrics", err)
	}
	var joules func() float64
	power, err := device.Board{Root: device.Sysfs}.Begin()
	if err == nil {
		joules = power.Joules
	}
	m = &nodeMetrics{shown: api.NewNodeMetrics(version, health.now, joules)}
	web := m.shown.HTTP()
	web.BaseContext = func(net.Listener) context.Context { return c.Context }
	go func() { _ = web.Serve(listener) }()
	log.Info().Stringer("address", listener.Addr()).Bool("energy", joules != nil).Msg("metrics")
	return m, func() {
		_ = web.Close()
		_, _ = power.End()
	}, nil
}

// session counts one that is over and came to a plan.
func (m *nodeMetrics) session(done node.Contribution) {
	if m != nil && done.Session != (fedkv.SessionID{}) {
		m.shown.Session(done, outcome(done))
	}
}
