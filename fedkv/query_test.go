package fedkv

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// queriesOf is queries of all layers of a shape, with so many vectors each.
func queriesOf(shape Shape, vectors int) []Query {
	list := make([]Query, len(shape.Layers))
	for l, s := range shape.Layers {
		list[l] = Query{Heads: 1, Vectors: gaussians(uint64(l), vectors, s.K)}
	}
	return list
}

func mustQueries(t failer, shape Shape, layers Schedule, queries []Query) []Queries {
	t.Helper()
	list, err := queryMessages(bookSession, shape, layers, queries)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Rows are ranked by attention as the model computes it, the largest share that any head of any vector gives.
func TestRowsAreRankedByAttention(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const heads, dim = 2, 3
		n, vectors := rapid.IntRange(1, 20).Draw(t, "rows"), rapid.IntRange(1, 3).Draw(t, "vectors")
		seed := rapid.Uint64().Draw(t, "seed")
		keys, q := gaussians(seed, n, heads*dim), Query{heads, gaussians(seed+1, vectors, heads*dim)}
		got := q.distance(keys, n)
		for i := range n {
			want := 0.0
			for v := range vectors {
				for h := range heads {
					score := func(i int) float64 {
						dot := 0.0
						for j := range dim {
							dot += float64(q.Vectors[v*heads*dim+h*dim+j]) * float64(keys[i*heads*dim+h*dim+j])
						}
						return math.Exp(dot / math.Sqrt(dim))
					}
					sum := 0.0
					for k := range n {
						sum += score(k)
					}
					want = max(want, score(i)/sum)
				}
			}
			if math.Abs(got[i]+want) > 1e-9 {
				t.Fatalf("row %d has rank %g, the largest share is %g", i, got[i], want)
			}
		}
	})
	// A row that answers a query is kept, whatever the others do.
	keys := []float32{9, 0, 0, 9, 0, 5, 9, 0, 0, 0}
	s := Selection{Kind: RowsQuery, Shares: []Share{2000}}
	if got := marked(s.Select(0, 5, 0, 5, keys, Query{1, []float32{-1, 1}})); !slices.Equal(got, []int{1}) {
		t.Errorf("kept %v", got)
	}
}

// However long rows are and many layers there are, each layer goes out once, within the limits, and comes back as it was
// in float16.
func TestQueriesArePackedWithinTheLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := Shape{Layers: make([]LayerShape, rapid.IntRange(1, 150).Draw(t, "layers"))}
		rows := rapid.SampledFrom([]int{8, 192, 1024, 4096, 15360}).Draw(t, "elements")
		for l := range shape.Layers {
			shape.Layers[l] = LayerShape{K: rows, V: 1}
		}
		layers := mustSchedule(t, rapid.SampledFrom([]string{"all", "0", "tail=1"}).Draw(t, "schedule"), len(shape.Layers))
		vectors := QueryVectors(shape, layers)
		if vectors < 1 || vectors > MaxQueryVectors {
			if layers.Count()*2*rows <= queryTotal {
				t.Fatalf("%d vectors for %d layers of %d elements", vectors, layers.Count(), rows)
			}
			return
		}
		queries := make([]Query, len(shape.Layers))
		for l := range queries {
			queries[l] = Query{1 + l%2, slices.Repeat([]float32{float32(l)}, vectors*rows)}
		}
		var seen []int
		list := mustQueries(t, shape, layers, queries)
		for _, m := range list {
			frame, err := AppendMessage(nil, m)
			if err != nil {
				t.Fatal(err)
			}
			back, err := ParseMessage(MessageQueries, frame[FrameHeaderSize:])
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range back.(Queries).Layers {
				got := make([]float32, vectors*rows)
				if err := F16.DecodeRows(got, rows, l.Vectors); err != nil || !slices.Equal(got, queries[l.Layer].Vectors) || m.Heads != 1+l.Layer%2 {
					t.Fatalf("layer %d comes back with %d heads, %v", l.Layer, m.Heads, err)
				}
				seen = append(seen, l.Layer)
			}
		}
		if !slices.Equal(seen, layers.Layers()) {
			t.Fatalf("layers %v were sent, of %v", seen, layers)
		}
	})
	if n := QueryVectors(Shape{Layers: []LayerShape{{K: MaxRowElements, V: 1}}}, mustSchedule(t, "all", 1)); n != 0 {
		t.Errorf("%d vectors of the longest rows fit", n)
	}
}

func queryPlan(t failer, spec string) Plan {
	t.Helper()
	plan := lockstepPlan(t)
	s, err := ParseSchedules(spec, 3)
	if err != nil {
		t.Fatal(err)
	}
	plan.Schedules, plan.Rows = s, Selection{Kind: RowsQuery, Shares: []Share{5000}}
	return plan
}

// asked is a contributor that had a plan by which rows are compared with queries, and if commit is set its commit.
func asked(t failer, spec string, commit bool) *Contributor {
	t.Helper()
	cfg := contributorConfig()
	cfg.Greeted = true
	c, err := NewContributor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	events := []Event{Received{PublisherLink, queryPlan(t, spec)}, Tokenised{5}}
	if commit {
		events = append(events, Received{PublisherLink, lockstepCommit()})
	}
	for _, e := range events {
		if err := c.Step(e); err != nil {
			t.Fatal(fmt.Sprintf("%T: %v", e, err))
		}
	}
	return c
}

// The work starts with the last queries that it needs, in any order and number of messages; not before.
func TestContributorStartsWhenItsQueriesAreHere(t *testing.T) {
	shape := bookShape(3)
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom([]string{"gather", "lockstep", "contributors=0;publisher=2", "contributors=none;publisher=1"}).Draw(t, "spec")
		c := asked(t, spec, true)
		sync := c.plan.Schedules.Any()
		queries := queriesOf(shape, rapid.IntRange(1, MaxQueryVectors).Draw(t, "vectors"))
		left := rapid.Permutation(sync.Layers()).Draw(t, "order")
		needed := c.work.Sends
		for len(left) > 0 {
			if c.Ready().Start != nil {
				t.Fatalf("started without layers %v", left)
			}
			if _, err := c.Blocks(needed.Last(), 0, 1, nil); !errors.Is(err, ErrOrder) {
				t.Fatalf("rows before the queries: %v", err)
			}
			n := rapid.IntRange(1, len(left)).Draw(t, "n")
			part := slices.Sorted(slices.Values(left[:n]))
			left = left[n:]
			only, err := NewSchedule(3, part...)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range mustQueries(t, shape, only, queries) {
				if err := c.Step(Received{PublisherLink, m}); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.ContainsFunc(left, needed.Sync) {
				break
			}
		}
		work := c.Ready().Start
		if work == nil {
			t.Fatal("all queries are here and the work has not started")
		}
		for _, l := range needed.Layers() {
			for i, v := range work.Queries[l].Vectors {
				if math.Abs(float64(v-queries[l].Vectors[i])) > 0.01 {
					t.Fatalf("layer %d: element %d is %g, was %g", l, i, v, queries[l].Vectors[i])
				}
			}
		}
		if _, err := c.Blocks(needed.Last(), 0, 1, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestContributorHoldsQueriesAgainstThePlan(t *testing.T) {
	shape := bookShape(3)
	good := mustQueries(t, shape, mustSchedule(t, "0", 3), queriesOf(shape, 2))[0]
	for name, test := range map[string]struct {
		spec   string
		commit bool
		twice  bool
		change func(*Queries)
		want   error
	}{
		"before the commit": {"gather", false, false, func(*Queries) {}, ErrOrder},
		"good":              {"gather", true, false, func(*Queries) {}, nil},
		"twice":             {"gather", true, true, func(*Queries) {}, ErrDuplicate},
		"another session":   {"gather", true, false, func(m *Queries) { m.Session[0]++ }, ErrSession},
		"a local layer":     {"contributors=none;publisher=1-", true, false, func(*Queries) {}, ErrRange},
		"no layer":          {"gather", true, false, func(m *Queries) { m.Layers[0].Layer = 3 }, ErrRange},
		"the last layer":    {"gather", true, false, func(m *Queries) { m.Layers[0].Layer = MaxLayers - 1 }, ErrRange},
		"a short vector":    {"gather", true, false, func(m *Queries) { m.Layers[0].Vectors = m.Layers[0].Vectors[:62] }, ErrRange},
		"many vectors":      {"gather", true, false, func(m *Queries) { m.Layers[0].Vectors = make([]byte, 5*64) }, ErrRange},
		"other heads":       {"gather", true, false, func(m *Queries) { m.Heads = 5 }, ErrRange},
	} {
		c := asked(t, test.spec, test.commit)
		m := good
		m.Layers = slices.Clone(m.Layers)
		test.change(&m)
		if test.twice {
			if err := c.Step(Received{PublisherLink, good}); err != nil {
				t.Fatal(err)
			}
		}
		err := c.Step(Received{PublisherLink, m})
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if over := test.want != nil && test.want != ErrSession; (c.Ready().Failed != nil) != over {
			t.Errorf("%s: failed with %v", name, c.Ready().Failed)
		}
	}
	plain, _ := committed(t, lockstepPlan(t))
	if err := plain.Step(Received{PublisherLink, good}); !errors.Is(err, ErrOrder) {
		t.Errorf("queries that no row is compared with: %v", err)
	}
}

// Queries that never come end the session at its deadline, and say what was missing.
func TestContributorDoesNotWaitForeverForQueries(t *testing.T) {
	c := asked(t, "gather", true)
	at, ok := c.Deadline()
	if !ok || at != 30*time.Second {
		t.Fatalf("the next deadline is %v", at)
	}
	if err := c.Step(Tick{at - 1}); err != nil || c.Ready().Failed != nil {
		t.Fatalf("%v, %v", err, c.Ready().Failed)
	}
	if err := c.Step(Tick{at}); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready().Failed; !errors.Is(err, ErrDeadline) || err.Error() != "the publisher's queries, which rows are chosen by, did not come within 30s" {
		t.Error(err)
	}
}

// The publisher's queries follow its commit, whichever it has first, once, to those who take part.
func TestPublisherSendsItsQueriesAfterTheCommit(t *testing.T) {
	for _, early := range []bool{true, false} {
		cfg := publisherConfig(t, "gather", 3)
		cfg.Rows = RowPolicy{Kind: RowsQuery, Shares: []Share{5000}}
		p, err := NewPublisher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		step := func(e Event) {
			t.Helper()
			if err := p.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		queried := Queried{queriesOf(cfg.Shape, 2)}
		if early {
			step(queried)
		}
		for i := range 2 {
			step(PeerUp{i, machineHello("peer", RoleContributor).Welcome(""), fmt.Sprint("key-", i), "a:1"})
		}
		step(PeerDown{Origin: 2})
		step(Received{0, Ready{bookSession, 4}})
		for _, m := range p.Ready().Messages {
			if _, ok := m.Message.(Queries); ok {
				t.Fatal("queries before the commit")
			}
		}
		step(Received{1, Ready{bookSession, 4}})
		if !early {
			step(queried)
		}
		got := map[int]string{}
		for _, m := range p.Ready().Messages {
			got[m.To] += m.Message.messageType().String() + " "
			if q, ok := m.Message.(Queries); ok && len(q.Layers) != 3 {
				t.Errorf("queries of %d layers", len(q.Layers))
			}
		}
		if want := "plan commit queries "; got[0] != want || got[1] != want || got[2] != "" {
			t.Errorf("early %v: %v", early, got)
		}
		if err := p.Step(queried); !errors.Is(err, ErrOrder) {
			t.Errorf("the second time: %v", err)
		}
	}

	cfg := publisherConfig(t, "gather", 1)
	p, err := NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Step(Queried{queriesOf(cfg.Shape, 1)}); !errors.Is(err, ErrOrder) {
		t.Errorf("queries that nobody asked for: %v", err)
	}
	for name, queries := range map[string][]Query{
		"another model's": queriesOf(bookShape(4), 1),
		"too many":        queriesOf(cfg.Shape, MaxQueryVectors+1),
		"infinite":        slices.Repeat([]Query{{1, slices.Repeat([]float32{1e9}, 32)}}, 3),
		"none":            make([]Query, 3),
	} {
		cfg.Rows = RowPolicy{Kind: RowsQuery, Shares: []Share{5000}}
		p, err := NewPublisher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Step(Queried{queries}); err == nil || p.Ready().Failed == nil {
			t.Errorf("%s: %v, %v", name, err, p.Ready().Failed)
		}
	}
	cfg.Shape = Shape{Layers: slices.Repeat([]LayerShape{{K: 32768, V: 3}}, 3)}
	if _, err := NewPublisher(cfg); !errors.Is(err, ErrPlan) {
		t.Errorf("rows too long for queries: %v", err)
	}
}
