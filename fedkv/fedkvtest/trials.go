package fedkvtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Trials are the repeated runs of one row of docs/reliability.md, with the rule of what counts: a run whose fault did not
// happen is invalid, and neither passed nor failed.
type Trials struct {
	Name string // such as T2
	N    int    // runs to make
	Seed uint64 // of the first; the i-th has Seed + i

	made, failures, invalid int
	notes                   []string
}

// NewTrials reads N and the seed from FEDATTN_<name>_N and FEDATTN_SEED; without them they are n and 1.
func NewTrials(t testing.TB, name string, n int) *Trials {
	t.Helper()
	return &Trials{
		Name: name, N: int(number(t, "FEDATTN_"+strings.ToUpper(name)+"_N", uint64(n))),
		Seed: number(t, "FEDATTN_SEED", 1),
	}
}

func number(t testing.TB, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 40)
	if err != nil {
		t.Fatalf("%s=%q is no number", variable, text)
	}
	return n
}

// Run counts one run: what went wrong, or nil, and whether the fault that it is about happened.
func (r *Trials) Run(t testing.TB, what string, fired bool, err error) {
	t.Helper()
	seed := r.Seed + uint64(r.made)
	r.made++
	switch {
	case err != nil:
		r.failures++
		t.Errorf("%s, seed %d, %s: %v", r.Name, seed, what, err)
	case !fired:
		r.invalid++
	}
}

// Note adds something to the line of Report.
func (r *Trials) Note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// Report logs the line that docs/reliability.md quotes, and fails if a tenth of the runs were invalid. The upper bound is
// of the share of failures at 95 %: 3 over the number of valid runs, where none failed.
func (r *Trials) Report(t testing.TB) {
	t.Helper()
	valid := r.made - r.invalid
	bound := "none"
	if r.failures == 0 && valid > 0 {
		bound = fmt.Sprintf("%.2g", 3/float64(valid))
	}
	line := fmt.Sprintf("%s: N %d, seed %d, commit %s, failures %d, invalid %d, upper bound %s at 95 %%",
		r.Name, valid, r.Seed, commit(), r.failures, r.invalid, bound)
	t.Log(strings.Join(append([]string{line}, r.notes...), "; "))
	if r.made < r.N || 10*r.invalid > r.made {
		t.Errorf("INVALID: of %d runs %d were made, and in %d the fault did not happen", r.N, r.made, r.invalid)
	}
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// Resident is the bytes of this process that are in memory after a collection, 0 where the system does not tell.
func Resident() int64 {
	runtime.GC()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
