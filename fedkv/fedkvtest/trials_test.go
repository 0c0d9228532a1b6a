package fedkvtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// verdict records what a test would be told.
type verdict struct {
	testing.TB
	logs, errors []string
}

func (v *verdict) Helper()                   {}
func (v *verdict) Log(args ...any)           { v.logs = append(v.logs, fmt.Sprint(args...)) }
func (v *verdict) Errorf(f string, a ...any) { v.errors = append(v.errors, fmt.Sprintf(f, a...)) }

// Runs whose fault did not happen do not count, and too many of them are no pass.
func TestTrials(t *testing.T) {
	count := func(passed, failed, invalid, want int) *verdict {
		v, r := &verdict{}, &Trials{Name: "T0", N: want, Seed: 7}
		for range passed {
			r.Run(v, "a run", true, nil)
		}
		for range failed {
			r.Run(v, "a run", true, errors.New("no"))
		}
		for range invalid {
			r.Run(v, "a run", false, nil)
		}
		r.Report(v)
		return v
	}
	for _, test := range []struct {
		passed, failed, invalid, want int
		says                          string
		ok                            bool
	}{
		{30, 0, 0, 30, "N 30, seed 7, ", true},
		{30, 0, 0, 30, "failures 0, invalid 0, upper bound 0.1 at 95 %", true},
		{30, 0, 3, 33, "N 30, seed 7, ", true},
		{30, 0, 4, 34, "invalid 4", false},
		{30, 1, 0, 31, "failures 1, invalid 0, upper bound none", false},
		{29, 0, 0, 30, "N 29", false}, // one was not made
		{0, 0, 0, 1, "upper bound none", false},
	} {
		v := count(test.passed, test.failed, test.invalid, test.want)
		if len(v.logs) != 1 || !strings.Contains(v.logs[0], test.says) || (len(v.errors) == 0) != test.ok {
			t.Errorf("%+v: %q, %q", test, v.logs, v.errors)
		}
	}
}
