package fedkv

import "fmt"

// Terms are those of a plan that a commit in gather may take back in part, now that everybody's tokens are known: fewer
// of the publisher's sync layers, and types of fewer bytes.
type Terms struct {
	Publisher Schedule
	Wire      Wire
}

// within reports what terms ask for beyond a plan.
func (t Terms) within(shape Shape, s Schedules, wire Wire) error {
	if s.Regime() != Gather {
		return fmt.Errorf("terms can be narrowed in gather only")
	}
	if t.Publisher.Len() != s.Publisher.Len() || t.Wire.Len() != wire.Len() {
		return fmt.Errorf("terms for %d layers, the plan has %d", t.Publisher.Len(), s.Publisher.Len())
	}
	for _, l := range t.Publisher.Layers() {
		if !s.Publisher.Sync(l) {
			return fmt.Errorf("terms with layer %d, which is none of the plan's", l)
		}
		const rows = 1 << 10 // enough for the mean of a centred type to count for little
		k, v, err := shape.Layers[l].BlockSize(t.Wire.At(l), rows)
		if err != nil {
			return fmt.Errorf("layer %d: %w", l, err)
		}
		if planK, planV, err := shape.Layers[l].BlockSize(wire.At(l), rows); err != nil || k+v > planK+planV {
			return fmt.Errorf("types %v at layer %d, larger than the plan's %v", t.Wire.At(l), l, wire.At(l))
		}
	}
	return nil
}

// narrow settles for less than the plan, once everybody's tokens are known.
func (p *Publisher) narrow() {
	if p.cfg.Narrow == nil || len(p.committed.Segments) == 1 {
		return
	}
	tokens := make([]int, len(p.peers))
	for _, s := range p.committed.Segments[:len(p.committed.Segments)-1] {
		tokens[s.Origin] = s.Tokens
	}
	terms, err := p.cfg.Narrow(tokens)
	if err == nil {
		err = terms.within(p.cfg.Shape, p.cfg.Schedules, p.cfg.Wire)
	}
	if err != nil {
		p.fail(Errorf(CodePlan, "%v", err))
		return
	}
	if terms == (Terms{p.cfg.Schedules.Publisher, p.cfg.Wire}) {
		return
	}
	p.narrowed = &terms
	p.cfg.Schedules.Publisher, p.cfg.Wire = terms.Publisher, terms.Wire
	p.book = NewCollector(p.cfg.Session, p.cfg.Shape, p.cfg.Wire) // nothing was expected yet
}

// Terms are the publisher's sync layers and the wire types of the session; they are final at the commit.
func (p *Publisher) Terms() Terms { return Terms{p.cfg.Schedules.Publisher, p.cfg.Wire} }

// narrow takes the commit's terms for the plan's.
func (c *Contributor) narrow(t *Terms) error {
	if t == nil {
		return nil
	}
	if err := t.within(c.cfg.Shape, c.plan.Schedules, c.plan.Wire); err != nil {
		return Errorf(CodePlan, "%v", err)
	}
	c.plan.Schedules.Publisher, c.plan.Wire = t.Publisher, t.Wire
	return checkTypesOffered(c.cfg.Self, c.plan.Wire, c.plan.Schedules.Publisher)
}
