package main

import (
	"context"
	"errors"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

// peers is a transport endpoint as package node sees it.
type peers struct {
	*transport.Endpoint
	// allow is the owner's word about devices that this one dials, nil for all. A contributor sends rows to devices that
	// a publisher names, and those are not always the owner's choice.
	allow func(transport.ID) error
	// called is what the owner calls a device; nil, or an empty name, if nothing.
	called func(transport.ID) string
}

func (p peers) Dial(ctx context.Context, to node.Address) (node.Link, error) {
	id, err := transport.ParseID(to.ID)
	if err != nil {
		return nil, err
	}
	if p.allow != nil {
		if err := p.allow(id); err != nil {
			return nil, err
		}
	}
	at := transport.PeerAddress{ID: id, HostPort: to.HostPort}
	if p.called != nil {
		at.Name = p.called(id)
	}
	peer, err := p.Endpoint.Dial(ctx, at)
	if p.allow != nil && (errors.Is(err, transport.ErrWrongID) || errors.Is(err, transport.ErrSelf)) {
		// the address is what the publisher sees, which behind a NAT is another device's, or this one's own
		return nil, &fedkv.Error{Code: fedkv.CodeLost, Text: err.Error()}
	}
	if err != nil {
		// the endpoint's own deadline is among the causes; the session's is not over because of it
		return nil, &fedkv.Error{Code: fedkv.CodeOf(err), Text: err.Error()}
	}
	return link{peer}, nil
}

func (p peers) Accept(ctx context.Context) (node.Link, error) {
	peer, err := p.Endpoint.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return link{peer}, nil
}

// link is a connection as package node sees it.
type link struct{ *transport.Peer }

func (l link) ID() string { return string(l.Peer.ID()) }

// Flush waits for a round trip behind everything sent before it.
func (l link) Flush(ctx context.Context) error {
	_, err := l.Ping(ctx)
	return err
}

func (l link) OpenRounds(ctx context.Context) (node.Rounds, error) {
	r, err := l.Peer.OpenRounds(ctx)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (l link) AcceptRounds(ctx context.Context) (node.Rounds, error) {
	r, err := l.Peer.AcceptRounds(ctx)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (l link) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	return l.Peer.SendBlock(ctx, h, rows)
}

func (l link) AcceptBlock(ctx context.Context, check func(fedkv.BlockHeader) error) (fedkv.BlockHeader, node.Rows, error) {
	h, buffer, err := l.Peer.AcceptBlock(ctx, check)
	if err != nil {
		return h, node.Rows{}, err
	}
	return h, node.Rows{Bytes: buffer.Bytes(), Release: buffer.Release}, nil
}
