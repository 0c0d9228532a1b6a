package planner

import (
	"fmt"
	"time"

	"fedattn/fedkv"
)

// How much sooner an answer has to be complete, and how much later its first token may come, for Auto to leave gather.
const (
	worthwhile = 0.9
	bearable   = 1.1
)

// Auto chooses for a question what --schedule auto stands for, and says why in one line. It is gather unless another way is
// possible where gather is not, or is at least as good and completes the answer clearly sooner. Only what has a name can be chosen, and
// the wire types are those of that name.
func (q Question) Auto(candidates []Candidate) (chosen Option, why string, err error) {
	var named []Candidate
	for _, c := range candidates {
		if c.Profile {
			named = append(named, c)
		}
	}
	options, err := q.Compare(named)
	if err != nil {
		return chosen, "", err
	}
	gather, best := -1, -1
	for i, o := range options {
		if o.Schedule == "gather" && gather < 0 {
			gather = i
		}
	}
	if gather < 0 {
		return chosen, "", fmt.Errorf("gather is not among the candidates")
	}
	base := options[gather]
	for i, o := range options {
		if o.Impossible != "" || !asGood(o, base) {
			continue
		}
		if base.Impossible == "" && i != gather &&
			(o.Cost.Total.Seconds() > worthwhile*base.Cost.Total.Seconds() || o.Cost.TTFT.Seconds() > bearable*base.Cost.TTFT.Seconds()) {
			continue
		}
		if best < 0 || o.Cost.Total < options[best].Cost.Total {
			best = i
		}
	}
	if best < 0 {
		return chosen, "", fmt.Errorf("nothing is possible here: %s", base.Impossible)
	}
	chosen = options[best]
	says := func(o Option) string {
		return fmt.Sprintf("first token after %s, the answer after %s, %.1f MB", short(o.Cost.TTFT), short(o.Cost.Total), float64(o.Cost.Received)/1e6)
	}
	switch {
	case best == gather:
		why = fmt.Sprintf("gather: %s; nothing as good completes the answer clearly sooner", says(chosen))
	case base.Impossible != "":
		why = fmt.Sprintf("%s: %s; not gather, since %s", chosen.Schedule, says(chosen), base.Impossible)
	default:
		why = fmt.Sprintf("%s: %s; gather: %s", chosen.Schedule, says(chosen), says(base))
	}
	return chosen, why, nil
}

// asGood reports whether an option is not worse than gather. Rows that stay home give gather's answer with exact rows; of what
// nobody measured nothing is known.
func asGood(o, gather Option) bool {
	switch {
	case o.Home != 0 || o.Setting == gather.Setting:
		return true
	case !o.Measured || !gather.Measured:
		return o.Setting.Schedules.Regime() == fedkv.Lockstep && o.Setting.Schedules.Contributors.Count() == o.Setting.Schedules.Contributors.Len() &&
			o.Setting.Schedules.Publisher == gather.Setting.Schedules.Publisher && o.Setting.Wire == gather.Setting.Wire
	}
	return o.KLD <= gather.KLD
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
