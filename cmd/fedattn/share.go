package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/models"
	"fedattn/transport"
)

// How devices hand each other the model: HTTP as of a hub, on streams of the connection that they have, see fedkv.Fetch.

const (
	// maxProbe bounds, in bytes, what is sent to measure a link.
	maxProbe = 64 << 20
	// fetchPatience bounds how long a device that looks at the model may say nothing.
	fetchPatience = time.Minute
)

// streamConn is a stream of a connection as net/http wants it.
type streamConn struct {
	*transport.Rounds
	at streamAddr
}

type streamAddr string

func (a streamAddr) Network() string { return "fedattn" }
func (a streamAddr) String() string  { return string(a) }

func (c streamConn) LocalAddr() net.Addr  { return c.at }
func (c streamConn) RemoteAddr() net.Addr { return c.at }

func conn(at node.Link, stream node.Rounds, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	r, ok := stream.(*transport.Rounds)
	if !ok {
		return nil, fmt.Errorf("streams of %T cannot carry HTTP", stream)
	}
	r.Yield()
	return streamConn{r, streamAddr(at.Addr())}, nil
}

// streams is a listener for the streams that a device opens.
type streams struct {
	ctx  context.Context
	link node.Link
}

func (s streams) Accept() (net.Conn, error) {
	stream, err := s.link.AcceptRounds(s.ctx)
	return conn(s.link, stream, err)
}

func (s streams) Close() error   { return nil }
func (s streams) Addr() net.Addr { return streamAddr("streams") }

// shareModel lets devices have the model at path, whose hashes are computed when the first one asks.
func shareModel(path string, log zerolog.Logger) func(ctx context.Context, link node.Link) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		share, err := models.Share(r.Context(), path, cacheDir())
		if err != nil {
			log.Error().Err(err).Msg("the model cannot be handed out")
			http.Error(w, "the model cannot be read there", http.StatusInternalServerError)
			return
		}
		share.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /probe", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		if err != nil || n < 0 || n > maxProbe {
			http.Error(w, fmt.Sprintf("bytes must be 0 to %d", maxProbe), http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, zeros{}, n)
	})
	mux.HandleFunc("POST /probe", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxProbe))
	})
	return func(ctx context.Context, link node.Link) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		server := &http.Server{
			Handler: mux, ReadHeaderTimeout: fetchPatience, IdleTimeout: fetchPatience,
			BaseContext: func(net.Listener) context.Context { return ctx },
		}
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		_ = server.Serve(streams{ctx, link}) // until the link ends
		_ = server.Close()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// fetching says what is wanted on a fresh link, and returns how streams of it are opened. There is one at a time: the one
// before, which no request uses any more, is closed.
func fetching(ctx context.Context, link node.Link) (dial func(ctx context.Context, network, address string) (net.Conn, error), err error) {
	if err := link.Send(ctx, fedkv.Fetch{Protocol: fedkv.Protocol}); err != nil {
		return nil, err
	}
	var last net.Conn
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		if last != nil {
			_ = last.Close()
		}
		stream, err := link.OpenRounds(ctx)
		c, err := conn(link, stream, err)
		last = c
		return c, err
	}, nil
}

// probeBytes is what is sent each way to measure a link.
const probeBytes = 16 << 20

// rates are what a link carries, in bits a second.
type rates struct {
	From float64 `json:"bits_per_second_from"`
	To   float64 `json:"bits_per_second_to"`
}

// measureLink sends something both ways over a fresh link to a node.
func measureLink(ctx context.Context, link node.Link) (r rates, err error) {
	dial, err := fetching(ctx, link)
	if err != nil {
		return r, err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, MaxConnsPerHost: 1, DisableCompression: true}, Timeout: fetchPatience}
	address := fmt.Sprintf("http://peer/probe?bytes=%d", probeBytes)
	once := func(method string, body io.Reader) (float64, error) {
		req, err := http.NewRequestWithContext(ctx, method, address, body)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("the node answers %s", resp.Status)
		}
		return 8 * probeBytes / time.Since(began).Seconds(), nil
	}
	if r.From, err = once(http.MethodGet, nil); err != nil {
		return r, err
	}
	r.To, err = once(http.MethodPost, io.LimitReader(zeros{}, probeBytes))
	return r, err
}
