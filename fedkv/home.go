package fedkv

import "math"

// In home, rows stay where they are. At each of the publisher's sync layers the queries of its tokens go to the
// contributors; each attends with them over its own rows and answers, for every token and head, with the output of its
// attention and the logarithm of its sum of exponentials. Merge makes of these the output of attention over all rows,
// which is what placing the rows in one cache would give.

// ParseHome reads how queries and outputs travel if rows stay home: f16 or q8_0.
func ParseHome(name string) (Type, error) {
	for _, t := range []Type{F16, Q8_0} {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, Errorf(CodePlan, "queries as %q; known are f16, q8_0", name)
}

// Partial is attention over some of the rows: Out is [tokens][heads][head dim of V], LSE is [tokens][heads], the
// logarithm of the sum of exponentials of the scores. Over no rows LSE is -Inf and Out is 0.
type Partial struct{ Out, LSE []float32 }

// Merge makes p, which is over some rows, what it is over these and those of the others. Every one has the same size.
func (p Partial) Merge(others ...Partial) {
	if len(p.LSE) == 0 {
		return
	}
	dim := len(p.Out) / len(p.LSE)
	weights := make([]float64, len(others))
	for head, own := range p.LSE {
		most := float64(own)
		for _, o := range others {
			most = math.Max(most, float64(o.LSE[head]))
		}
		if math.IsInf(most, -1) {
			continue // nobody has rows for it
		}
		weight := math.Exp(float64(own) - most)
		sum := weight
		for i, o := range others {
			weights[i] = math.Exp(float64(o.LSE[head]) - most)
			sum += weights[i]
		}
		out := p.Out[head*dim:][:dim]
		for j := range out {
			v := float64(weight * float64(out[j]))
			for i, o := range others {
				v += float64(weights[i] * float64(o.Out[head*dim+j]))
			}
			out[j] = float32(v / sum)
		}
		p.LSE[head] = float32(most + math.Log(sum))
	}
}

// HomeSizes are the values that one token's queries and one token's outputs have at a layer, and its query heads. ok is
// false if the shape does not tell, and then the layer's attention cannot be shared.
func (s LayerShape) HomeSizes() (queries, outputs, heads int, ok bool) {
	if s.Heads < 1 || s.KVHeads < 1 || s.Heads%s.KVHeads != 0 || s.K%s.KVHeads != 0 || s.V%s.KVHeads != 0 {
		return 0, 0, 0, false
	}
	group := s.Heads / s.KVHeads
	return s.K * group, s.V * group, s.Heads, true
}
