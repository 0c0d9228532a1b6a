package fedkv

import (
	"errors"
	"reflect"
	"slices"
	"testing"
)

// gatherPlan is lockstepPlan's of a session in gather, with large types.
func gatherPlan(t failer) Plan {
	plan := lockstepPlan(t)
	plan.Schedules = sampleSchedules("gather", 3)
	plan.Wire = Uniform(WireTypes{K: Q8_0, V: Q8_0}, 3)
	return plan
}

func terms(spec string, types WireTypes) *Terms {
	return &Terms{sampleSchedules(spec, 3).Publisher, Uniform(types, 3)}
}

// A contributor gives what the commit asks for of what the plan did, and never more.
func TestContributorTakesNarrowerTerms(t *testing.T) {
	small := WireTypes{K: Q8_0, V: Q4_0}
	plan := gatherPlan(t)
	plan.Schedules.Publisher = sampleSchedules("1-2", 3).Publisher
	lockstep := lockstepPlan(t)
	lockstep.Wire = plan.Wire
	for name, test := range map[string]struct {
		plan  Plan
		terms *Terms
		want  error
	}{
		"the plan's":         {plan, nil, nil},
		"fewer layers":       {plan, terms("2", small), nil},
		"smaller types":      {plan, terms("1-2", small), nil},
		"another layer":      {plan, terms("0-1", small), ErrPlan},
		"larger types":       {plan, terms("2", WireTypes{K: F16, V: F16}), ErrPlan},
		"of another model":   {plan, &Terms{sampleSchedules("all", 4).Publisher, Uniform(small, 4)}, ErrPlan},
		"types that are not": {plan, terms("2", WireTypes{K: 0x4f, V: Q4_0}), ErrPlan},
		"in lockstep":        {lockstep, terms("2", small), ErrPlan},
	} {
		cfg := contributorConfig()
		cfg.Shape = Shape{Layers: slices.Repeat([]LayerShape{{K: 32, V: 32}}, 3)}
		cfg.Self.Types = []Type{F16, Q8_0, Q4_0}
		c, err := NewContributor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []Event{Received{PublisherLink, machineHello("asker", RolePublisher)}, Received{PublisherLink, test.plan}, Tokenised{5}} {
			if err := c.Step(e); err != nil {
				t.Fatal(err)
			}
		}
		c.Advance()
		m := lockstepCommit()
		m.Terms = test.terms
		if err := c.Step(Received{PublisherLink, m}); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
			continue
		}
		if test.want != nil || test.terms == nil {
			continue
		}
		work := c.Ready().Start
		if work == nil || work.Wire != test.terms.Wire || !reflect.DeepEqual(work.Sends.Layers(), test.terms.Publisher.Layers()) {
			t.Errorf("%s: the work is %+v", name, work)
		}
	}
}

func TestTermsTravel(t *testing.T) {
	m := lockstepCommit()
	m.Terms = terms("0,2", WireTypes{K: Q8_0, V: Q4_0})
	body, err := encMode.Marshal(wireForm(m))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseMessage(MessageCommit, body); err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("%+v, %v", back, err)
	}
	for what, change := range map[string]func(*commitBody){
		"layers without types": func(b *commitBody) { b.TypesK, b.TypesV = nil, nil },
		"K without V":          func(b *commitBody) { b.TypesV = nil },
		"layers that descend":  func(b *commitBody) { b.Publisher = []int{2, 0} },
		"a layer too many":     func(b *commitBody) { b.Publisher = []int{0, 3} },
	} {
		b := wireForm(m).(commitBody)
		change(&b)
		body, err := encMode.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseMessage(MessageCommit, body); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
