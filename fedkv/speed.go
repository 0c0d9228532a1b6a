package fedkv

import "math"

// Speed is how fast a device evaluates a model, in seconds. Evaluating n > 1 tokens together takes
//
//	Call + n·Token + Pair·Σ over layers and tokens of how many tokens each attends to, itself included
//
// whose last part grows with the square of a prompt's length. One token alone is another matter, since it waits for memory
// rather than for arithmetic: Step + StepPair·Σ over layers of how many tokens it attends to.
type Speed struct {
	Call     float64 // of an evaluation, however many tokens it has
	Token    float64 // of each token
	Pair     float64 // of a token, another that it attends to, and a layer
	Step     float64 // of one token alone
	StepPair float64 // of another that it attends to, and a layer

	// Take and Place are of a byte of f16 rows, whatever the wire makes of it: out of the cache into wire types, and from
	// there into another cache.
	Take, Place float64

	Watts float64 // while it evaluates; 0: not known
}

// Known reports whether anything was measured.
func (s Speed) Known() bool { return s.Call+s.Token+s.Pair > 0 && s.Step+s.StepPair > 0 }

// usualTake and usualPlace are bytes of f16 rows a second where nobody measured them.
const (
	usualTake  = 1e9
	usualPlace = 2e9
)

// Taking is the seconds that it takes to take rows out of a cache, which are so many bytes as f16.
func (s Speed) Taking(bytes float64) float64 {
	if s.Take > 0 {
		return s.Take * bytes
	}
	return bytes / usualTake
}

// Placing is the same of rows that are placed.
func (s Speed) Placing(bytes float64) float64 {
	if s.Place > 0 {
		return s.Place * bytes
	}
	return bytes / usualPlace
}

// Scaled is a device that is so many times as fast at prompts, and at single tokens.
func (s Speed) Scaled(prefill, decode float64) Speed {
	s.Call, s.Token, s.Pair = s.Call/prefill, s.Token/prefill, s.Pair/prefill
	s.Step, s.StepPair = s.Step/decode, s.StepPair/decode
	return s
}

// Rates is a device of which only two figures are known, tokens a second of a prompt of 512 and of an answer, both with
// little before them, as they are published. What they do not tell is as on ordinary processors: attention to a token
// costs what some multiplications with rows of this shape do.
func Rates(prefill, decode float64, shape Shape, size ModelSize) Speed {
	const tokens = 512
	share := shape.attention(size)
	pairs := shape.pairs(0, tokens)
	perToken := 1 / prefill
	s := Speed{Step: 1 / decode}
	if pairs > 0 {
		// a prompt of 512 takes 512/prefill seconds, of which attention has its share
		s.Pair = share * tokens * perToken / pairs
	}
	s.Token = perToken * (1 - share)
	s.Call = math.Max(0, s.Step-s.Token) / 4 // weights are read once, partly while others are multiplied
	s.Token = math.Max(s.Token-s.Call/tokens, s.Token/2)
	s.StepPair = s.Pair
	return s
}

// attention is the share that attention has in the arithmetic of a prompt of 512 tokens: scores and outputs against the
// multiplications with weights.
func (s Shape) attention(size ModelSize) float64 {
	const tokens = 512
	weights, scores := 0.0, 0.0
	for _, layer := range s.Layers {
		q, v := float64(layer.K), float64(layer.V)
		if queries, outputs, _, ok := layer.HomeSizes(); ok {
			q, v = float64(queries), float64(outputs)
		}
		width := float64(size.Width)
		weights += tokens * (width*(q+float64(layer.K)+float64(layer.V)+v) + 3*width*float64(size.FeedForward))
		scores += (q + v) * layer.pairs(0, tokens)
	}
	if weights+scores == 0 {
		return 0
	}
	return scores / (weights + scores)
}

// pairs is how many tokens n tokens behind depth others attend to at a layer, themselves included, all together.
func (s LayerShape) pairs(depth, n int) float64 {
	most := math.MaxInt
	if s.Window > 0 {
		most = s.Window
	}
	free := min(n, max(0, most-depth)) // so many see everything
	return float64(free)*float64(depth) + float64(free)*float64(free+1)/2 + float64(n-free)*float64(most)
}

func (s Shape) pairs(depth, n int) (sum float64) {
	for _, layer := range s.Layers {
		sum += layer.pairs(depth, n)
	}
	return sum
}

// Layer is the seconds that n tokens together take at one of so many layers.
func (s Speed) Layer(shape LayerShape, layers, depth, n int) float64 {
	if n == 1 {
		return s.Step/float64(layers) + s.StepPair*shape.pairs(depth, 1)
	}
	return (s.Call+float64(n)*s.Token)/float64(layers) + s.Pair*shape.pairs(depth, n)
}

// Prefill is the seconds that n tokens behind depth others take, batch of them together.
func (s Speed) Prefill(shape Shape, depth, n, batch int) (seconds float64) {
	for done := 0; done < n; done += batch {
		now := min(batch, n-done)
		for _, layer := range shape.Layers {
			seconds += s.Layer(layer, len(shape.Layers), depth+done, now)
		}
	}
	return seconds
}

// Decode is the seconds that one token behind depth others takes.
func (s Speed) Decode(shape Shape, depth int) float64 { return s.Prefill(shape, depth, 1, 1) }

// SpeedSample is an evaluation that was timed: so many tokens together, behind depth others.
type SpeedSample struct {
	Depth, Tokens int
	Seconds       float64
}

// FitSpeed is the speed that comes nearest to what was measured, relatively, of those whose parts are not negative.
// Samples of one token tell of single tokens, the others of prompts. Of a part that no sample tells of it is 0.
func FitSpeed(shape Shape, samples []SpeedSample) (s Speed) {
	var prompts, singles [][4]float64
	for _, m := range samples {
		pairs := shape.pairs(m.Depth, m.Tokens)
		if m.Seconds <= 0 {
			continue
		}
		if m.Tokens == 1 {
			singles = append(singles, [4]float64{1, pairs, 0, m.Seconds})
			continue
		}
		prompts = append(prompts, [4]float64{float64(m.Tokens), 1, pairs, m.Seconds})
	}
	of := leastSquares(prompts)
	s.Token, s.Call, s.Pair = of[0], of[1], of[2]
	of = leastSquares(singles)
	s.Step, s.StepPair = of[0], of[1]
	return s
}

// leastSquares finds non-negative x so that rows[i][:3]·x is relatively nearest to rows[i][3]: the best of the solutions
// in which some of x are left at 0.
func leastSquares(rows [][4]float64) (best [3]float64) {
	least := math.Inf(1)
	for used := 1; used < 1<<3; used++ {
		var a [3][4]float64 // normal equations of the columns that are used; x is 0 of the others
		for i := range 3 {
			if used>>i&1 == 0 {
				a[i][i] = 1
				continue
			}
			for _, r := range rows {
				w := 1 / (r[3] * r[3])
				for j := range 3 {
					if used>>j&1 == 1 {
						a[i][j] += w * r[i] * r[j]
					}
				}
				a[i][3] += w * r[i] * r[3]
			}
		}
		x, ok := solve(a)
		if !ok || x[0] < 0 || x[1] < 0 || x[2] < 0 {
			continue
		}
		sum := 0.0
		for _, r := range rows {
			off := (r[0]*x[0]+r[1]*x[1]+r[2]*x[2])/r[3] - 1
			sum += off * off
		}
		if sum < least*(1-1e-9) {
			least, best = sum, x
		}
	}
	return best
}

// solve is Gauss's elimination with pivots; false if there is no one solution.
func solve(a [3][4]float64) (x [3]float64, ok bool) {
	var scale [3]float64 // the columns are of very different sizes
	for j := range 3 {
		for i := range 3 {
			scale[j] = max(scale[j], math.Abs(a[i][j]))
		}
		if scale[j] == 0 {
			return x, false
		}
		for i := range 3 {
			a[i][j] /= scale[j]
		}
	}
	for i := range 3 { // and the rows too
		most := max(math.Abs(a[i][0]), math.Abs(a[i][1]), math.Abs(a[i][2]))
		if most == 0 {
			return x, false
		}
		for j := range 4 {
			a[i][j] /= most
		}
	}
	for k := range 3 {
		pivot := k
		for i := k + 1; i < 3; i++ {
			if math.Abs(a[i][k]) > math.Abs(a[pivot][k]) {
				pivot = i
			}
		}
		if math.Abs(a[pivot][k]) < 1e-10 {
			return x, false
		}
		a[k], a[pivot] = a[pivot], a[k]
		for i := k + 1; i < 3; i++ {
			f := a[i][k] / a[k][k]
			for j := k; j < 4; j++ {
				a[i][j] -= f * a[k][j]
			}
		}
	}
	for i := 2; i >= 0; i-- {
		x[i] = a[i][3]
		for j := i + 1; j < 3; j++ {
			x[i] -= a[i][j] * x[j]
		}
		x[i] /= a[i][i]
	}
	for j := range 3 {
		x[j] /= scale[j]
	}
	return x, true
}
