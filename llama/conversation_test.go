//go:build cgo

package llama

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/measure"
	"fedattn/fedkv/node"
)

// watching is a greedy sampler that keeps the logits before the first token.
type watching struct {
	node.Sampler
	first []float32
}

func (w *watching) Next(c node.Cache, i int) (fedkv.Token, error) {
	if w.first == nil {
		var err error
		if w.first, err = c.Logits(i); err != nil {
			return 0, err
		}
	}
	return w.Sampler.Next(c, i)
}

// party is contributors in this process, each with a text of its own.
type party struct {
	t      *testing.T
	engine *Engine
	hello  fedkv.Hello
	asker  node.Peers
}

func newParty(t *testing.T, texts ...string) *party {
	t.Helper()
	m := model(t)
	p := &party{t: t, engine: &Engine{Model: m}, hello: fedkv.Hello{
		Protocol: fedkv.Protocol, Name: "party", Engine: Commit(), Types: []fedkv.Type{fedkv.F16, fedkv.Q8_0, fedkv.Q4_0},
		Model: fedkv.Fingerprint{Architecture: "llama", Layers: m.Layers()},
	}}
	network := node.NewMemory()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	t.Cleanup(func() { cancel(); serving.Wait() })
	for i, text := range texts {
		id := fmt.Sprint("host", i)
		source, err := node.NewDocuments(p.engine, id, []node.Document{{Name: id, Text: text}})
		must(t, err)
		hello := p.hello
		hello.Role, hello.Name = fedkv.RoleContributor, id
		c := node.NewContributor(node.ContributorConfig{
			Engine: p.engine, Peers: network.Join(id), Self: hello, ID: id, Source: source, MaxContext: 512,
		})
		serving.Go(func() { _ = c.Serve(ctx) })
	}
	p.asker = network.Join("publisher")
	return p
}

func (p *party) contact(i int) node.Contact {
	return node.Contact{Dial: func(ctx context.Context) (node.Link, error) {
		return p.asker.Dial(ctx, node.Address{ID: fmt.Sprint("host", i)})
	}}
}

func (p *party) open(contacts ...node.Contact) *node.Conversation {
	p.t.Helper()
	frame, err := p.engine.Frame("Answer in one sentence.")
	must(p.t, err)
	schedules, err := fedkv.ParseSchedules("gather", p.engine.Layers())
	must(p.t, err)
	hello := p.hello
	hello.Role = fedkv.RolePublisher
	c, err := node.Open(p.t.Context(), node.Chat{
		Engine: p.engine, Self: hello, ID: "publisher", Contacts: contacts,
		Prefix: frame.Prefix, Suffix: frame.Suffix, Between: frame.Between,
		Schedules: schedules, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, p.engine.Layers()),
		Positions: fedkv.Canonical, MaxContext: 600, Keep: 200, SetupBy: 10 * time.Second, GatherBy: 5 * time.Minute,
	})
	must(p.t, err)
	p.t.Cleanup(func() { must(p.t, c.Close()) })
	return c
}

// turn answers greedily and returns the logits before the first token.
func (p *party) turn(say func(context.Context, node.Turn) (node.Reply, error), text string, limit int) (node.Reply, []float32) {
	p.t.Helper()
	greedy, release, err := p.engine.Sampler(Sampling{})
	must(p.t, err)
	defer func() { must(p.t, release()) }()
	w := &watching{Sampler: greedy}
	reply, err := say(p.t.Context(), node.Turn{Text: text, Sampler: w, Limit: limit})
	must(p.t, err)
	return reply, w.first
}

// divergence of one row of logits from another.
func divergence(t *testing.T, what string, base, run []float32) float64 {
	t.Helper()
	r, err := measure.Compare(base, run, len(base), []int32{0})
	must(t, err)
	t.Logf("%s: KL %.5f", what, r.KLMean)
	return r.KLMean
}

// near holds two rows of logits to each other: rounding, or other micro-batches, apart.
func near(t *testing.T, what string, base, run []float32) {
	t.Helper()
	if kl := divergence(t, what, base, run); kl > 0.01 {
		t.Errorf("%s: KL %.4f", what, kl)
	}
}

// far is its opposite: what differs here is seen.
func far(t *testing.T, what string, base, run []float32) {
	t.Helper()
	if kl := divergence(t, what, base, run); kl < 0.05 {
		t.Errorf("%s: KL %.4f only", what, kl)
	}
}

// A conversation on a real model: later turns receive nothing, what was regenerated or recalled is the same, and who was
// withdrawn or joined later is as if it had been so from the start.
func TestConversationOnARealModel(t *testing.T) {
	p := newParty(t, "The spare key hangs behind the blue door of the boathouse.",
		"Ferdinand repaired the boiler. Ferdinand lives in Lisbon.")
	const first, second = "Who repaired the boiler?", "Where does Ferdinand live? Answer with one word."
	c := p.open(p.contact(0), p.contact(1))
	answer, _ := p.turn(c.Turn, first, 8)
	reply, logits := p.turn(c.Turn, second, 8)
	if reply.Report.Received() != 0 || reply.Report.Reused < 60 || answer.Report.Received() == 0 {
		t.Errorf("%+v", reply.Report)
	}
	if again, same := p.turn(c.Regenerate, "", 8); again.Text != reply.Text {
		t.Errorf("regenerated %q, was %q", again.Text, reply.Text)
	} else {
		near(t, "regenerated", logits, same)
	}

	recalled := p.open(p.contact(0), p.contact(1))
	must(t, recalled.Recall(first, answer.Text))
	_, same := p.turn(recalled.Turn, second, 1)
	near(t, "recalled", logits, same)

	// without the second contributor, after the question and before it
	must(t, recalled.Withdraw(1))
	_, after := p.turn(recalled.Regenerate, "", 1)
	without := p.open(p.contact(0), p.contact(1))
	must(t, without.Withdraw(1))
	must(t, without.Recall(first, answer.Text))
	_, never := p.turn(without.Turn, second, 1)
	near(t, "withdrawn and never there", never, after)
	far(t, "withdrawn and there", same, after)

	// it joins in the second turn, and when everything that was said is forgotten, all rows are where they would have been
	later := p.open(p.contact(0))
	p.turn(later.Turn, first, 8)
	must(t, later.Add(p.contact(1)))
	_, joined := p.turn(later.Turn, second, 1)
	far(t, "joined and not there", joined, never)
	must(t, later.Rewind(0))
	_, moved := p.turn(later.Turn, second, 1)
	whole := p.open(p.contact(0), p.contact(1))
	_, fresh := p.turn(whole.Turn, second, 1)
	near(t, "rewound", fresh, moved)
}
