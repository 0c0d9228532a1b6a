package lab

import "fedattn/fedkv"

// Whose hidden states a Fit is about.
const (
	rolePublisher    = "publisher"
	roleContributors = "contributors"
)

// Fit is a recursion of the error, e' = Slope·e + Intercept, for the layers of one kind: the form in which bounds on
// error propagation are stated, with equality in place of ≤. At local layers Slope - 1 is how much of what is there is
// amplified and Intercept what leaving others out adds; a sync layer contracts where Slope is below 1, and Intercept is
// then what rows that deviate, or went through a wire type, put in again. Least squares over all layers of the kind in
// all windows; R2 is the share of the variance of e' that the line explains, null if there is no variance.
type Fit struct {
	Role      string   `json:"role"` // publisher or contributors
	Kind      string   `json:"kind"` // sync or local
	Points    int      `json:"points"`
	Slope     float64  `json:"slope"`
	Intercept float64  `json:"intercept"`
	R2        *float64 `json:"r2"`
}

// leastPoints is how many points a line is fitted to at least: two are always on one.
const leastPoints = 3

// fits is a line for each kind of layer of the schedule that has points enough.
func fits(role string, s fedkv.Schedule, windows []Deviation, at layerStep) []Fit {
	var out []Fit
	for _, kind := range []string{LocalLayer, SyncLayer} {
		var before, after []float64
		for _, w := range windows {
			for l := range s.Len() {
				if kindOf(s, l) != kind {
					continue
				}
				if b, a, ok := at(w, l); ok {
					before, after = append(before, b), append(after, a)
				}
			}
		}
		if f, ok := leastSquares(before, after); ok {
			f.Role, f.Kind = role, kind
			out = append(out, f)
		}
	}
	return out
}

// leastSquares is the least-squares line through points (x, y). Points that are too few or above one another have none.
func leastSquares(x, y []float64) (Fit, bool) {
	n := float64(len(x))
	var meanX, meanY float64
	for i := range x {
		meanX, meanY = meanX+x[i]/n, meanY+y[i]/n
	}
	var xx, xy, yy float64
	for i := range x {
		dx, dy := x[i]-meanX, y[i]-meanY
		xx, xy, yy = xx+dx*dx, xy+dx*dy, yy+dy*dy
	}
	if len(x) < leastPoints || xx == 0 {
		return Fit{}, false
	}
	slope := xy / xx
	return Fit{Points: len(x), Slope: slope, Intercept: meanY - slope*meanX, R2: finite(xy * xy / (xx * yy))}, true
}
