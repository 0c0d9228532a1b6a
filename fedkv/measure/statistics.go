package measure

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Statistics is the text that llama-perplexity --kl-divergence ends with, under the same labels: of perplexity, of KL
// divergence and of the probability p of the token that follows, where Q is the run and base is the base run. All
// windows' tokens count alike, and ± is the standard error over tokens. It is empty if no token follows another.
func Statistics(windows ...Series) string {
	var kl, top, nll, base, delta, square []float64
	for _, s := range windows {
		kl = append(kl, s.KL...)
		top = append(top, ones(s.SameTop)...)
		nll, base = append(nll, s.NLL...), append(base, s.NLLBase...)
		for i := range s.NLL {
			d := math.Exp(-s.NLL[i]) - math.Exp(-s.NLLBase[i])
			delta, square = append(delta, d), append(square, d*d)
		}
	}
	if len(nll) == 0 {
		return ""
	}
	var b strings.Builder
	line := func(label, format string, values ...any) { fmt.Fprintf(&b, label+": "+format+"\n", values...) }

	b.WriteString("====== Perplexity statistics ======\n")
	const value = "%10.6f ± %10.6f"
	logQ, seQ := MeanSE(nll)
	logBase, seBase := MeanSE(base)
	shared := covarianceOfMeans(nll, base)
	q, ofBase := math.Exp(logQ), math.Exp(logBase)
	seRatio := math.Sqrt(math.Max(0, seQ*seQ+seBase*seBase-2*shared))
	line("Mean PPL(Q)                   ", value, q, q*seQ)
	line("Mean PPL(base)                ", value, ofBase, ofBase*seBase)
	correlation := 1.0 // of a run with itself, even if every token is equally likely
	if seQ > 0 && seBase > 0 {
		correlation = shared / (seQ * seBase)
	}
	line("Cor(ln(PPL(Q)), ln(PPL(base)))", "%6.2f%%", 100*correlation)
	line("Mean ln(PPL(Q)/PPL(base))     ", value, logQ-logBase, seRatio)
	ratio := math.Exp(logQ - logBase)
	line("Mean PPL(Q)/PPL(base)         ", value, ratio, ratio*seRatio)
	seDifference := math.Sqrt(math.Max(0, q*q*seQ*seQ+ofBase*ofBase*seBase*seBase-2*q*ofBase*shared))
	line("Mean PPL(Q)-PPL(base)         ", value, q-ofBase, seDifference)

	b.WriteString("\n====== KL divergence statistics ======\n")
	mean, se := MeanSE(kl)
	line("Mean    KLD", value, mean, se)
	slices.Sort(kl)
	line("Maximum KLD", "%10.6f", kl[len(kl)-1])
	for _, at := range []quantileLine{
		{"99.9%%  ", 0.999}, {"99.0%%  ", 0.99}, {"95.0%%  ", 0.95}, {"90.0%%  ", 0.9}, {"Median ", 0.5},
		{"10.0%%  ", 0.1}, {" 5.0%%  ", 0.05}, {" 1.0%%  ", 0.01}, {" 0.1%%  ", 0.001},
	} {
		line(at.label+" KLD", "%10.6f", quantile(kl, at.share))
	}
	line("Minimum KLD", "%10.6f", kl[0])

	b.WriteString("\n====== Token probability statistics ======\n")
	mean, se = MeanSE(delta)
	line("Mean    Δp", "%6.3f ± %5.3f %%", 100*mean, 100*se)
	slices.Sort(delta)
	line("Maximum Δp", "%6.3f%%", 100*delta[len(delta)-1])
	for _, at := range []quantileLine{
		{"99.9%%  ", 0.999}, {"99.0%%  ", 0.99}, {"95.0%%  ", 0.95}, {"90.0%%  ", 0.9}, {"75.0%%  ", 0.75}, {"Median ", 0.5},
		{"25.0%%  ", 0.25}, {"10.0%%  ", 0.1}, {" 5.0%%  ", 0.05}, {" 1.0%%  ", 0.01}, {" 0.1%%  ", 0.001},
	} {
		line(at.label+" Δp", "%6.3f%%", 100*quantile(delta, at.share))
	}
	line("Minimum Δp", "%6.3f%%", 100*delta[0])
	mean, se = MeanSE(square)
	rms, seRMS := math.Sqrt(mean), 0.0
	if rms > 0 {
		seRMS = se / (2 * rms)
	}
	line("RMS Δp    ", "%6.3f ± %5.3f %%", 100*rms, 100*seRMS)
	mean, se = MeanSE(top)
	line("Same top p", "%6.3f ± %5.3f %%", 100*mean, 100*se)
	return b.String()
}

// quantileLine is a line for one quantile; its label is a format.
type quantileLine struct {
	label string
	share float64
}

// covarianceOfMeans is the covariance of the means of two equally long lists of paired values.
func covarianceOfMeans(a, b []float64) float64 {
	n := float64(len(a))
	if n < 2 {
		return 0
	}
	meanA, _ := MeanSE(a)
	meanB, _ := MeanSE(b)
	sum := 0.0
	for i := range a {
		sum += float64((a[i] - meanA) * (b[i] - meanB))
	}
	return sum / (n - 1) / n
}
