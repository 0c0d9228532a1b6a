package main

import (
	"net"
	"strconv"

	"github.com/urfave/cli/v2"
)

func advertiseFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "advertise", DefaultText: "this device's own addresses", Category: deviceCategory,
		Usage: "`ADDRESS` (HOST or HOST:PORT) at which others reach this node, if it cannot know it: in a container with a published port, behind a NAT"}
}

// advertised are hosts with or without a port under which a node is to be reached; empty: its own addresses.
type advertised []string

func readAdvertised(c *cli.Context) (advertised, error) {
	list := advertised(c.StringSlice("advertise"))
	for _, a := range list {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = a, "1"
			if net.ParseIP(a) == nil { // an IPv6 address without brackets has colons of its own
				_, _, err = net.SplitHostPort(a + ":1")
			} else {
				err = nil
			}
		}
		if n, notNumber := strconv.Atoi(port); err != nil || host == "" || notNumber != nil || n < 1 || n > 65535 {
			return nil, usagef("--advertise %q: write HOST or HOST:PORT, such as 192.168.1.20 or pi.example:7843", a)
		}
	}
	return list, nil
}

// of are the addresses of a socket as others have to know them.
func (a advertised) of(socket net.Addr) []string {
	if len(a) == 0 {
		return reachable(socket)
	}
	_, port, _ := net.SplitHostPort(socket.String())
	var list []string
	for _, address := range a {
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(address, port)
		}
		list = append(list, address)
	}
	return list
}
