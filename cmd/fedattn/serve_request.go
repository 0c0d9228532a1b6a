package main

import (
	"errors"
	"strings"
	"time"

	"fedattn/cmd/fedattn/api"
	"fedattn/cmd/fedattn/assistant"
	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/receipt"
	"fedattn/llama"
)

// sampled is the server's own sampling with what a client says of it.
func (b *backend) sampled(client api.Sampling) (s assistant.Sampling, err error) {
	s = b.sampling
	for _, f := range []struct {
		to   *float32
		from *float64
	}{
		{&s.Temperature, client.Temperature}, {&s.TopP, client.TopP}, {&s.MinP, client.MinP}, {&s.RepeatPenalty, client.RepeatPenalty},
		{&s.PresencePenalty, client.PresencePenalty}, {&s.FrequencyPenalty, client.FrequencyPenalty},
	} {
		if f.from != nil {
			*f.to = float32(*f.from)
		}
	}
	if client.TopK != nil {
		s.TopK = *client.TopK
	}
	if client.MaxTokens != nil {
		s.Limit = *client.MaxTokens
	}
	if s.Seed = uint32(time.Now().UnixNano()); client.Seed != nil {
		s.Seed = uint32(*client.Seed)
	}
	s.Stop = client.Stop
	switch {
	case client.Schema != "":
		if s.Grammar, err = llama.GrammarOf(client.Schema); err != nil {
			return s, api.Invalid("response_format", errors.New(engineText(err)))
		}
	case client.Grammar != "":
		s.Grammar = client.Grammar
	}
	return s, nil
}

// asked words an error for a client.
func asked(err error) error {
	text := errors.New(engineText(err))
	switch {
	case errors.Is(err, fedkv.ErrTooLong):
		return api.TooLong(text)
	case strings.HasPrefix(text.Error(), "sampler: "):
		return api.Invalid("grammar", text)
	}
	return text
}

// present is how many other devices an answer rests on.
func (b *backend) present(peers []node.PeerReport) (n int) {
	for _, p := range peers {
		if b.told.isPeer(p) && p.Missing == nil {
			n++
		}
	}
	return n
}

// overviewJSON is what the page shows.
type overviewJSON struct {
	Model     string          `json:"model"` // of the last answer
	Models    []overviewModel `json:"models"`
	Busy      bool            `json:"busy"`
	Peers     []overviewPeer  `json:"peers"`
	Documents []overviewDoc   `json:"documents"`
	Receipts  []receiptLine   `json:"receipts"` // the latest of this device's node, newest first
}

type receiptLine struct {
	Time      time.Time `json:"time"`
	Name      string    `json:"name"`
	Documents []string  `json:"documents"`
	Bytes     int64     `json:"bytes"`
	Outcome   string    `json:"outcome"`
	Error     string    `json:"error,omitempty"`
}

// shownReceipts is how many receipts the page shows.
const shownReceipts = 10

type overviewModel struct {
	Name   string `json:"name"`
	Loaded bool   `json:"loaded"`
}

type overviewPeer struct {
	peerJSON
	State string `json:"state"`
}

type overviewDoc struct {
	Name   string `json:"name"`
	Tokens int    `json:"tokens"`
	Policy string `json:"policy"`
}

// Overview implements api.Backend.
func (b *backend) Overview() any {
	b.mu.Lock()
	last, model := b.overview, b.last
	b.mu.Unlock()
	if model == "" {
		model = b.models[0].name
	}
	o := overviewJSON{Model: model, Busy: len(b.one) > 0, Peers: []overviewPeer{}, Documents: []overviewDoc{}, Receipts: b.receipts()}
	for _, m := range b.Models() {
		o.Models = append(o.Models, overviewModel{m.Name, m.Loaded})
	}
	for i, a := range b.party.addresses {
		p := overviewPeer{peerJSON{Name: a.Name, ID: string(a.ID)}, "not asked yet"}
		if p.Name == "" {
			p.Name = a.ID.Short()
		}
		if last != nil && i < len(last.Peers) && last.Peers[i].ID == p.ID {
			p.peerJSON = last.Peers[i]
			p.State = "in the last answer"
		}
		o.Peers = append(o.Peers, p)
	}
	for i, d := range b.party.docs {
		doc := overviewDoc{Name: d.Name, Policy: "for this device's answers only"}
		if at := len(b.party.addresses) + i; last != nil && at < len(last.Peers) {
			doc.Tokens = last.Peers[at].Tokens
		}
		o.Documents = append(o.Documents, doc)
	}
	return o
}

// receipts are the latest of what this device's node gave away. What is wrong with the file, fedattn receipts tells.
func (b *backend) receipts() []receiptLine {
	latest, _ := receipt.Latest(b.dir, shownReceipts)
	list := []receiptLine{}
	for _, r := range latest {
		list = append(list, receiptLine{r.Time, r.Name, r.Documents, r.Bytes, r.Outcome, r.Error})
	}
	return list
}
